"""What is a site, what is none, what carries it, where the positions are, and that looking changes nothing."""

import copy
import logging
import random

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet50

from saccade import UserError
from saccade.graph.positions import select
from saccade.specs import Spec
from saccade.surgery import plug, plugs, sites
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)
SPEC = Spec(title="Somebody's", kind="gate", evidence="reading", position={"default": "residual"})


def _at(host, where, input=SIZE):
    return [site.path for site in select(inspect_unplugged(host, input), where, SPEC).sites]


class Strange(nn.Module):
    """Maps that are sites among tensors that are none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.last = nn.LayerNorm(12)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(12, 12, 1)
        self.fixed = nn.AdaptiveAvgPool2d(7)
        self.attention = nn.Softmax(-1)
        self.pair = Pair()
        self.wide = nn.Conv2d(12, 20, 1)
        self.shared = nn.ReLU()
        self.twice = nn.Conv2d(12, 12, 1)

    def forward(self, x):
        x = self.stem(x)
        self.last(x.permute(0, 2, 3, 1))  # channels last
        x = x * self.squeeze(self.pool(x)).sigmoid()  # pooled vectors
        self.fixed(x)  # 7×7 whatever the picture
        tokens = x.flatten(2)
        self.attention(tokens.transpose(1, 2) @ tokens)[:, None]
        x, _ = self.pair(x)
        x = self.shared(self.twice(self.twice(x)))
        return self.shared(self.wide(x)).mean((2, 3))  # two channel counts


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x):
        return self.conv(x), x


def test_a_site_returns_one_map_that_follows_the_picture():
    found = {site.path: site for site in sites(Strange(), SIZE)}
    assert list(found) == ["stem", "pair.conv", "twice", "wide"]
    assert (found["stem"].channels, found["stem"].size, found["stem"].calls) == (12, (32, 24), 1)
    assert found["twice"].calls == 2
    assert found["wide"].channels == 20
    # The same picture, square: the matrix of a global attention is still none, for its size is not the picture's.
    assert [site.path for site in sites(Strange(), (3, 64, 64))] == list(found)


class Matrix(nn.Module):
    """Attention of every place of a map to every other, and a map made by it."""

    def __init__(self):
        super().__init__()
        self.conv, self.soft = nn.Conv2d(3, 8, 32, stride=32), nn.Softmax(-1)
        self.out = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.conv(x)
        heads = x.flatten(2).unflatten(1, (2, 4))
        attention = self.soft((heads.transpose(2, 3) @ heads) * 4**-0.5)
        return self.out((heads @ attention).reshape(x.shape))


@pytest.mark.parametrize("input", [None, (3, 32, 32), (3, 64, 32)])
def test_an_attention_matrix_is_no_map(input):
    assert [site.path for site in sites(Matrix(), input)] == ["conv", "out"]


def test_pictures_written_into_a_batch_are_still_pictures():
    class Batched(nn.Module):
        """Pads its pictures as detectors do."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, pictures):
            batch = pictures[0].new_zeros(len(pictures), 3, 32, 32)
            for n, picture in enumerate(pictures):
                batch[n, :, : picture.shape[1], : picture.shape[2]].copy_(picture)
            return self.conv(batch)

    assert [site.path for site in sites(Batched(), [torch.randn(3, 30, 28), torch.randn(3, 31, 32)])] == ["conv"]


def test_by_default_the_picture_is_the_stated_one_made_narrow():
    host = timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), in_chans=1)
    seen = inspect_unplugged(host)
    assert host.pretrained_cfg["input_size"] == (3, 224, 224)
    assert seen.arguments[0][0].shape == (1, 1, 224, 192)
    assert seen.sites["layer4"].size == (7, 6)


