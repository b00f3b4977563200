"""Ways up and skips of small networks: what is found by tracing, and what is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saccade.graph.decoder import after_encoder, decoder, decoder_units, no_decoder_reason, no_skip_reason, skips
from saccade.graph.positions import select
from saccade.specs import Spec
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)


def double(inputs, outputs):
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
              nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]  # fmt: skip
    return nn.Sequential(*layers)


class Double(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = double(inputs, outputs)

    def forward(self, x):
        return self.layers(x)


class UNet(nn.Module):
    """A U-Net of four levels; ``join`` combines the upsampled map and the skip."""

    def __init__(self, join=lambda u, s: torch.cat([s, u], 1), joined=2, classes=4, block=Double):
        super().__init__()
        widths = (8, 12, 16, 24)
        self.join, self.pool = join, nn.MaxPool2d(2)
        self.down = nn.ModuleList(block(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
        self.lift = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 2, 2) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(block(joined * o, o) for o in widths[-2::-1])
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        skip_maps = []
        for block in self.down:
            x = block(self.pool(x) if skip_maps else x)
            skip_maps.append(x)
        for lift, up, s in zip(self.lift, self.up, skip_maps[-2::-1], strict=True):
            x = up(self.join(lift(x), s))
        return self.head(x)


class Concat(nn.Module):
    def forward(self, *maps):
        return torch.cat(maps, dim=-3)


class ConcatenatingUNet(UNet):
    def __init__(self):
        super().__init__()
        self.joiner = nn.ModuleList(Concat() for _ in range(3))

    def forward(self, x):
        joiners = iter(self.joiner)

        def join(u, s):
            return next(joiners)(u, s)

        self.join = join
        return super().forward(x)


class Residual(nn.Module):
    """A block that reads its input twice."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.branch, self.shortcut = double(inputs, outputs), nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.branch(x) + self.shortcut(x)


class Inside(Residual):
    """The same, which concatenates itself."""

    def forward(self, maps):
        return super().forward(torch.cat(maps, 1))


def structure(host, size=SIZE):
    return inspect_unplugged(host.eval(), size).structure


def shapes(host, paths):
    return [tuple(host.value(path).shape[1:]) for path in paths]


def test_a_plain_unet():
    found = structure(UNet())
    assert found.stages == ["down.0", "down.1", "down.2", "down.3"]
    assert decoder(found) == ["up.0", "up.1", "up.2"]
    assert decoder_units(found) == ["up.0", "up.1", "up.2"]
    assert [(skip.path, skip.is_input, skip.channels) for skip in skips(found)] == [
        ("up.0", True, (0, 16)), ("up.1", True, (0, 12)), ("up.2", True, (0, 8)),
    ]  # fmt: skip


def test_blocks_that_are_containers_hold_the_plug_in_their_first_layer():
    found = structure(UNet(block=double))
    assert found.stages == ["down.0.5", "down.1.5", "down.2.5", "down.3.5"]
    assert decoder(found) == ["up.0", "up.1", "up.2"]
    assert [skip.path for skip in skips(found)] == ["up.0.0", "up.1.0", "up.2.0"]


@pytest.mark.parametrize(
    ("join", "channels"),
    [
        (lambda u, s: torch.cat([u, s], 1), (16, 32)),
        (lambda u, s: torch.cat(dim=1, tensors=(s, u)), (0, 16)),
        (lambda u, s: torch.concat([u, s], dim=-3), (16, 32)),
        (lambda u, s: torch.cat([u[:, :4], s, u[:, 4:]], 1), (4, 20)),
    ],
)
def test_the_order_of_the_parts(join, channels):
    assert skips(structure(UNet(join)))[0].channels == channels


@pytest.mark.parametrize(
    "join",
    [
        lambda u, s: torch.cat([s[:, ::2], u, s[:, 1::2]], 1),
        lambda u, s: torch.cat([s, s], 1) + torch.cat([u, u], 1),
        lambda u, s: torch.cat([u, u], 1),
    ],
)
def test_what_is_no_skip(join):
    assert skips(structure(UNet(join))) == []


def test_a_sum_with_a_map_from_the_way_down_counts_as_one():
    found = skips(structure(UNet(lambda u, s: torch.cat([u + s, u], 1))))
    assert [skip.channels for skip in found] == [(0, 16), (0, 12), (0, 8)]


def test_a_network_that_adds_says_so():
    found = structure(UNet(lambda u, s: u + s, joined=1))
    assert len(decoder(found)) == 3
    assert skips(found) == []
    assert "it concatenates no upsampled map with one from the way down" in no_skip_reason(found)


def test_a_module_that_concatenates_is_the_site():
    assert [(skip.path, skip.is_input, skip.channels) for skip in skips(structure(ConcatenatingUNet()))] == [
        ("joiner.0", False, (16, 32)), ("joiner.1", False, (12, 24)), ("joiner.2", False, (8, 16)),
    ]  # fmt: skip


