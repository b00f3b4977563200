"""``conv3x3`` and ``expanded``: which module on which host, nets that fight back, fallbacks, options by stage."""

import copy
import logging
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from torch import nn
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mnasnet import MNASNet
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from oracles import counts
from saccade import UserError
from saccade.graph.positions import POSITIONS, paths_at, select
from saccade.specs import Spec
from saccade.surgery import plug, plugs, unplug
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)


def _spec(position):
    return Spec(title="Somebody's", kind="gate", evidence="reading", position={"default": position})


def _at(host, where, input=SIZE):
    return [site.path for site in select(inspect_unplugged(host, input), where, _spec("stage")).sites]


def _counted(host):
    return sum(parameter.numel() for parameter in host.parameters())


def _mobilenet_v3():
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 1, 1, 1.0),
        InvertedResidualConfig(16, 5, 40, 24, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(24, 3, 48, 24, False, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(blocks, 32, num_classes=5)


def _efficientnet():
    blocks = [MBConvConfig(1, 3, 1, 16, 8, 1), MBConvConfig(6, 5, 2, 8, 16, 2)]
    return EfficientNet(blocks, 0.0, num_classes=5, last_channel=32)


OTHERS = {
    "torchvision bottleneck": lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5),
    "torchvision mobilenet_v3": _mobilenet_v3,
    "torchvision efficientnet": _efficientnet,
    "torchvision mnasnet": lambda: MNASNet(0.25, 5),
    "timm mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "timm efficientnet": lambda: timm.create_model("tinynet_e", num_classes=5),
    "timm mnasnet": lambda: timm.create_model("mnasnet_small", num_classes=5),
    "timm res2net": lambda: timm.create_model("res2net50_14w_8s", layers=(1, 1, 1, 1), num_classes=5),
    "timm rexnet": lambda: timm.create_model("rexnet_100", width_mult=0.25, num_classes=5),
    "timm mixnet": lambda: timm.create_model("mixnet_s", num_classes=5),
    "timm antialiased": lambda: timm.create_model(
        "resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), aa_layer=BlurPool2d
    ),
}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("torchvision resnet", [f"layer{n}.conv2" for n in ("1.0", "1.1", "2.0", "3.0", "4.0")]),
        ("torchvision bottleneck", [f"layer{n}.0.conv2" for n in (1, 2, 3, 4)]),
        ("torchvision mobilenet_v2", ["features.1.conv.0.0", "features.2.conv.1.0", "features.3.conv.1.0"]),
        ("torchvision convnext", [f"features.{n}.block.0" for n in ("1.0", "3.0", "3.1", "5.0")]),
        ("torchvision densenet", [f"features.denseblock{n}.denselayer{m}.conv2" for n in (1, 2, 3) for m in (1, 2)]),
        ("torchvision vgg", ["features.0", "features.3", "features.6"]),
        ("timm resnet", [f"layer{n}.0.conv2" for n in (1, 2, 3, 4)]),
        ("timm convnext", [f"stages.{n}.conv_dw" for n in ("0.blocks.0", "1.blocks.0", "2.blocks.0", "2.blocks.1",
                                                           "3.blocks.0")]),
        ("timm vgg_bn", ["features.0", "features.4", "features.8"]),
        ("user's Sequential", ["0.0", "2.0", "2.2"]),
        ("torchvision efficientnet", ["features.1.0.block.0.0", "features.2.0.block.1.0", "features.2.1.block.1.0"]),
        # Each of the parts that a map is split into goes its own way.
        ("timm res2net", [f"layer{n}.0.convs.{m}" for n in (1, 2, 3, 4) for m in range(7)]),
        # A blur is a convolution too, but nobody learns its kernel.
        ("timm antialiased", [f"layer{n}.0.conv2" for n in (1, 2, 3, 4)]),
    ],
)  # fmt: skip
def test_after_the_spatial_convolution_before_its_norm(make, name, paths):
    host = OTHERS[name]() if name in OTHERS else make(name)
    chosen = select(inspect_unplugged(host, SIZE), "conv3x3", _spec("stage")).sites
    assert [site.path for site in chosen] == paths
    assert [site.parent for site in chosen] == paths
    assert [path for path in paths if not isinstance(host.get_submodule(path), nn.Conv2d)] == []


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("torchvision mobilenet_v2", {"features.2.conv.1": "features.2.conv.1.2",
                                      "features.3.conv.1": "features.3.conv.1.2"}),
        ("timm mobilenetv2", {f"blocks.{n}.bn2": f"blocks.{n}.bn2" for n in ("1.0", "2.0", "3.0", "3.1", "4.0", "5.0",
                                                                            "6.0")}),
        ("torchvision mobilenet_v3", {"features.2.block.1": "features.2.block.1.2",
                                      "features.3.block.1": "features.3.block.1.2"}),
        ("timm mobilenetv3", {f"blocks.{n}.bn2": f"blocks.{n}.bn2"
                              for n in ("1.0", "1.1", "2.0", "2.1", "2.2", "3.0", "3.1", "4.0", "4.1", "4.2")}),
        ("torchvision efficientnet", {"features.2.0.block.1": "features.2.0.block.1.2",
                                      "features.2.1.block.1": "features.2.1.block.1.2"}),
        ("timm efficientnet", {f"blocks.{n}.bn2": f"blocks.{n}.bn2" for n in ("1.0", "2.0", "3.0", "3.1", "4.0", "4.1",
                                                                             "5.0", "5.1", "6.0")}),
        ("timm mixnet", {f"blocks.{n}.bn2": f"blocks.{n}.bn2" for n in ("1.0", "1.1", "2.0", "2.1", "2.2", "2.3",
                                                                       "3.0", "3.1", "3.2", "4.0", "4.1", "4.2",
                                                                       "5.0", "5.1", "5.2")}),
    ],
)  # fmt: skip
def test_the_widened_map_before_the_hosts_own_se(make, name, sites):
    host = OTHERS[name]() if name in OTHERS else make(name)
    chosen = select(inspect_unplugged(host, SIZE), "expanded", _spec("stage")).sites
    assert {site.path: site.parent for site in chosen} == sites


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("torchvision resnet", "conv1"),
        ("torchvision mobilenet_v2", "features.0.0"),
        ("torchvision convnext", "features.0.0"),
        ("torchvision densenet", "features.conv0"),
        ("torchvision vgg", "features.0"),
        ("timm mobilenetv2", "conv_stem"),
        ("timm convnext", "stem.0"),
        ("user's Sequential", "0.0"),
        ("timm res2net", "conv1"),
    ],
)
def test_the_first_convolution_of_the_network(make, name, path):
    host = OTHERS[name]() if name in OTHERS else make(name)
    seen = inspect_unplugged(host, SIZE)
    (site,) = select(seen, "conv_stem", _spec("stage")).sites
    assert (site.path, site.parent, site.entering) == (path, path, False)
    assert isinstance(host.get_submodule(path), nn.Conv2d)
    assert select(seen, "paper", _spec("conv_stem")).position == "conv_stem"