def test_a_host_of_one_size_gets_it_square():
    class Square(nn.Sequential):
        def forward(self, x):
            if x.shape[2:] != (224, 224):
                raise ValueError("224×224 only")
            return super().forward(x)

    seen = inspect_unplugged(Square(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU()))
    assert seen.arguments[0][0].shape == (1, 3, 224, 224)
    assert list(seen.sites) == ["0", "1"]


class Named(nn.Module):
    """Takes its pictures by name, or as a list."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, pixels, scale=1.0):
        if isinstance(pixels, list):
            pixels = torch.stack(pixels)
        return {"map": self.conv(pixels) * scale}


@pytest.mark.parametrize(
    "input",
    [
        torch.randn(2, 3, 20, 14),
        (torch.randn(2, 3, 20, 14), 0.5),
        {"pixels": torch.randn(2, 3, 20, 14)},
        [torch.randn(3, 20, 14), torch.randn(3, 20, 14)],
        (3, 20, 14),
        [3, 20, 14],
    ],
    ids=["tensor", "tuple", "dict", "list", "size", "size as a list"],
)
def test_inputs(input):
    (site,) = sites(Named(), input)
    assert (site.path, site.size) == ("conv", (18, 12))
    assert len(plugs(plug(Named(), "eca", where="conv", input=input))) == 1


def test_a_host_that_does_not_run_asks_for_an_input():
    host = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"Sequential does not run on an image of 3×224×224: RuntimeError.*input="):
        sites(host)
    with pytest.raises(UserError, match="does not run on the given input"):
        sites(host, (3, 9, 9))
    with pytest.raises(UserError, match=r"\(C, H, W\), got \(3, 9\)"):
        sites(host, (3, 9))
    assert [site.path for site in sites(host, (3, 3, 3))] == ["0"]


def test_lazy_and_compiled_hosts_are_refused():
    with pytest.raises(UserError, match=r"'0.weight' has no shape yet"):
        sites(nn.Sequential(nn.LazyConv2d(4, 3)), SIZE)
    compiled = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled._orig_mod = compiled[0]  # what torch.compile's wrapper has; making one takes seconds
    with pytest.raises(UserError, match=r"Sequential is compiled.*plug the network first"):
        sites(compiled, SIZE)
    with pytest.raises(UserError, match=r"the module 'net.0' is compiled"):
        sites(nn.ModuleDict({"net": nn.Sequential(compiled)}), SIZE)


class Restless(nn.Module):
    """Has what a look could disturb: modes of several kinds, statistics, random numbers; fails if told to."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("none", None)
        self.fails = False

    def forward(self, x):
        self.seen += 1
        self.seen = self.seen + 1
        x = self.drop(self.norm(self.conv(x))) + torch.rand(1) + random.random()
        if self.fails:
            raise KeyError("on purpose")
        return x


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("look", [sites, lambda h, s: plug(h, "eca", where="norm", input=s)], ids=["sites", "plug"])
def test_looking_leaves_no_trace(fails, look):
    host = Restless()
    host.fails = fails
    host.norm.eval()
    modes = {name: m.training for name, m in host.named_modules()}
    buffers = {name: (id(b), b.clone()) for name, b in host.named_buffers()}
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in host.modules()]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    with torch.enable_grad():
        if fails:
            with pytest.raises(UserError, match="on purpose"):
                look(host, SIZE)
        else:
            look(host, SIZE)
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(host.get_submodule(name).training == mode for name, mode in modes.items())
    assert {name: (id(b), float(b.sum())) for name, b in host.named_buffers() if "saccade" not in name} == {
        name: (key, float(b.sum())) for name, (key, b) in buffers.items()
    }
    assert all(p.grad is None for p in host.parameters())
    if fails or look is sites:
        assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in host.modules()] == hooks


