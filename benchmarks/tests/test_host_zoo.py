"""Networks of many kinds under every mechanism: families, networks that fight back, detectors, decoders.

The hosts and the conditions are those of benchmarks/hosts.py, which tries more of both; a condition returns "" where it
holds.
"""

import copy

import pytest
import timm
import torch
from torch import nn

import adversarial_hosts
import conditions
import host_zoo
from saccade import UserError, list_mechanisms, spec
from saccade.graph.positions import select
from saccade.specs import Spec
from saccade.surgery import plug, plugs, sites, unplug
from saccade.surgery.sites import inspect_unplugged

SIZE = (3, 64, 48)


def _timm(name, size=SIZE, **options):
    return host_zoo.Host(lambda: timm.create_model(name, num_classes=5, **options), size)


FAMILIES = {
    "resnet": _timm("resnet18", layers=(1, 1, 1, 1), channels=(32, 48, 64, 64)),
    "resnetv2": _timm("resnetv2_18", layers=(1, 1, 1, 1), channels=(32, 32, 64, 64)),
    "mobilenetv2": _timm("mobilenetv2_100", depth_multiplier=0.3),
    "mobilenetv3": _timm("mobilenetv3_small_100"),
    "efficientnet": _timm("test_efficientnet"),
    "densenet": _timm("densenet121", growth_rate=16, block_config=(2, 2, 2)),
    "convnext": _timm("convnext_atto", depths=(1, 1, 2, 1), dims=(32, 32, 48, 64)),
    "byobnet": _timm("test_byobnet"),
    "nfnet": _timm("test_nfnet"),
    "mambaout": _timm("test_mambaout", (3, 64, 96)),
    "starnet": _timm("starnet_s050"),
    "convmixer": host_zoo.HOSTS["timm convmixer"],
    "shufflenet": host_zoo.HOSTS["torchvision shufflenet_v2_x0_5"],
    "squeezenet": host_zoo.HOSTS["torchvision squeezenet1_1"],
    "resnet of transformers": host_zoo.HOSTS["transformers ResNet"],
    "convnext of transformers": host_zoo.HOSTS["transformers ConvNeXt"],
}
ADVERSARIAL = {name: host for name, host in host_zoo.HOSTS.items() if name.startswith("own ")}
LARGE = {
    "torchvision Faster R-CNN, MobileNetV3": "se",
    "torchvision RetinaNet, ResNet-18": "das",
    "torchvision FCOS, ResNet-18": "bam",
    "smp Unet, resnet18": "das",
    "smp FPN, tu-convnext_atto": "cbam",
    "torchvision googlenet": "se",
}
HOSTS = FAMILIES | ADVERSARIAL | {name: host_zoo.HOSTS[name] for name in LARGE}
PLUGGED = [name for name in list_mechanisms("plug") if "skip" not in spec(name).needs]
"""Mechanisms that any host takes."""
EVERYWHERE = ("cbam", "das", "se", "self_attention")
"""One mechanism of each kind meets every host; the others take turns."""


def _in_turn(mechanisms):
    """(host, mechanism): each of ``mechanisms`` with four families and three own hosts, the next one with the next."""
    found = {(host, mechanism) for host in (*FAMILIES, *ADVERSARIAL) for mechanism in EVERYWHERE}
    for all_hosts, count in ((FAMILIES, 4), (ADVERSARIAL, 3)):
        for n, mechanism in enumerate(sorted({*mechanisms} - {*EVERYWHERE})):
            sized = "size" in spec(mechanism).needs  # a module shared by maps of several sizes can carry none of these
            hosts = [host for host in all_hosts if not (sized and host == "own shared modules")]
            found |= {(hosts[(count * n + k) % len(hosts)], mechanism) for k in range(count)}
    order = [*FAMILIES, *ADVERSARIAL]
    return sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))


@pytest.fixture(scope="module")
def case():
    """case(name) -> the host, its outputs kept while the tests stay with it."""
    kept = {}

    def of(name):
        if name not in kept:
            kept.clear()
            with torch.random.fork_rng(devices=[]):
                kept[name] = conditions.Case(HOSTS[name])
        return kept[name]

    return of