class Late(nn.Module):
    """The convolution that was written first runs last, and what runs first makes a gate, or a blur."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.gate, self.second, self.third = nn.Conv2d(3, 1, 7, padding=3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.register_buffer("blur", torch.full((3, 1, 3, 3), 1 / 9))

    def forward(self, x):
        x = nn.functional.conv2d(x, self.blur, padding=1, groups=3)
        return self.last(self.third(self.second(x * self.gate(x).sigmoid())))


def test_the_first_convolution_is_the_one_that_runs_first_and_makes_a_map():
    assert paths_at(inspect_unplugged(Late(), SIZE).structure, "conv_stem") == ["second"]
    assert paths_at(inspect_unplugged(nn.Sequential(nn.AvgPool2d(2), nn.ReLU()), SIZE).structure, "conv_stem") == []


@pytest.mark.parametrize("name", ["torchvision mnasnet", "timm mnasnet"])
def test_mnasnet_has_both(name):
    structure = inspect_unplugged(OTHERS[name](), SIZE).structure
    spatial, wide = paths_at(structure, "conv3x3"), paths_at(structure, "expanded")
    assert (len(spatial), len(wide)) == ((16, 16) if name == "torchvision mnasnet" else (15, 14))
    ends = (".layers.3", ".layers.5") if name == "torchvision mnasnet" else (".conv_dw", ".bn2")
    units = [path.removesuffix(ends[1]) for path in wide]
    assert set(spatial[-len(wide) :]) == {unit + ends[0] for unit in units}
    assert units == [unit for unit in structure.units if unit in units]


def test_an_se_before_the_activation_is_still_behind_the_position():
    """RexNet squeezes what the norm returns and activates later: the map is the one that enters its SE."""
    structure = inspect_unplugged(OTHERS["timm rexnet"](), SIZE).structure
    wide = ["features.1.act_dw", "features.2.act_dw", *(f"features.{n}.conv_dw" for n in range(3, 16))]
    assert paths_at(structure, "expanded") == wide
    # Its units are its blocks: an SE, though met more often and of two convolutions, returns no map.
    assert paths_at(structure, "conv3x3") == [f"features.{n}.conv_dw.conv" for n in range(16)]


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset, self.conv = nn.Conv2d(8, 18, 1), DeformConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


class Silent(nn.Module):
    """No module returns its convolution's map."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1).relu()