POSITIONS = {
    "torchvision resnet": (4, 5, 5),
    "torchvision mobilenet_v2": (2, 3, 3),
    "torchvision densenet": (3, 6, 0),
    "torchvision convnext": (3, 4, 4),
    "torchvision vgg": (3, 0, 0),
    "timm resnet": (4, 4, 4),
    "timm mobilenetv2": (5, 8, 8),
    "timm densenet": (3, 6, 0),
    "timm convnext": (4, 5, 5),
    "timm vgg_bn": (4, 0, 0),
    "user's Sequential": (2, 0, 0),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_of_the_hosts(make, name):
    seen = inspect_unplugged(make(name), SIZE)
    structure = seen.structure
    assert (len(structure.stages), len(structure.units), len(structure.residual_ends)) == POSITIONS[name]
    assert set(structure.stages) | set(structure.units) <= set(seen.sites)
    assert {site.stage for site in seen.sites.values()} == set(range(len(structure.stages)))
    assert structure.units_without_end == []


@pytest.mark.parametrize(
    ("name", "where", "parents"),
    [
        ("torchvision resnet", "stage", ["layer1.1", "layer2.0", "layer3.0", "layer4.0"]),
        ("torchvision resnet", "residual", [f"layer{n}.bn2" for n in ("1.0", "1.1", "2.0", "3.0", "4.0")]),
        ("torchvision mobilenet_v2", "residual", ["features.1.conv.2", "features.2.conv.3", "features.3.conv.3"]),
        ("torchvision mobilenet_v2", "stage", ["features.1", "features.3"]),
        ("torchvision convnext", "residual[:2]", ["features.1.0.stochastic_depth", "features.3.0.stochastic_depth"]),
        ("torchvision convnext", "stage", ["features.1.0", "features.3.1", "features.5.0"]),
        ("torchvision densenet", "stage[1:]", ["> features.transition2.norm", "> features.norm5"]),
        ("torchvision vgg", "stage", ["features.1", "features.4", "features.7"]),
        ("timm resnet", "stage", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("timm mobilenetv2", "residual[:3]", ["blocks.0.0.bn2", "blocks.1.0.bn3", "blocks.2.0.bn3"]),
        ("timm mobilenetv2", "stage", ["blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.4.0", "blocks.6.0"]),
        ("timm densenet", "stage", ["> features.transition1.norm", "> features.transition2.norm", "features.norm5"]),
        ("timm convnext", "residual[-1]", ["stages.3.blocks.0.drop_path"]),
        ("timm vgg_bn", "stage", ["features.2", "features.6", "features.10", "features.11"]),
        ("user's Sequential", "stage", ["0.2", "2.3"]),
    ],
)  # fmt: skip
def test_parents(make, name, where, parents):
    chosen = select(inspect_unplugged(make(name), SIZE), where, SPEC).sites
    assert [("> " if site.entering else "") + site.parent for site in chosen] == parents


def test_no_parent_runs_its_own_children(make):
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    for name in POSITIONS:
        host = make(name)
        assert not any(isinstance(host.get_submodule(site.parent), containers) for site in sites(host, SIZE))


def test_stage_numbers_count_the_stages_and_the_stem_belongs_to_the_first(make):
    stage = {site.path: site.stage for site in sites(make("torchvision resnet"), SIZE)}
    assert [stage[p] for p in ("conv1", "maxpool", "layer1.0", "layer1", "layer2.0.bn2", "layer3", "layer4")] == [
        0, 0, 0, 0, 1, 2, 3,
    ]  # fmt: skip


def test_a_dilated_host_keeps_its_declared_stages():
    host = timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), output_stride=8)
    seen = inspect_unplugged(host, SIZE)
    assert seen.structure.stages == ["layer1", "layer2", "layer3", "layer4"]
    assert [seen.sites[f"layer{n}"].size for n in (2, 3, 4)] == [(8, 6)] * 3


