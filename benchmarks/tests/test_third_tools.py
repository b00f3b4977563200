"""A plugged network after other libraries' tools: a sample, and that the benchmark sees what is wrong in silence."""

import pytest

import saccade
import third_tools
from saccade.parent_class import base_class
from saccade.surgery.guard import guarding_hook
from tools_of_others import TOOLS, Tool

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools warn of their own age; as errors they would not apply

CHEAP = [name for name, tool in TOOLS.items() if not tool.slow]
PAIRS = [("user's Sequential", "se"), ("own YOLO-like", "simam"), ("own YOLO-like", "eca")]


def _pair(host, mechanism, *, hooked=False):
    return third_tools.Pair(third_tools.HOSTS[host], *third_tools.MECHANISMS[mechanism], hooked=hooked)


@pytest.mark.parametrize(("host", "mechanism"), PAIRS)
def test_a_plugged_network_computes_what_the_oracle_does_or_says_so(host, mechanism):
    pair = _pair(host, mechanism)
    results = {name: third_tools.judged(pair, TOOLS[name]) for name in CHEAP if not TOOLS[name].hooked}
    assert {name: result for name, result in results.items() if result[0] == "fails"} == {}
    assert sum(status == "equal" for status, _ in results.values()) >= 6


@pytest.mark.parametrize("name", ["torch.compile", "torch.jit.trace", "torch.export"])
def test_graphs_hold_the_plugs(name):
    assert third_tools.judged(_pair("user's Sequential", "simam"), TOOLS[name]) == ("equal", "")


def test_hooks_that_were_there_before_see_the_plugged_map():
    pair = _pair("user's Sequential", "se", hooked=True)
    assert third_tools.judged(pair, TOOLS["hooks registered before"]) == ("equal", "")


def test_folding_a_norm_into_a_plugged_convolution_raises():
    pair = _pair("own YOLO-like", "simam")
    status, why = third_tools.judged(pair, TOOLS["fuse as YOLO does"])
    assert status == "raises"
    assert why.startswith("UserError")


def _base_classes(network, x):
    for module in network.modules():
        module.__class__ = base_class(module)
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is guarding_hook]:
            del module._forward_pre_hooks[key]
    return network


def _other_a(network, x):
    for row in saccade.plugs(network):
        row.module.a.data.mul_(0.9)
    return network


def _raising(network, x):
    def broken(x):
        raise RuntimeError("a tensor has no such attribute")

    return broken if saccade.plugs(network) else network


@pytest.mark.parametrize("break_", [_base_classes, _other_a, _raising])
def test_what_is_wrong_in_silence_fails(break_):
    pair = _pair("user's Sequential", "se")
    assert third_tools.judged(pair, Tool(break_))[0] == "fails"


def test_a_plug_without_effect_shows_nothing():
    pair = _pair("user's Sequential", "se")
    for row in saccade.plugs(pair.plugged):
        row.module.a.data.zero_()
    assert third_tools.judged(pair, Tool(lambda network, x: network))[0] == "fails"


def test_a_tool_that_fails_without_plugs_does_not_apply():
    def refuse(network, x):
        raise ValueError("not this network")

    assert third_tools.judged(_pair("user's Sequential", "se"), Tool(refuse))[0] == "not applicable"


@pytest.mark.parametrize("name", ["deepcopy", "pickle", "torch.fx fuse", "IntermediateLayerGetter"])
def test_plugs_that_read_each_other_are_run_as_one_call(name):
    assert third_tools.judged(_pair("torchvision resnet18", "emca"), TOOLS[name]) == ("equal", "")


@pytest.mark.parametrize("name", ["deepcopy", "torch.fx fuse"])
def test_an_entering_plug_is_wrapped_on_what_its_module_receives(name):
    pair = _pair("timm densenet121", "eca")
    assert {row.module.site.entering for row in saccade.plugs(pair.plugged)} == {True, False}
    assert third_tools.judged(pair, TOOLS[name]) == ("equal", "")


@pytest.mark.parametrize("mechanism", ["simam", "dat", "stn", "sge", "ran"])
def test_torch_jit_traces_mechanisms_that_divide_by_a_size(mechanism):
    pair = third_tools.Pair(third_tools.HOSTS["user's Sequential"], mechanism, "paper")
    assert third_tools.judged(pair, TOOLS["torch.jit.trace"]) == ("equal", "")