class Blur(nn.Module):
    """A spatial convolution with nothing to learn, as in front of a stride."""

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "kernel", torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])).repeat(8, 1, 1, 1) / 16
        )

    def forward(self, x):
        return F.conv2d(x, self.kernel, padding=1, groups=8)


class Unit(nn.Module):
    """A unit of two spatial convolutions, and something that may mislead."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, (1, 5), padding=(0, 2))
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.short = nn.Conv2d(8, 8, 3, padding=1)
        self.look = nn.Conv2d(2, 1, 7, padding=3)
        self.deformable, self.silent, self.blur = Deformable(), Silent(), Blur()

    def forward(self, x):
        f = self.act(self.norm(self.conv2(self.act(self.conv1(x)))))
        match self.way:
            case "plain":
                return f + x
            case "a spatial shortcut":
                return self.norm(f) + self.short(x)
            case "a gate of the host's":
                return f * self.look(torch.stack([f.mean(1), f.amax(1)], 1)).sigmoid() + x
            case "a deformable one":
                return self.deformable(f) + x
            case "a fixed blur":
                return self.blur(f) + x
            case "one that no module returns":
                return self.silent(f) + x
            case "one called twice":
                return self.short(self.short(f)) + x
            case "arms":
                return torch.cat([f[:, :4], self.short(x)[:, 4:]], 1)


@pytest.mark.parametrize(
    ("way", "last"),
    [
        ("plain", ["conv2"]),
        ("a spatial shortcut", ["conv2"]),
        ("a gate of the host's", ["conv2"]),
        ("a deformable one", ["deformable.conv"]),
        ("a fixed blur", ["conv2"]),
        ("one that no module returns", []),
        ("one called twice", []),
        ("arms", ["conv2", "short"]),
    ],
)
def test_the_last_on_every_way_through_a_unit(way, last):
    host = nn.Sequential(nn.Conv2d(3, 8, 3), Unit(way), Unit(way), nn.Conv2d(8, 8, 3))
    seen = inspect_unplugged(host, SIZE)
    assert seen.structure.units == ["1", "2"]
    assert paths_at(seen.structure, "conv3x3") == [f"{n}.{path}" for n in (1, 2) for path in last]


def test_a_unit_that_runs_twice_is_plugged_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.unit = nn.Conv2d(3, 8, 3), Unit("plain")

        def forward(self, x):
            return self.unit(self.unit(self.stem(x)))

    host = plug(Twice(), "se", where="conv3x3", rd_ratio=0.5, input=SIZE)
    (row,) = plugs(host)
    assert (row.site, row.module.site.calls) == ("unit.conv2", 2)


@pytest.mark.parametrize(
    ("name", "where", "inside"), [("torchvision resnet", "conv3x3", ""), ("timm mobilenetv2", "expanded", ".act")]
)
def test_a_forward_written_out_has_the_positions_of_its_modules(make, name, where, inside):
    """As fx leaves a network: one function, and no module that is a unit."""
    host = make(name)
    paths = _at(host, where)
    assert len(paths) > 4
    assert _at(torch.fx.symbolic_trace(host), where) == [path + inside for path in paths]


class Inverted(nn.Module):
    """An inverted residual, written in several ways."""

    def __init__(self, way, wide=24):
        super().__init__()
        self.way = way
        norm = FrozenBatchNorm2d if way == "a frozen norm" else nn.BatchNorm2d
        self.widen = nn.Conv2d(8, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 5 if way == "wider" else 3, padding="same", groups=wide)
        self.norm, self.act1 = norm(wide), nn.ReLU(inplace=True)
        self.act2 = self.act1 if way == "one activation for both" else nn.Hardswish()
        self.fc = nn.Linear(wide, wide)
        self.mix = nn.Conv2d(wide, wide, 3 if way == "a spatial mix" else 1, padding="same")
        self.narrow = nn.Conv2d(wide, 8, 1)

    def forward(self, x):
        f = self.depthwise(self.act1(self.widen(x)))
        f = self.norm(f) if self.way != "nothing after the depthwise" else f
        match self.way:
            case "nothing after the depthwise":
                pass
            case "a function for an activation":
                f = f * F.hardsigmoid(f)
            case "a squeeze by functions":
                f = self.act2(f)
                f = f * self.fc(f.mean((2, 3))).sigmoid()[:, :, None, None]
            case "a mix between" | "a spatial mix":
                f = self.mix(self.act2(f))
            case _:
                f = self.act2(f)
        return x + self.narrow(f)


@pytest.mark.parametrize(
    ("way", "last"),
    [
        ("plain", "act2"),
        ("wider", "act2"),
        ("a frozen norm", "act2"),
        ("a squeeze by functions", "act2"),
        ("nothing after the depthwise", "depthwise"),
        ("a function for an activation", "norm"),
        ("one activation for both", None),
        ("a mix between", None),
        ("a spatial mix", None),
    ],
)
def test_the_expanded_map_is_found_by_what_is_computed(way, last):
    host = nn.Sequential(nn.Conv2d(3, 8, 3), Inverted(way), Inverted(way))
    assert paths_at(inspect_unplugged(host, SIZE).structure, "expanded") == (
        [f"{n}.{last}" for n in (1, 2)] if last else []
    )


@pytest.mark.parametrize("wide", [8, 4])
def test_what_does_not_widen_has_no_expanded_map(wide):
    host = nn.Sequential(nn.Conv2d(3, 8, 3), Inverted("plain", wide), Inverted("plain", 24))
    assert _at(host, "expanded") == ["2.act2"]


def test_norm_and_activation_in_one_module(make):
    host = make("timm mobilenetv2")
    unit = host.get_submodule("blocks.1.0")
    assert isinstance(unit.bn2, timm.layers.BatchNormAct2d)
    maps = {}
    for name in ("conv_dw", "bn2"):
        unit.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: maps.setdefault(name, out))
    plugged = plug(copy.deepcopy(host), Doubled, where="conv3x3", start="paper", input=SIZE)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    host.eval()(x)
    before = dict(maps)
    maps.clear()
    inside = plugged.eval().get_submodule("blocks.1.0")
    with torch.no_grad():
        # What leaves the convolution is doubled before the norm, so the norm sees it.
        torch.testing.assert_close(inside.conv_dw.saccade(before["conv_dw"]), before["conv_dw"] * 2, rtol=0, atol=0)
        torch.testing.assert_close(inside.bn2(before["conv_dw"] * 2), unit.bn2(before["conv_dw"] * 2), rtol=0, atol=0)
        assert not torch.equal(unit.bn2(before["conv_dw"] * 2), before["bn2"])


class Doubled(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x * 2


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *product(("torchvision mobilenet_v2", "timm mobilenetv2"), ("conv3x3", "expanded")),
        *product(("torchvision resnet", "timm resnet", "timm convnext"), ("activated",)),
    ],
)
def test_the_plugged_host_is_the_host(make, name, where):
    host = make(name).train()
    plugged = plug(copy.deepcopy(host), "se", where=where, rd_ratio=0.5, input=SIZE)
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))

    def same():
        outputs = []
        for network in (plugged, host):
            torch.manual_seed(0)
            outputs.append(network(x))
        return torch.equal(*outputs)

    assert same()
    with torch.no_grad():
        plugs(plugged)[-1].module.a.fill_(0.5)
    assert not same()
    # What is plugged, a bottleneck of 1×1 convolutions too, is no part of the host that is looked at.
    found, wanted = (
        select(inspect_unplugged(network, SIZE), where, _spec("stage")).sites for network in (plugged, host)
    )
    assert found == wanted
    assert [site.parent for site in wanted] == [row.parent for row in plugs(plugged)]


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ("conv3x3[:-1]", [f"blocks.{n}.conv_dw" for n in ("0.0", "1.0", "2.0", "3.0", "3.1", "4.0", "5.0")]),
        ("conv3x3[0]", ["blocks.0.0.conv_dw"]),
        ("expanded[-2:]", ["blocks.5.0.bn2", "blocks.6.0.bn2"]),
        ("expanded[1:3]", ["blocks.2.0.bn2", "blocks.3.0.bn2"]),
        (["expanded[0]", "conv3x3[0]", "stage[-1]"], ["blocks.0.0.conv_dw", "blocks.1.0.bn2", "blocks.6"]),
    ],
)
def test_suffixes_and_lists(make, where, paths):
    assert _at(make("timm mobilenetv2"), where) == paths


NARROW = {
    "residual": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Pointwise(), Pointwise()),
    "block": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Pointwise(False), Pointwise(False)),
    "stage": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, stride=2)),
}


class Pointwise(nn.Module):
    """A unit that never looks beside itself."""

    def __init__(self, adds=True):
        super().__init__()
        self.adds, self.conv1, self.conv2 = adds, nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        f = self.conv2(self.conv1(x).relu())
        return f + x if self.adds else f


@pytest.mark.parametrize("word", ["conv3x3", "expanded"])
@pytest.mark.parametrize("taken", NARROW)
def test_a_host_without_falls_back_and_says_so(word, taken, caplog):
    with pytest.raises(UserError, match=rf"Sequential has no site at '{word}'. Its sites: 0, 1"):
        _at(NARROW[taken](), word)
    with caplog.at_level(logging.WARNING, "saccade"):
        chosen = select(inspect_unplugged(NARROW[taken](), SIZE), "paper", _spec(word + "[:1]"))
    assert chosen.position == f"{taken}[:1]"
    assert len(chosen.sites) == 1
    assert f"puts it at '{word}[:1]', which Sequential does not have; using '{taken}[:1]' instead" in caplog.text


def test_where_the_host_has_it_the_paper_is_followed(make, caplog):
    spec = Spec(title="T", kind="gate", evidence="paper", position={"default": "conv3x3", "mobilenetv2": "expanded"})
    with caplog.at_level(logging.WARNING, "saccade"):
        for name, position in (("torchvision resnet", "conv3x3"), ("timm mobilenetv2", "expanded")):
            assert select(inspect_unplugged(make(name), SIZE), "paper", spec).position == position
    assert caplog.text == ""


def test_every_position_but_the_papers_is_a_list_of_paths(make):
    structure = inspect_unplugged(make("timm resnet"), SIZE).structure
    sites = {word: len(paths_at(structure, word)) for word in POSITIONS if word != "paper"}
    assert sites == {
        "stage": 4, "decoder": 0, "skip": 0, "neck": 0, "block": 4, "residual": 4, "conv3x3": 4, "activated": 4,
        "expanded": 0, "conv_stem": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="'paper' is not a position"):
        paths_at(structure, "paper")


def test_eca_with_the_kernels_of_the_released_resnet50():
    """ECANet's eca_resnet50: 25,557,112 parameters, kernels 3, 5, 5, 7 by stage (3, 4, 6 and 3 blocks)."""
    with torch.device("meta"):
        host = resnet50(weights=None)
    host = plug(host.to_empty(device="cpu"), "eca", start="paper", kernel_size=[3, 5, 5, 7], input=(3, 32, 32))
    kernels = [row.module.mechanism.conv.kernel_size[0] for row in plugs(host)]
    assert kernels == [3] * 3 + [5] * 10 + [7] * 3
    assert _counted(host) == 25_557_112
    assert _counted(host) == counts()["ECANet/eca_resnet50 k=3557"]["params"]