class Block(nn.Module):
    """A unit that adds, spelt in several ways."""

    def __init__(self, way, wide=8):
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(8, wide, 3, padding=1), nn.Conv2d(wide, 8, 3, padding=1)
        self.act, self.norm = nn.ReLU(), nn.BatchNorm2d(8)
        self.short = nn.Conv2d(8, 8, 1)
        self.plus = Plus()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def branch(self, x):
        return self.conv2(self.act(self.conv1(x)))

    def forward(self, x):
        match self.way:
            case "plain":
                return x + self.branch(x)
            case "in place":
                branch = self.branch(x)
                branch += x
                return branch
            case "projected":
                return self.norm(self.branch(x)) + self.short(x)
            case "module":
                return self.plus(x, self.branch(x))
            case "pre-activation":
                return torch.add(self.branch(self.act(self.norm(x))), x)
            case "scaled by no module":
                return x + self.branch(x) * self.scale
            case "two branches":
                return self.conv1(x) + self.conv2(x * 2)


class Plus(nn.Module):
    def forward(self, a, b):
        return a + b


def _blocks(way):
    return nn.Sequential(nn.Conv2d(3, 8, 3), Block(way), Block(way))


@pytest.mark.parametrize(
    ("way", "last"),
    [
        ("plain", "conv2"), ("in place", "conv2"), ("projected", "norm"), ("module", "conv2"),
        ("pre-activation", "conv2"), ("scaled by no module", None), ("two branches", None),
    ],
)  # fmt: skip
def test_the_branch_is_found_by_its_addition(way, last):
    host = _blocks(way)
    seen = inspect_unplugged(host, SIZE)
    found = [site for _, site in seen.structure.residual_ends]
    assert found == ([f"1.{last}", f"2.{last}"] if last else [])
    assert seen.structure.units_without_end == (["1", "2"] if way == "scaled by no module" else [])


def test_a_branch_that_no_module_returns_is_reported(caplog):
    with caplog.at_level(logging.WARNING, "saccade"):
        chosen = select(inspect_unplugged(_blocks("scaled by no module"), SIZE), "paper", SPEC)
    assert chosen.position == "block"
    assert [site.path for site in chosen.sites] == ["1", "2"]
    assert caplog.text.count("no module of 1, 2 returns the residual branch") == 1
    assert "'residual', which Sequential does not have; using 'block' instead" in caplog.text


def test_an_addition_in_the_hosts_own_forward():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x):
            x = self.a(x)
            return x + self.c(self.b(x))

    assert _at(Unrolled(), "residual") == ["c"]


def test_sums_of_different_places_are_no_residual():
    class Pyramid(nn.Module):
        """The sum of a lateral and a coarser map: two ways down, neither by-passed."""

        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 2, stride=2)

        def forward(self, x):
            return self.fine(x) + nn.functional.interpolate(self.coarse(x), scale_factor=2)

    with pytest.raises(UserError, match="Pyramid has no site at 'residual'"):
        _at(Pyramid(), "residual")


def test_a_module_used_elsewhere_too_is_no_end():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return x + self.act(self.conv(self.act(x)))

    seen = inspect_unplugged(nn.Sequential(nn.Conv2d(3, 8, 3), Shared(), Shared()), SIZE)
    assert seen.structure.residual_ends == []
    assert seen.structure.units_without_end == ["1", "2"]


class Row(nn.Sequential):
    """Runs its children and returns a tensor of its own."""

    def forward(self, x):
        return super().forward(x) * 2


