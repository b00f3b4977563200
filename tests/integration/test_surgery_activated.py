"""The position ``activated``, on hosts and on units that mislead, and the suffixes ``[first]`` and ``[last]``."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from saccade import UserError, record
from saccade.graph.positions import paths_at, select, sites_at
from saccade.specs import Spec
from saccade.surgery import plug, plugs, sites, unplug
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)
SPEC = Spec(title="Somebody's", kind="gate", evidence="reading", position={"default": "activated"})


def _chosen(host, where):
    return [("> " if s.entering else "") + s.parent for s in select(inspect_unplugged(host, SIZE), where, SPEC).sites]


OTHERS = {
    "torchvision resnet18": lambda: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=5),
    "torchvision resnet50": lambda: ResNet(Bottleneck, [3, 4, 6, 3], num_classes=5),
    "timm resnet18": lambda: timm.create_model("resnet18", channels=(8, 8, 16, 16)),
    "timm resnet50": lambda: timm.create_model("resnet50", channels=(8, 8, 16, 16)),
    "timm resnetv2": lambda: timm.create_model("resnetv2_50", layers=(1, 1, 1, 1), channels=(32, 32, 32, 64)),
    "timm seresnet": lambda: timm.create_model("seresnet50", layers=(1, 1, 1, 1), channels=(16, 16, 16, 16)),
    "timm antialiased": lambda: timm.create_model(
        "resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), aa_layer=BlurPool2d
    ),
    "timm res2net": lambda: timm.create_model("res2net50_14w_8s", layers=(1, 1, 1, 1), num_classes=5),
}
DEPTHS = {"18": (2, 2, 2, 2), "50": (3, 4, 6, 3)}


def _blocks(depths):
    return [f"layer{stage}.{block}" for stage, depth in enumerate(depths, 1) for block in range(depth)]


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        # One ReLU serves the unit: what enters the last convolution is no one module's own.
        ("torchvision resnet18", [f"> {unit}.conv2" for unit in _blocks(DEPTHS["18"])]),
        ("torchvision resnet50", [f"> {unit}.conv3" for unit in _blocks(DEPTHS["50"])]),
        ("timm resnet18", [f"{unit}.act1" for unit in _blocks(DEPTHS["18"])]),
        ("timm resnet50", [f"{unit}.act2" for unit in _blocks(DEPTHS["50"])]),
        ("torchvision mobilenet_v2", ["features.1.conv.0.2", "features.2.conv.1.2", "features.3.conv.1.2"]),
        ("timm mobilenetv2", ["blocks.0.0.bn1", *(f"blocks.{n}.bn2" for n in ("1.0", "2.0", "3.0", "3.1", "4.0", "5.0",
                                                                             "6.0"))]),
        ("timm convnext", [f"stages.{n}.norm" for n in ("0.blocks.0", "1.blocks.0", "2.blocks.0", "2.blocks.1",
                                                       "3.blocks.0")]),
        ("timm resnetv2", [f"stages.{n}.blocks.0.norm3" for n in range(4)]),
        ("timm seresnet", [f"layer{n}.0.act2" for n in (1, 2, 3, 4)]),
        # The blur that strides lies between the activation and the next convolution.
        ("timm antialiased", ["layer1.0.act2", *(f"layer{n}.0.aa" for n in (2, 3, 4))]),
        # The parts of the map are put together by a function.
        ("timm res2net", [f"> layer{n}.0.conv3" for n in (1, 2, 3, 4)]),
    ],
)  # fmt: skip
def test_after_the_spatial_convolution_its_norm_and_its_activation(make, name, parents):
    assert _chosen(OTHERS[name]() if name in OTHERS else make(name), "activated") == parents


@pytest.mark.parametrize("name", ["torchvision densenet", "torchvision vgg", "user's Sequential"])
def test_units_that_end_in_their_only_spatial_convolution_and_no_units_are_refused(make, name):
    host = make(name)
    with pytest.raises(UserError, match=r"has no site at 'activated'\. Its sites: "):
        plug(host, "se", where="activated", input=SIZE)
    assert plugs(host) == []


@pytest.mark.parametrize("name", ["torchvision mobilenet_v2", "timm mobilenetv2"])
def test_of_an_inverted_residual_it_is_the_expanded_map(make, name):
    seen = inspect_unplugged(make(name), SIZE)
    assert sites_at(seen, "activated")[1:] == sites_at(seen, "expanded")  # the first block does not widen


class Unit(nn.Module):
    """A bottleneck, and something that may mislead; one activation, in place, for all of it."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 1)
        if way == "reflected":
            self.conv3 = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")
        self.norm1, self.norm2, self.act = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.own, self.fc = nn.ReLU(), nn.Linear(4, 4)
        self.look = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        f = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        match self.way:
            case "an activation of its own":
                f = self.own(f)
            case "a function":
                f = F.hardswish(f)
            case "a squeeze":
                f = self.own(f)
                f = f * self.fc(f.mean((2, 3))).sigmoid()[:, :, None, None]
            case "a squeeze behind the one activation":
                f = self.act(f)
                f = f * self.fc(f.mean((2, 3))).sigmoid()[:, :, None, None]
            case "a gate of the host's":
                f = self.act(f) * self.look(torch.stack([f.mean(1), f.amax(1)], 1)).sigmoid()
            case "read twice":
                f = self.act(f)
                return x + self.conv3(f) + f.mean((1, 2, 3), keepdim=True)
            case _:
                f = self.act(f)
        return x + self.conv3(f)