@pytest.mark.parametrize("where", ["residual", "conv3x3"])
def test_options_by_stage_need_a_value_for_each(make, where):
    host = make("torchvision resnet")
    with pytest.raises(UserError, match=r"kernel_size=\[3, 5\] has 2 values, one per stage; the 5 sites lie in 4 stag"):
        plug(host, "eca", where=where, kernel_size=[3, 5], input=SIZE)
    rows = plugs(plug(host, "eca", where=f"{where}[:-1]", kernel_size=[3, 7, 5], input=SIZE))
    assert [row.module.mechanism.conv.kernel_size[0] for row in rows] == [3, 3, 7, 5]


@pytest.mark.parametrize(
    "make_host", [lambda: mobilenet_v2(weights=None), lambda: timm.create_model("mobilenetv2_100")],
    ids=["torchvision", "timm"],
)  # fmt: skip
def test_coordinate_attention_on_mobilenet_has_the_authors_size(make_host):
    """CoordAttention's mbv2_ca: 3.951 million parameters; 16 of 17 blocks widen."""
    host = plug(make_host(), "coord", start="paper", input=(3, 64, 64))
    assert {row.position for row in plugs(host)} == {"expanded"}
    assert [row.channels for row in plugs(host)] == [96, 144, 144, *[192] * 3, *[384] * 4, *[576] * 3, *[960] * 3]
    assert _counted(host) == 3_950_648


def test_a_place_is_confined_to_stages(make):
    host = make("torchvision resnet")
    for where, chosen in {
        "block in stage[0]": ["layer1.0", "layer1.1"],
        "block in stage[1:3]": ["layer2.0", "layer3.0"],
        "residual[first] in stage[0]": ["layer1.0.bn2"],
        "block in stage[:2][-1]": ["layer2.0"],
        "layer?.0.conv? in stage[-1]": ["layer4.0.conv1", "layer4.0.conv2"],
    }.items():
        assert [row.site for row in plugs(plug(unplug(host), "se", where=where, input=(3, 64, 48)))] == chosen
    for where in ("block in stage[4]", "block in stage[9:]"):
        with pytest.raises(UserError, match="leaves none of 4 sites"):
            plug(unplug(host), "se", where=where, input=(3, 64, 48))