class Fork(nn.Module):
    """What leaves the row enters a convolution, and goes past it too if told to."""

    def __init__(self, past):
        super().__init__()
        self.past, self.row, self.conv = past, Row(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.row(x)
        return self.conv(x) + (x.amax() if self.past else 0)


def test_a_map_that_a_container_makes_is_met_where_it_enters():
    (site,) = [site for site in sites(Fork(past=False), SIZE) if site.path == "row"]
    assert (site.parent, site.entering) == ("conv", True)
    # Where something else reads it as well, a plug in front of the convolution would miss that.
    assert "row" not in [site.path for site in sites(Fork(past=True), SIZE)]


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ("stage[:-1]", ["layer1", "layer2", "layer3"]),
        ("stage[-1]", ["layer4"]),
        ("stage[1:3]", ["layer2", "layer3"]),
        ("stage[0]", ["layer1"]),
        ("block[-2:]", ["layer3.0", "layer4.0"]),
        ("paper", ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
        ("paper[:1]", ["layer1.0.bn2"]),
        ("layer3", ["layer3"]),
        ("layer?.0.conv1", ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"]),
        ("layer[12].0.conv*", ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2"]),
        (["layer4", "layer1.*.conv2"], ["layer1.0.conv2", "layer1.1.conv2", "layer4"]),
        (["stage", "layer2.0", "layer2"], ["layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_words_for_places(make, where, paths):
    assert _at(make("torchvision resnet"), where) == paths


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("resdual", r"'resdual' is neither a position nor a site. Did you mean 'residual'"),
        ("conv3x4", r"'conv3x4' is neither a position nor a site. Did you mean 'conv3x3'"),
        ("expanded", r"ResNet has no site at 'expanded'. Its sites: conv1, bn1, relu"),
        ("layer1.0.bn3", r"Did you mean 'layer1.0.bn2'"),
        ("fc", r"'fc' is a module that returns no map.*The sites: conv1, bn1, relu"),
        ("head.*", "is neither a position nor a site"),
        ("stage[4]", r"leaves none of 4 sites: layer1, layer2, layer3, layer4"),
        ("stage[4:]", "leaves none of 4 sites"),
        ([], "empty list"),
    ],
)
def test_words_that_name_nothing(make, where, message):
    with pytest.raises(UserError, match=message):
        _at(make("torchvision resnet"), where)


def test_a_host_without_sites():
    with pytest.raises(UserError, match="Sequential has no site"):
        plug(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 48, 4)), "se", input=SIZE)


def test_a_fallback_is_said_and_kept(make, caplog):
    with caplog.at_level(logging.WARNING, "saccade"):
        host = plug(make("torchvision vgg"), "se", input=SIZE)
    assert {row.position for row in plugs(host)} == {"stage"}
    assert "'residual', which VGG does not have; using 'stage' instead" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "saccade"):
        assert {row.position for row in plugs(plug(make("torchvision resnet"), "se", input=SIZE))} == {"residual"}
    assert caplog.text == ""


@pytest.mark.parametrize(("name", "where"), [("torchvision mobilenet_v2", "block"), ("torchvision resnet", "stage")])
def test_the_paper_may_differ_by_family(make, name, where):
    spec = Spec(title="T", kind="gate", evidence="paper", position={"default": "stage", "mobilenetv2": "block[:1]"})
    chosen = select(inspect_unplugged(make(name), SIZE), "paper", spec)
    assert chosen.position == where + ("[:1]" if where == "block" else "")


def test_a_plugged_host_shows_the_sites_of_the_bare_one(make):
    for name in ("torchvision resnet", "torchvision densenet", "timm convnext"):
        host = make(name)
        before = sites(host, SIZE)
        assert sites(plug(copy.deepcopy(host), "se", where="stage", input=SIZE), SIZE) == before
    assert len(before) > 20


@pytest.mark.parametrize(
    ("host", "first"),
    [
        (lambda: resnet50(weights=None), ["layer1.0.bn3", "layer1.1.bn3"]),
        (lambda: mobilenet_v2(weights=None), ["features.1.conv", "features.2.conv"]),
        (lambda: timm.create_model("mobilenetv2_100"), ["blocks.0.0.bn2", "blocks.1.0.bn3"]),
    ],
    ids=["torchvision resnet50", "torchvision mobilenet_v2", "timm mobilenetv2_100"],
)
def test_the_published_hosts_have_the_papers_count(host, first):
    chosen = _at(host(), "residual")
    assert len(chosen) == (16 if "layer1" in first[0] else 17)
    assert chosen[:2] == first