def _wrong(case, mechanism, *names):
    torch.manual_seed(3)
    plugged = plug(copy.deepcopy(case.bare), mechanism, input=case.host.look())
    found = {name: conditions.DEEP[name](case, mechanism, plugged) for name in names}
    return {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(("name", "mechanism"), _in_turn(PLUGGED))
def test_a_host_is_itself_until_it_learns_and_its_twin_differs(case, name, mechanism):
    assert _wrong(case(name), mechanism, "f32", "differs") == {}


def test_every_mechanism_meets_some_of_each_and_every_family_many():
    pairs = _in_turn(PLUGGED)
    assert len(set(pairs)) == len(pairs)
    for mechanism in PLUGGED:
        met = {name for name, other in pairs if other == mechanism}
        assert (len(met & {*FAMILIES}), len(met & {*ADVERSARIAL})) >= (4, 3)
        assert met == {*FAMILIES, *ADVERSARIAL} or mechanism not in EVERYWHERE
    assert min(sum(name == family for name, _ in pairs) for family in FAMILIES) >= 8


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_networks_that_fight_back_keep_every_promise(case, name):
    assert _wrong(case(name), "cbam", *conditions.CORE) == {}


@pytest.mark.parametrize(("name", "mechanism"), LARGE.items())
def test_detectors_and_decoders(case, name, mechanism):
    assert _wrong(case(name), mechanism, "f32", "keys", "calls", "differs") == {}


def test_a_detector_is_compared_on_maps_boxes_and_losses(case):
    found = dict(case("torchvision RetinaNet, ResNet-18").seen(case("torchvision RetinaNet, ResNet-18").bare, [
        torch.randn(3, 72, 64), torch.randn(3, 64, 72)
    ]))  # fmt: skip
    assert sum(t.ndim == 4 for t in found["eval"]) == 5
    assert any(t.ndim == 2 and t.shape[1] == 4 and len(t) > 10 for t in found["eval"])
    assert [t.ndim for t in found["train"]] == [0, 0]
    assert len(found["gradients"]) > 50


def test_a_condition_notices(case):
    one = case("resnet")
    plugged = one.plug(copy.deepcopy(one.bare), "se")
    untouched = one.plug(copy.deepcopy(one.bare), "se")
    with torch.no_grad():
        row = plugs(plugged)[0]
        row.module.a.fill_(1e-3)
    assert conditions.float32(one, "se", plugged) == "eval"
    plugs(untouched)[0].module.mechanism.requires_grad_(False)
    assert conditions.float32(one, "se", untouched) == ""
    with torch.no_grad():
        untouched.bn1.running_mean.add_(1e-3)
    assert conditions.float32(one, "se", untouched) == "eval"
    for frozen in plugs(untouched):
        frozen.module.forward = lambda f: f
    assert conditions.differs(one, "se", unplug(copy.deepcopy(one.bare))) == "eval"


def test_a_dead_plug_is_not_said_to_learn(case, monkeypatch):
    one = case("resnet")
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    assert conditions.learns(one, "se", one.bare).startswith("20 of 20: layer1.0.bn2.saccade.a")


def test_a_region_of_autocast_keeps_wide_weights():
    host = adversarial_hosts.Narrow()
    plug(host, "se", where=["cast.0", "narrow"], input=SIZE)
    dtypes = {row.parent: {p.dtype for p in row.module.parameters()} for row in plugs(host)}
    assert dtypes == {"cast.0": {torch.float32}, "narrow": {torch.bfloat16}}
    assert not torch.is_autocast_enabled("cpu")


def test_a_host_may_answer_for_another_and_refuse_attributes():
    inner = adversarial_hosts.Branching()
    plug(inner, "se", where="stem.0", input=SIZE)
    outer = adversarial_hosts.Delegating()
    outer._modules["net"] = inner
    assert [row.parent for row in plugs(outer)] == ["net.stem.0"]
    plug(outer, "se", where="net.bright.0", input=SIZE)
    assert len(plugs(outer)) == 2
    assert plugs(unplug(outer)) == []


class Stages(nn.Module):
    """Declares stages that return lists."""

    feature_info = ({"module": "a"}, {"module": "b"})

    class Stage(nn.Sequential):
        """Returns what each of its modules made."""

        def forward(self, x):
            maps = []
            for module in self:
                maps.append(x := module(x))
            return maps

    def __init__(self):
        super().__init__()
        self.feature_info = list(self.feature_info)
        self.a, self.b = (self.Stage(nn.Conv2d(n, 8, 3, 2), nn.ReLU()) for n in (3, 8))

    def forward(self, x):
        return self.b(self.a(x)[-1])


def test_a_declared_stage_that_returns_several_ends_in_its_last_map():
    seen = inspect_unplugged(Stages(), SIZE)
    assert seen.structure.stages == ["a.1", "b.1"]
    assert [seen.sites[path].stage for path in seen.sites] == [0, 0, 1, 1]


def test_a_paper_with_more_stages_than_the_host_takes_all_and_says_so(caplog):
    spec = Spec(title="T", kind="gate", evidence="paper", position={"default": "stage[-3]"})
    with caplog.at_level("WARNING", "saccade"):
        chosen = select(inspect_unplugged(Stages(), SIZE), "paper", spec)
    assert (chosen.position, [site.path for site in chosen.sites]) == ("stage", ["a.1", "b.1"])
    assert "puts it at 'stage[-3]', which Stages does not have; using 'stage' instead" in caplog.text
    with pytest.raises(UserError, match=r"'stage\[-3\]' leaves none of 2 sites: a.1, b.1"):
        select(inspect_unplugged(Stages(), SIZE), "stage[-3]", spec)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_is_refused_by_name():
    host = nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.trace(nn.Conv2d(8, 8, 3), torch.randn(1, 8, 9, 9)))
    with pytest.raises(UserError, match="the module '1' is compiled and cannot be traced"):
        plug(host, "se", where="0", input=SIZE)


def test_a_module_that_is_never_called_is_no_site():
    class Bypass(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv.forward(x)

    with pytest.raises(UserError, match="Bypass has no site"):
        plug(Bypass(), "se", input=SIZE)
    assert sites(nn.Sequential(Bypass()), SIZE)[0].path == "0"
