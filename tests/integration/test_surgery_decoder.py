"""Attention in the decoders of segmentation networks: where it goes, and what it computes there."""

import copy
import logging

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import saccade
from saccade import UserError
from saccade.contract.randomize import randomize
from saccade.graph.positions import select
from saccade.specs import Spec
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 32)
SPEC = Spec(title="Somebody's", kind="gate", evidence="reading")


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")


def network(architecture="Unet", encoder="tu-resnet18", **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = getattr(smp, architecture)(encoder, encoder_weights=None, classes=3, **options)
        return randomize(built, 1).eval()


def images(batch=2):
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(2))


def at(inspection, where):
    return [site.path for site in select(inspection, where, SPEC).sites]


class Plain(nn.Module):
    """A U-Net with transposed convolutions, as in the paper; ``skip_first`` is the order of the concatenation."""

    def __init__(self, skip_first):
        super().__init__()
        self.skip_first = skip_first
        self.fine, self.middle, self.coarse = self._block(3, 8), self._block(8, 16), self._block(16, 24)
        self.lift_middle, self.lift_fine = nn.ConvTranspose2d(24, 12, 2, 2), nn.ConvTranspose2d(16, 6, 2, 2)
        self.join_middle, self.join_fine = self._block(28, 16), self._block(14, 8)
        self.head = nn.Conv2d(8, 3, 1)

    @staticmethod
    def _block(inputs, outputs):
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)]
        return nn.Sequential(*layers, nn.ReLU())

    def _join(self, u, s):
        return torch.cat([s, u] if self.skip_first else [u, s], 1)

    def forward(self, x):
        fine = self.fine(x)
        middle = self.middle(nn.functional.max_pool2d(fine, 2))
        x = self.lift_middle(self.coarse(nn.functional.max_pool2d(middle, 2)))
        x = self.join_middle(self._join(x, middle))
        return self.head(self.join_fine(self._join(self.lift_fine(x), fine)))