def test_a_block_that_reads_twice_is_the_site_and_one_that_concatenates_itself_is_none():
    host = UNet()
    host.up = nn.ModuleList(Residual(2 * o, o) for o in (16, 12, 8))
    assert [(skip.path, skip.is_input) for skip in skips(structure(host))] == [(f"up.{n}", True) for n in range(3)]
    host.up = nn.ModuleList(Inside(2 * o, o) for o in (16, 12, 8))
    host.join = lambda u, s: (u, s)
    found = structure(host)
    assert skips(found) == []
    assert "no module alone returns or reads what up.0, up.1, up.2 concatenates" in no_skip_reason(found)


def test_a_shared_block_has_one_split():
    host = UNet(lambda u, s: torch.cat([F.pad(u, (0, 0, 0, 0, 0, 24 - u.shape[1])), s], 1))
    host.up = nn.ModuleList([double(40, 16), double(36, 12), double(32, 8)])
    assert [skip.channels for skip in skips(structure(host))] == [(24, 40), (24, 36), (24, 32)]


@pytest.mark.parametrize("size", [(3, 64, 48), (3, 72, 104)])
def test_the_way_up_ends_where_a_second_way_down_begins(size):
    class Pyramid(UNet):
        def __init__(self):
            super().__init__()
            self.again = nn.ModuleList([nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1)])

        def forward(self, x):
            self.head = nn.Identity()
            fine = super().forward(x)
            middle = self.again[0](fine)
            return fine, middle, self.again[1](middle)

    found = structure(Pyramid(), size)
    assert decoder(found) == ["up.0", "up.1", "up.2"]


def test_a_head_of_as_many_classes_as_channels_is_no_level():
    assert decoder(structure(UNet(classes=8))) == ["up.0", "up.1", "up.2"]


def test_a_classifier_has_neither():
    found = structure(nn.Sequential(double(3, 8), nn.MaxPool2d(2), double(8, 16), nn.AdaptiveAvgPool2d(1)))
    assert (decoder(found), skips(found)) == ([], [])
    assert "it has no way up: no map computed from its coarsest stage" in no_decoder_reason(found)
    assert "it has no way up" in no_skip_reason(found)
    assert all(path not in after_encoder(found) for path in found.stages)


def test_a_module_that_upsamples_by_pixel_shuffle_begins_no_level():
    class Up(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.lift = nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))
            self.block = Double(2 * outputs, outputs)

        def forward(self, x, s):
            return self.block(torch.cat([s, self.lift(x)], 1))

    class Shuffled(UNet):
        def __init__(self):
            super().__init__()
            self.up = nn.ModuleList(map(Up, (24, 16, 12), (16, 12, 8)))

        def forward(self, x):
            skip_maps = []
            for block in self.down:
                x = block(self.pool(x) if skip_maps else x)
                skip_maps.append(x)
            for up, s in zip(self.up, skip_maps[-2::-1], strict=True):
                x = up(x, s)
            return self.head(x)

    assert decoder(structure(Shuffled())) == ["up.0", "up.1", "up.2"]


class Vgg(nn.Module):
    """An encoder without units, which ends in a pooled map, and a decoder of blocks with shortcuts."""

    def __init__(self):
        super().__init__()
        self.fine, self.middle = double(3, 8), double(8, 12)
        self.pool_fine, self.pool_middle = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.up = nn.ModuleList([Residual(24, 12), Residual(20, 8)])
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        fine = self.fine(x)
        middle = self.middle(self.pool_fine(fine))
        x = self.pool_middle(middle)
        for up, s in zip(self.up, (middle, fine), strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), s], 1))
        return self.head(x)


def test_blocks_of_a_decoder_are_no_stages_of_an_encoder_without_units():
    found = structure(Vgg())
    assert found.units == ["up.0", "up.1"]
    assert found.stages == ["fine.5", "middle.5"]
    assert decoder(found) == ["up.0", "up.1"]
    assert [skip.channels for skip in skips(found)] == [(12, 24), (12, 20)]


def test_modules_of_a_coarser_way_down_are_of_no_level():
    class Again(UNet):
        def __init__(self):
            super().__init__()
            self.again = nn.ModuleList(Double(c, o) for c, o in ((8, 12), (12, 16), (16, 24), (24, 32)))

        def forward(self, x):
            self.head = nn.Identity()
            x = super().forward(x)
            for block in self.again:
                x = block(self.pool(x))
            return x

    inspection = inspect_unplugged(Again().eval(), SIZE)
    spec = Spec(title="Somebody's", kind="gate", evidence="reading")
    found = {n: [site.path for site in select(inspection, f"block in decoder[{n}]", spec).sites] for n in range(3)}
    assert found == {0: ["up.0", "again.1"], 1: ["up.1", "again.0"], 2: ["up.2"]}