@pytest.mark.parametrize(
    ("way", "parent"),
    [
        ("one activation", "> {}.conv3"),
        ("reflected", "> {}.conv3"),
        ("an activation of its own", "{}.own"),
        ("a function", "> {}.conv3"),
        ("a squeeze", "{}.own"),
        ("a squeeze behind the one activation", None),
        ("a gate of the host's", "> {}.conv3"),
        ("read twice", None),
    ],
)
def test_the_map_is_found_by_what_is_computed(way, parent):
    host = nn.Sequential(nn.Conv2d(3, 8, 3), Unit(way), Unit(way))
    seen = inspect_unplugged(host, SIZE)
    assert seen.structure.units == ["1", "2"]
    places = sites_at(seen, "activated")
    assert [("> " if s.entering else "") + s.parent for s in places] == (
        [parent.format(n) for n in (1, 2)] if parent else []
    )
    assert paths_at(seen.structure, "activated") == [site.path for site in places]


def test_what_enters_is_what_is_changed(make):
    """The site has the channels and the size of the map that enters, not of what its parent returns."""
    host = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5).eval()
    before = sites(host, SIZE)
    bare, x, got = copy.deepcopy(host), torch.randn(2, *SIZE), {}
    for name in ("layer2.0.conv3", "layer2.0.bn2"):
        bare.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: got.update({name: (args[0].clone(), out.clone())})
        )
    bare(x)
    plug(host, Doubled, where="activated", start="paper", input=SIZE)
    rows = plugs(host)
    assert [(r.site, r.channels, r.size, r.stage) for r in rows] == [
        (f"layer{n}.0.conv3", channels, size, n - 1)
        for n, channels, size in ((1, 64, (16, 12)), (2, 128, (8, 6)), (3, 256, (4, 3)), (4, 512, (2, 2)))
    ]
    entered = got["layer2.0.conv3"][0]
    torch.testing.assert_close(entered, got["layer2.0.bn2"][1].relu(), rtol=0, atol=0)
    seen = []
    host.layer1[0].conv3.saccade.mechanism.factor = host.layer3[0].conv3.saccade.mechanism.factor = 1.0
    host.layer2[0].conv3.register_forward_hook(lambda m, args, out: seen.append(out))
    host(x)
    torch.testing.assert_close(seen[0], F.conv2d(2 * entered, host.layer2[0].conv3.weight))
    with record(host) as maps:
        host(x)
    torch.testing.assert_close(maps["layer2.0.conv3"], entered, rtol=0, atol=0)
    assert sites(unplug(host), SIZE) == before


class Doubled(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.factor, self.tap = 2.0, nn.Identity()

    def forward(self, x):
        return self.tap(x) * self.factor


@pytest.mark.parametrize(
    ("name", "where", "parents"),
    [
        ("torchvision resnet", "residual[first]", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
        ("torchvision resnet", "residual[last]", ["layer1.1.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
        ("torchvision resnet", "block[first]", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("torchvision resnet", "activated[last]",
         ["> layer1.1.conv2", "> layer2.0.conv2", "> layer3.0.conv2", "> layer4.0.conv2"]),
        ("torchvision resnet50", "residual[last]", [f"layer{n}.{m}.bn3" for n, m in enumerate((2, 3, 5, 2), 1)]),
        ("torchvision resnet50", "block[last]", [f"layer{n}.{m}" for n, m in enumerate((2, 3, 5, 2), 1)]),
        ("timm resnet50", "block[first]", [f"layer{n}.0" for n in (1, 2, 3, 4)]),
        ("timm mobilenetv2", "conv3x3[last]", [f"blocks.{n}.conv_dw" for n in ("0.0", "1.0", "2.0", "4.0", "6.0")]),
        ("timm mobilenetv2", "stage[last]", ["blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.4.0", "blocks.6.0"]),
        ("torchvision resnet", "layer*.*.bn*[last]", ["layer1.1.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
        ("torchvision resnet", "layer*.[01].bn1[first]", [f"layer{n}.0.bn1" for n in (1, 2, 3, 4)]),
        ("torchvision resnet", "layer1.1.bn[12]", ["layer1.1.bn1", "layer1.1.bn2"]),
        ("timm mobilenetv2", ["expanded[first]", "stage[-1]"],
         [*(f"blocks.{n}.bn2" for n in ("1.0", "2.0", "3.0", "5.0")), "blocks.6.0"]),
    ],
)  # fmt: skip
def test_one_of_each_stage(make, name, where, parents):
    assert _chosen(OTHERS[name]() if name in OTHERS else make(name), where) == parents


def test_a_paper_may_say_so(make):
    spec = Spec(title="T", kind="gate", evidence="paper", position={"default": "residual[last]"})
    chosen = select(inspect_unplugged(make("torchvision resnet"), SIZE), "paper", spec)
    assert (chosen.position, len(chosen.sites)) == ("residual[last]", 4)
    with pytest.raises(UserError, match=r"'residual\[lst\]' is neither a position nor a site"):
        plug(make("torchvision resnet"), "se", where="residual[lst]", input=SIZE)
    with pytest.raises(UserError, match="'first' is neither a position nor a site"):
        plug(make("torchvision resnet"), "se", where="first", input=SIZE)