def plain(skip_first=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain(skip_first).eval()


HOSTS = {
    "Unet": (network, 4, (512, 768)),
    "UnetPlusPlus": (lambda: network("UnetPlusPlus"), 10, (512, 768)),
    "skip first": (lambda: plain(True), 2, (0, 16)),
    "skip last": (lambda: plain(False), 2, (12, 28)),
}


@pytest.mark.parametrize(
    ("architecture", "encoder", "levels", "n_skips"),
    [
        ("Unet", "tu-resnet18", 5, 4),
        ("Unet", "resnet18", 5, 4),
        ("Unet", "tu-mobilenetv2_100", 5, 4),
        ("UnetPlusPlus", "tu-resnet18", 5, 10),
        ("MAnet", "tu-resnet18", 5, 4),
        ("DeepLabV3Plus", "tu-resnet18", 1, 1),
        ("FPN", "tu-resnet18", 3, 0),
        ("Linknet", "tu-resnet18", 5, 0),
    ],
)
def test_networks_of_segmentation_models_pytorch(architecture, encoder, levels, n_skips):
    inspection = inspect_unplugged(network(architecture, encoder), SIZE)
    decoder = [inspection.sites[path] for path in at(inspection, "decoder")]
    sizes = [site.size for site in decoder]
    assert all(path.startswith("decoder") for path in at(inspection, "decoder"))
    assert (len(sizes), sorted(set(sizes))) == (levels, sizes)
    if levels == 5:
        assert sizes == [(4, 2), (8, 4), (16, 8), (32, 16), (64, 32)]
        assert inspection.sites[at(inspection, "decoder[-4]")[0]].size == (8, 4)
    stages = at(inspection, "stage")
    assert all(path.startswith("encoder") for path in stages) or architecture == "MAnet"
    assert len(stages) >= 3
    if n_skips:
        assert len(at(inspection, "skip")) == n_skips
        return
    with pytest.raises(UserError, match="no site at 'skip': it concatenates no upsampled map with one from the way"):
        at(inspection, "skip")
    with pytest.raises(UserError, match="networks that add the two"):
        saccade.plug(network(architecture, encoder), "skip_gate", input=SIZE)


def test_a_classifier_has_no_decoder():
    host = timm.create_model("resnet10t")
    for where in ("decoder", "block in decoder", "residual in encoder"):
        with pytest.raises(UserError, match="it has no way up: no map computed from its coarsest stage, layer4 of 2×1"):
            saccade.plug(host, "se", where=where, input=SIZE)
    with pytest.raises(UserError, match="no site at 'skip': it has no way up"):
        saccade.plug(host, "skip_gate", input=SIZE)


def test_halves_and_levels():
    inspection = inspect_unplugged(network(), SIZE)
    blocks = [f"decoder.blocks.{n}" for n in range(5)]
    expected = {
        "block in decoder": blocks,
        "block in decoder[:2]": blocks[:2],
        "block in decoder[-4]": blocks[1:2],
        "block in decoder[1:][-1]": blocks[-1:],
        "conv3x3 in decoder": [f"{block}.conv2.0" for block in blocks],
        "*.conv1.0 in decoder[1:3]": [f"{block}.conv1.0" for block in blocks[1:3]],
        "*.conv1 in encoder": ["encoder.model.conv1"],
        "stage in encoder": at(inspection, "stage"),
    }
    found = {where: at(inspection, where) for where in expected}
    found["*.conv1 in encoder"] = found["*.conv1 in encoder"][:1]  # those of the blocks follow
    assert found == expected
    both = at(inspection, ["stage", "decoder"])
    assert both == at(inspection, "stage") + at(inspection, "decoder")
    assert at(inspection, "residual in encoder") == at(inspection, "residual")
    for where, message in {
        "residual in decoder": "has no site at 'residual' in its decoder. Its sites there: decoder.center",
        "decoder in encoder": "has no site at 'decoder' in its encoder",
        "block in decoder[7]": "leaves none of 5 sites",
    }.items():
        with pytest.raises(UserError, match=message.replace("[", r"\[")):
            at(inspection, where)


@pytest.mark.parametrize("name", HOSTS)
def test_a_skip_gate_changes_the_skip_alone(name):
    make, n_skips, channels = HOSTS[name]
    host, x = make(), images()
    bare = copy.deepcopy(host)
    saccade.plug(host, "skip_gate", start="paper", input=SIZE)
    rows = saccade.plugs(host)
    assert (len(rows), rows[0].module.options["skip"]) == (n_skips, channels)
    seen = []
    handles = [row.module.register_forward_hook(lambda _plug, args, y: seen.append((args[0], y))) for row in rows]
    with saccade.record(host) as recorded:
        y = host(x)
    for handle in handles:
        handle.remove()
    assert len(seen) == n_skips
    for before, after in seen:
        row = next(r for r in rows if r.channels == before.shape[1] and r.size == tuple(before.shape[2:]))
        start, stop = row.module.options["skip"]
        gate = recorded[row.site]
        is_skip = torch.zeros(before.shape[1], dtype=torch.bool)
        is_skip[start:stop] = True
        assert torch.equal(after[:, ~is_skip], before[:, ~is_skip])
        assert not torch.equal(after[:, is_skip], before[:, is_skip])
        assert (gate[:, ~is_skip] == 1).all()
        assert ((gate[:, is_skip] > 0) & (gate[:, is_skip] < 1)).all()
    assert not torch.equal(y, bare(x))
    y.square().mean().backward()
    assert [n for n, p in host.named_parameters() if "saccade" in n and not p.grad.any()] == []
    assert torch.equal(saccade.unplug(host)(x), bare(x))


@pytest.mark.parametrize("name", HOSTS)
def test_the_gates_channels_are_those_of_the_way_down(name):
    """The channels called the skip's are those that change with the encoder's maps while the coarsest map is fixed."""
    make, _, _ = HOSTS[name]
    host = saccade.plug(make(), "skip_gate", input=SIZE)
    row, coarsest, seen = saccade.plugs(host)[0], {}, []
    end = host.get_submodule("encoder" if hasattr(host, "encoder") else "coarse")

    def fix(_module, _args, output):
        if isinstance(output, list):  # the last of the encoder's maps
            return [*output[:-1], coarsest.setdefault("map", output[-1])]
        return coarsest.setdefault("map", output)

    end.register_forward_hook(fix)
    row.module.register_forward_hook(lambda _plug, args, _y: seen.append(args[0].detach()))
    for n in range(2):
        host(images() + n)
    changed = (seen[0] != seen[1]).flatten(2).any(2).any(0)
    start, stop = row.module.options["skip"]
    assert changed.nonzero()[[0, -1], 0].tolist() == [start, stop - 1]
    assert not changed[:start].any()
    assert not changed[stop:].any()


def test_neutral_saved_and_copied(tmp_path):
    host, x = network(), images()
    before = host(x)
    saccade.plug(host, "skip_gate", input=SIZE)
    assert torch.equal(host(x), before)
    for row in saccade.plugs(host):
        row.module.a.data.fill_(0.5)
    changed = host(x)
    assert not torch.equal(changed, before)
    assert torch.equal(copy.deepcopy(host)(x), changed)
    assert torch.equal(host.segmentation_head(host.decoder(host.encoder(x))), changed)  # parts run apart
    saccade.save(host, tmp_path / "net", input=SIZE)
    loaded = saccade.load(tmp_path / "net", host=network())
    assert torch.equal(loaded(x), changed)


def test_a_skip_gate_elsewhere_is_refused():
    host = network()
    with pytest.raises(
        UserError, match=r"at encoder\.model\.layer1: skip_gate needs a concatenation of upsampled maps"
    ):
        saccade.plug(host, "skip_gate", where="stage", input=SIZE)
    with pytest.raises(UserError, match=r"skip=\(0, 256\), but the skip has the channels \(512, 768\)"):
        saccade.plug(host, "skip_gate", skip=(0, 256), input=SIZE)
    saccade.plug(host, "skip_gate", where="encoder.model.layer1", skip=(0, 32), input=SIZE)
    assert [row.module.mechanism.stop for row in saccade.plugs(host)] == [32]


@pytest.mark.parametrize("architecture", ["Unet", "UnetPlusPlus"])
def test_scse_is_where_segmentation_models_pytorch_has_it(architecture):
    theirs = network(architecture, "resnet18", decoder_attention_type="scse")
    ours = network(architecture, "resnet18")
    ours.load_state_dict(theirs.state_dict(), strict=False)
    saccade.plug(ours, "scse", start="paper", input=SIZE)
    used = {"squeeze": "cSE.1", "excite": "cSE.3", "place": "sSE.0"}
    rows = saccade.plugs(ours)
    assert {row.position for row in rows} == {"skip, block in decoder"}
    assert len(rows) == (9 if architecture == "Unet" else 21)
    ours, theirs, x = ours.double(), theirs.double(), images().double()
    assert not torch.allclose(ours(x), theirs(x))
    for row in rows:
        block = row.site.removesuffix(".conv1.0")
        attention = theirs.get_submodule(f"{block}.attention{1 if row.site.endswith('conv1.0') else 2}.attention")
        state = attention.state_dict()
        values = {
            key: state[f"{used[key.split('.')[0]]}.{key.split('.')[1]}"].reshape(value.shape)
            for key, value in row.module.mechanism.state_dict().items()
        }
        row.module.mechanism.load_state_dict(values)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_self_attention_at_an_eighth_and_in_place_of_convolutions():
    host, x = network(), images()
    before = host(x)
    saccade.plug(host, "self_attention", input=SIZE, spectral_norm=True)
    assert [(row.site, row.size, row.position) for row in saccade.plugs(host)] == [
        ("decoder.blocks.1", (8, 4), "decoder[-4]")
    ]
    assert torch.equal(host(x), before)
    saccade.unplug(host)
    saccade.replace(host, "self_attention_conv", input=SIZE)
    rows = saccade.replacements(host)
    assert [(row.convolution, row.size) for row in rows] == [
        ("decoder.blocks.0.conv2.0", (4, 2)), ("decoder.blocks.1.conv2.0", (8, 4))
    ]  # fmt: skip
    host(x).square().mean().backward()
    assert all(row.module.gamma.grad for row in rows)
    with pytest.raises(UserError, match="stride and groups must be 1, got 2 and 1"):
        saccade.replace(network(), "self_attention_conv", where="encoder.model.conv1", input=SIZE)
    saccade.unplug(host)
    saccade.replace(host, "self_attention_conv", where="decoder.blocks.0.conv1.0", input=SIZE)
    assert isinstance(saccade.replacements(host)[0].module.shortcut, nn.Conv2d)  # 768 channels to 256
    assert not torch.equal(host(x), before)
    assert torch.equal(saccade.unplug(host)(x), before)


def test_an_encoder_without_shortcuts():
    inspection = inspect_unplugged(network("UnetPlusPlus", "vgg11", encoder_depth=3, decoder_channels=(16, 8, 8)), SIZE)
    assert at(inspection, "stage") == [f"encoder.features.{n}" for n in (1, 4, 9, 14)]
    found = at(inspection, "conv3x3 in encoder")
    assert found == [f"encoder.features.{n}" for n in (0, 3, 6, 8, 11, 13)]
    assert all(path.startswith("decoder") for path in at(inspection, "conv3x3 in decoder"))


def test_parallel_resolutions_are_no_way_up():
    host = timm.create_model("hrnet_w18_small")
    assert at(inspect_unplugged(host.eval(), (3, 64, 64)), "stage") == [f"incre_modules.{n}" for n in range(4)]


class UNetOf(Plain):
    """A U-Net by its class name, which joins maps by ``join``."""

    def __init__(self, join):
        super().__init__(True)
        self._join = join
        if join(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).shape[1] == 1:
            self.lift_middle, self.lift_fine = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
            self.join_middle, self.join_fine = self._block(16, 16), self._block(8, 8)


def test_positions_of_the_paper_that_a_unet_lacks():
    concatenating, adding = UNetOf(lambda u, s: torch.cat([s, u], 1)), UNetOf(lambda u, s: u + s)
    saccade.plug(concatenating, "self_attention", input=SIZE)
    assert [(row.position, row.size) for row in saccade.plugs(concatenating)] == [("decoder[0]", (32, 16))]
    saccade.plug(adding, "scse", input=SIZE, rd_ratio=1 / 8)
    assert {row.position for row in saccade.plugs(adding)} == {"stage"}
    with pytest.raises(UserError, match="networks that add the two"):
        saccade.plug(UNetOf(lambda u, s: u + s), "skip_gate", input=SIZE)
