"""Tools that strangers use around a network: afterwards it computes with its plugs, or it raises."""

import copy
import functools
import pickle
import threading
import warnings
from importlib import import_module

import pytest
import timm
import timm.layers
import timm.utils
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.quantization import resnet18 as quantizable_resnet18

from saccade import UserError
from saccade.contract.randomize import randomize
from saccade.parent_class import CHILD, base_class
from saccade.surgery import one_call, parameter_groups, plug, plugs, record, replace, unplug

FORMER = import_module("saccade.surgery.carrying")  # a name that only pickles still use

SIZE = (3, 64, 48)
X = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


class ConvNormAct(nn.Module):
    """As detectors build it: the norm is folded away before inference."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()

    def forward_fused(self, x):
        return self.conv(x).relu()

    def fuse(self):
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fused


def _layers():
    return nn.Sequential(ConvNormAct(3, 8), ConvNormAct(8, 16), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1))


def _awake(host, a=0.5):
    for row in plugs(host):
        if row.module.a is not None:
            nn.init.constant_(row.module.a, a)
    return host.eval()


def _plugged(host, mechanism="se", **options):
    host = randomize(host).eval()
    before = host(X)
    _awake(plug(host, mechanism, input=SIZE, **options))
    assert (host(X) - before).abs().max() > 1e-3  # what follows would otherwise hold without any plug
    return host


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_hooks_that_were_there_first_see_the_plugged_map(make):
    host, seen = make("torchvision resnet").eval(), {}
    for path in ("layer2", "layer2.0"):
        host.get_submodule(path).register_forward_hook(lambda m, args, y, path=path: seen.update({path: y}))
    plug(host, "eca", where="stage", start="paper", input=SIZE)
    entered = []
    host.layer3.register_forward_pre_hook(lambda m, args: entered.append(args[0]))
    host(X)
    torch.testing.assert_close(seen["layer2"], seen["layer2.0"], rtol=0, atol=0)
    torch.testing.assert_close(seen["layer2"], entered[0], rtol=0, atol=0)


def test_a_pre_hook_that_was_there_first_sees_the_plugged_map(make):
    host, seen = make("torchvision densenet").eval(), []
    host.features.transition1.norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    host.features.denseblock1.register_forward_hook(lambda m, args, y: seen.append(y))
    plug(host, "eca", where="features.denseblock1", start="paper", input=SIZE)
    seen.clear()
    host(X)
    gate = host.features.transition1.norm.saccade.mechanism
    torch.testing.assert_close(seen[1], gate(seen[0]), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["xception41", "convnext_atto"])
def test_networks_that_collect_features_by_hooks_learn_at_every_stage(kind):
    options, side = ({}, 160) if kind == "xception41" else ({"feature_cls": "hook"}, 64)
    host, size = timm.create_model(kind, features_only=True, **options), (3, side, side)
    plug(host, "eca", where="stage", input=size)
    with torch.enable_grad():
        sum(f.square().mean() for f in host.train()(torch.randn(2, *size))).backward()
    assert [row.site for row in plugs(host) if row.module.a.grad is None] == []
    assert len(plugs(host)) == 4


def _frozen(host):
    timm.utils.freeze(host, ["layer1"])
    return host


@pytest.mark.parametrize("tool", [_frozen, timm.layers.freeze_batch_norm_2d])  # type: ignore[attr-defined]
def test_freezing_that_exchanges_norms_is_noticed(tool):
    host = tool(_plugged(timm.create_model("resnet10t", num_classes=5)))
    for call in (host, host.forward_features, plugs):
        with pytest.raises(UserError, match=r"bn2.*, the plug is lost"):
            call(host if call is plugs else X)
    kept = _plugged(timm.create_model("resnet10t", num_classes=5), where="block")
    wanted = kept(X)
    torch.testing.assert_close(tool(kept)(X), wanted)


def test_a_network_made_of_parts_is_guarded_too():
    host = _plugged(timm.create_model("resnet10t", num_classes=5))
    body = nn.Sequential(*list(host.children())[:-1])
    body(X)
    host.layer3[0].bn2 = nn.Identity()
    with pytest.raises(UserError, match=r"the plug is lost"):
        body(X)


def test_reparameterisation():
    host = _plugged(timm.create_model("repghostnet_050", num_classes=5), "eca", where="residual")
    wanted = host(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = timm.utils.reparameterize_model(host)
    try:
        torch.testing.assert_close(small(X), wanted, rtol=1e-3, atol=1e-3)
    except UserError as error:
        assert "the plug is lost" in str(error)  # noqa: PT017  # either is right; a third would be silent


@pytest.mark.parametrize(("mechanism", "where"), [("se", "paper"), ("simam", "conv3x3"), ("eca", "block")])
def test_fx_fusing_keeps_plugs_in_their_places(mechanism, where):
    host = _plugged(timm.create_model("resnet10t", num_classes=5), mechanism, where=where)
    fused = fuse(host)
    torch.testing.assert_close(fused(X), host(X), rtol=1e-3, atol=1e-3)
    assert [row.parent for row in plugs(fused)] == [row.parent for row in plugs(host)]


@pytest.mark.parametrize("mechanism", ["se", "simam"])
@pytest.mark.parametrize("qat", [False, True])
def test_eager_fusing_keeps_plugs_in_their_places_or_is_noticed(mechanism, qat):
    host = _plugged(quantizable_resnet18(weights=None, num_classes=5), mechanism).train(qat)
    wanted = copy.deepcopy(host)(X)
    host.fuse_model(is_qat=qat)
    if qat:  # convolution, norm and plug stand in a Sequential now, in their order
        torch.testing.assert_close(host(X), wanted)
        return
    with pytest.raises(UserError, match=r"the plug is (lost|in the wrong place)"):
        host(X)


def test_eager_fusing_of_three_folds_the_norm_in_front_of_the_plug():
    host = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    _plugged(host, "simam", where="0")
    fused = torch.ao.quantization.fuse_modules(host, ["0", "1", "2"])
    with pytest.raises(UserError, match=r"at 0, the plug is in the wrong place"):
        fused(X)


def test_a_hook_that_fusing_copies_and_moves_runs_its_plug_once(make):
    host = _plugged(make("torchvision densenet"), "eca", where="features.denseblock1")
    wanted = host(X)
    rows = [row for row in plugs(host) if row.module.site.entering]
    assert rows
    for row in rows:
        parent = host.get_submodule(row.parent)
        parent.register_forward_pre_hook(next(iter(parent._forward_pre_hooks.values())))
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_folded_by_hand_in_front_of_a_plug_is_noticed(bias):
    host = nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU())
    _plugged(host, "simam", where=["0", "2"])
    copied = copy.deepcopy(host)
    host[0], host[1] = fuse_conv_bn_eval(host[0], host[1]), nn.Identity()
    for call in (host, copy.deepcopy(host), pickle.loads(pickle.dumps(host))):
        with pytest.raises(UserError, match=r"at 0, the plug is in the wrong place: the norm after the convolution is"):
            call(X)
    copied[3] = nn.Identity()  # no norm: nothing has been folded
    copied(X)


def test_a_module_that_fuses_itself_runs_its_plug_behind_the_fused_forward():
    host = _plugged(_layers(), "eca", where=["0", "1"])
    wanted = host(X)
    for module in host[:2]:
        module.fuse()
    torch.testing.assert_close(host(X), wanted)
    torch.testing.assert_close(copy.deepcopy(host)(X), wanted)
    assert len(plugs(host)) == 2
    unplug(host)
    assert (host(X) - wanted).abs().max() > 1e-3


def test_a_convolution_that_carries_a_plug_and_is_made_anew_is_noticed():
    host = _plugged(_layers(), "eca", where=["0.conv", "1.conv"])
    for module in host[:2]:
        module.fuse()
    with pytest.raises(UserError, match=r"at 0\.conv, 1\.conv, the plug is in the wrong place"):
        host(X)


def test_a_forward_that_wraps_the_old_one_runs_the_plug_once():
    host = _plugged(_layers(), "eca", where=["0", "1"])
    wanted = host(X)

    def wrapped(old):
        return lambda x: old(x)  # noqa: PLW0108

    host[0].forward = wrapped(host[0].forward)
    host[1].forward = functools.update_wrapper(functools.partial(host[1].forward), host[1].forward)
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)


class Kept:
    """A tool that keeps the old forward in an object and stands in its place."""

    def __init__(self, module):
        self.old, module.forward = module.forward, self

    def __call__(self, *args):
        return self.old(*args)


def test_a_forward_kept_anywhere_runs_the_plug_once_and_one_that_is_not_called_too():
    host = _plugged(_layers(), "eca", where=["0", "1"])
    wanted, block = host(X), host[0]
    old, table = block.forward, {"old": block.forward}
    fast = functools.wraps(old)(lambda x: block.bn(block.conv(x)).relu())  # looks like the old one, does not call it
    for forward in (Kept(block), table["old"], fast):
        block.forward = forward
        torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)
        del block.forward
        torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)
    block.forward = old
    unplug(host)
    bare = host(X)
    _awake(plug(host, "eca", where=["0"], input=SIZE))
    assert (host(X) - bare).abs().max() > 1e-4
    assert not vars(unplug(host)[0]).keys() & {"_saccade_ran"}


def test_one_plug_is_given_up_and_the_others_stay():
    host = _plugged(_layers(), "eca", where=["0", "1", "2"])
    host[1] = ConvNormAct(8, 16).eval()
    with pytest.raises(UserError, match=r"saccade.unplug\(network, only=\['1'\]\)"):
        host(X)
    unplug(host, only=["1"])
    host(X)
    assert [row.parent for row in plugs(host)] == ["0", "2"]
    with pytest.raises(UserError, match=r"'3' matches no plug or replacement.*Paths: 0, 2"):
        unplug(host, only="3")
    unplug(host, only="0")
    assert [row.parent for row in plugs(host)] == ["2"]
    assert not plugs(unplug(host))


def test_plugs_in_a_traced_graph_are_not_taken_out():
    host = _plugged(_layers(), "eca", where=["0", "1"])
    traced = torch.fx.symbolic_trace(host)
    wanted = traced(X)
    with pytest.raises(UserError, match=r"called by a graph of torch\.fx"):
        unplug(traced)
    torch.testing.assert_close(traced(X), wanted, rtol=0, atol=0)


def test_a_renumbered_sequential_is_no_loss():
    host = _plugged(nn.Sequential(_layers(), nn.Flatten()), "eca", where=["0.0", "0.1"])
    wanted = host(X)
    host[0].insert(0, nn.Identity())
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)


class Registry(type):
    """A metaclass that keeps the classes it makes by name."""

    kinds: dict[str, type] = {}  # noqa: RUF012

    def __new__(cls, name, bases, members):
        made = super().__new__(cls, name, bases, members)
        cls.kinds[name] = made
        return made


class Known(ConvNormAct, metaclass=Registry):
    pass


class Reduced(ConvNormAct):
    def __reduce__(self):
        return type(self), (3, 8), self.__dict__


@pytest.mark.parametrize("kind", [Known, Reduced])
def test_registries_and_ways_of_pickling_of_the_class_stay(kind):
    host = _plugged(nn.Sequential(kind(3, 8), nn.ReLU()), "eca", where="0")
    assert Registry.kinds == {"Known": Known}
    wanted = host(X)
    for other in (copy.deepcopy(host), pickle.loads(pickle.dumps(host))):
        torch.testing.assert_close(other(X), wanted, rtol=0, atol=0)
        assert type(unplug(other)[0]) is kind


def test_a_module_with_a_forward_of_its_own_and_a_class_that_registers_its_kinds():
    kinds = []

    class Registered(nn.Conv2d):
        def __init_subclass__(cls):
            kinds.append(cls)

    host = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), Registered(8, 8, 3), nn.ReLU())).eval()
    inner = host[0].forward
    host[0].forward = lambda x: 2 * inner(x)
    bare = copy.deepcopy(host)
    before = host(X)
    plug(host, "eca", where=["0", "1"], input=SIZE)
    torch.testing.assert_close(host(X), before, rtol=0, atol=0)
    _awake(host)
    assert kinds == []
    assert (host(X) - before).abs().max() > 1e-3
    torch.testing.assert_close(unplug(host)(X), bare(X), rtol=0, atol=0)


def test_parametrising_pruning_and_what_derives_from_the_class(make):
    host = make("torchvision resnet").eval()
    before, kinds = host(X), [type(m) for m in host.modules()]
    _awake(plug(host, "eca", where="conv3x3", input=SIZE))
    wanted = host(X)
    convolution = host.get_submodule(plugs(host)[0].parent)
    parametrize.register_parametrization(convolution, "weight", nn.Identity())
    prune.l1_unstructured(host.get_submodule(plugs(host)[1].parent), "weight", amount=0.0)
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)
    assert len(plugs(host)) > 1
    torch.testing.assert_close(unplug(host)(X), before, rtol=0, atol=0)
    parametrize.remove_parametrizations(convolution, "weight")
    assert [type(m) for m in host.modules()] == kinds


def test_classes_copies_and_pickles(make):
    host = make("torchvision resnet")
    kinds = [type(m) for m in host.modules()]
    plug(host, "eca", where="block", start="paper", input=SIZE)
    wanted = host.eval()(X)
    for other in (copy.deepcopy(host), pickle.loads(pickle.dumps(host)), copy.copy(host)):
        torch.testing.assert_close(other(X), wanted, rtol=0, atol=0)
    twin = copy.deepcopy(host)
    assert type(twin.layer1[0]) is type(host.layer1[0])
    assert [type(m) for m in unplug(twin).modules()] == kinds
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)
    assert isinstance(host.layer1[0], kinds[kinds.index(base_class(host.layer1[0]))])


def test_tables_of_classes_find_a_parent_and_exact_questions_do_not():
    host = _plugged(_layers(), "eca", where=["0.conv", "1"])
    convolution, block = host[0].conv, host[1]
    assert type(convolution) in {nn.Conv2d: 1}  # as counters of operations ask
    assert {type(convolution): 1}.keys() == {nn.Conv2d}
    assert type(block) == ConvNormAct  # noqa: E721
    assert type(convolution) is not nn.Conv2d  # as fusing asks
    assert type(convolution) != nn.Conv1d  # noqa: E721
    parametrize.register_parametrization(convolution, "weight", nn.Identity())
    assert type(convolution) != nn.Conv2d  # noqa: E721


def test_networks_that_earlier_versions_pickled_run_and_unplug(make):
    host = make("torchvision resnet").eval()
    before = host(X)
    _awake(plug(host, "eca", input=SIZE))
    wanted = host(X)
    for row in plugs(host):  # as it was attached: hooks alone, and a guard of the host alone
        parent = host.get_submodule(row.parent)
        parent.__class__ = base_class(parent)
        parent.register_forward_hook(FORMER._leaving)
        for name in ("parent_state", "__module__"):
            del vars(row.module)[name]
    for module in host.modules():
        if module is not host and vars(module).pop("_saccade_carriers", None):
            module._forward_pre_hooks.clear()
    assert FORMER._guarding in host._forward_pre_hooks.values()
    assert FORMER._entering.__name__
    old = pickle.loads(pickle.dumps(host))
    torch.testing.assert_close(old(X), wanted, rtol=0, atol=0)
    assert len(plugs(old)) == len(plugs(host))
    torch.testing.assert_close(unplug(old)(X), before, rtol=0, atol=0)


def test_record_of_a_compiled_network_that_has_run():
    host = _plugged(timm.create_model("resnet10t", num_classes=5))
    compiled = torch.compile(host, backend="eager")
    wanted = compiled(X)
    with record(compiled) as maps:
        torch.testing.assert_close(compiled(X), wanted)
    assert len(maps) == len(plugs(host))
    kept = dict(maps)
    compiled(X + 1)
    assert [site for site in kept if not torch.equal(maps[site], kept[site])] == []
    torch._dynamo.reset()


def test_a_compiled_network_that_loses_a_plug_raises():
    host = _plugged(_layers(), "eca", where=["0", "1"])
    compiled = torch.compile(host, backend="eager")
    compiled(X)
    host[1] = ConvNormAct(8, 16).eval()
    with pytest.raises(Exception, match="the plug is lost"):
        compiled(X)
    torch._dynamo.reset()


def test_record_is_of_its_own_thread(make):
    host = plug(make("torchvision resnet").eval(), "se", input=SIZE)
    with record(host) as maps:
        host(X)
        kept = dict(maps)
        other = threading.Thread(target=host, args=(X + 1,))
        other.start()
        other.join()
        assert kept.keys() == maps.keys()
        assert [site for site in kept if maps[site] is not kept[site]] == []


def test_plugging_while_another_thread_runs_the_host(make):
    host = make("torchvision resnet").eval()
    wanted, stop, seen = host(X), threading.Event(), []

    def run():
        with torch.no_grad():
            while not stop.is_set():
                seen.append(torch.equal(host(X), wanted))

    other = threading.Thread(target=run)
    other.start()
    try:
        plug(host, "eca", where="block", input=SIZE)
    finally:
        stop.set()
        other.join()
    assert all(seen)
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)


class Writes(nn.Module):
    def __init__(self, channels, by=1.0):
        super().__init__()
        self.by = by
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.add_(self.by) * self.scale


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_a_mechanism_that_writes_to_its_input_is_refused(make, start):
    host = make("torchvision resnet").eval()
    before = host(X)
    with pytest.raises(UserError, match=r"Writes at layer1.* writes into the map it receives"):
        plug(host, Writes, where="block", start=start, input=SIZE)
    torch.testing.assert_close(host(X), before, rtol=0, atol=0)


class Tokens(nn.Module):
    """A map that was tokens has strides that a batch of one does not determine."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, padding=1)
        self.mix, self.inner = nn.Linear(24, 24), nn.Identity()

    def forward(self, x):
        f = self.first(x)
        tokens = self.mix(f.flatten(2).transpose(1, 2))
        return self.last(self.inner(tokens.transpose(1, 2).reshape(f.shape)))


@pytest.mark.parametrize("mechanism", ["se", "cbam", "gc", "self_attention"])
def test_maps_of_unusual_strides_come_out_the_same_to_the_last_bit(mechanism):
    host = randomize(Tokens()).eval()
    pictures = [torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(n)) for n in (1, 1, 2)]
    before = [host(x) for x in pictures]
    strides = []
    host.last.register_forward_pre_hook(lambda m, args: strides.append(args[0].stride()))
    wanted = [host(x) for x in pictures] and strides[:]
    plug(host, mechanism, where="inner", input=SIZE)
    strides.clear()
    torch.testing.assert_close([host(x) for x in pictures], before, rtol=0, atol=0)
    assert strides == wanted


def test_a_part_of_the_host_is_a_call_by_request():
    host = _plugged(timm.create_model("resnet10t", num_classes=5), "emca", start="paper")
    whole = host(X)
    for call in (host.forward_features, create_feature_extractor(host, ["layer4"])):
        with pytest.raises(UserError, match=r"with saccade\.one_call\(host\)"):
            call(X)
    with one_call(host):
        features = host.forward_features(X)
        torch.testing.assert_close(host.forward_head(features), whole)
    extractor = create_feature_extractor(host, ["layer4"])
    with one_call(extractor):
        torch.testing.assert_close(extractor(X)["layer4"], features)
    torch.testing.assert_close(host(X), whole, rtol=0, atol=0)


@pytest.mark.parametrize("mechanism", ["bam", "das", "stn", "dcn2", "sasa", "mhsa"])
def test_feature_extraction_keeps_mechanisms_whole(mechanism):
    host = randomize(timm.create_model("resnet10t", num_classes=5)).eval()
    change = replace if mechanism in ("dcn2", "sasa", "mhsa") else plug
    change(host, mechanism, input=SIZE)
    _awake(host)
    features = create_feature_extractor(host, {"layer4": "last"})(X)["last"]
    torch.testing.assert_close(features, host.forward_features(X))


def test_a_replaced_convolution_without_a_kernel_is_no_convolution(make):
    host = make("torchvision resnet").eval()
    before = host(X)
    replace(host, "sk", input=SIZE)
    convolutions = [m for m in host.modules() if isinstance(m, nn.Conv2d)]
    assert [m for m in convolutions if m.weight is None] == []
    for module in convolutions:
        nn.init.kaiming_normal_(module.weight.clone())
    gone = next(m for m in host.modules() if hasattr(m, "saccade_conv"))
    assert not isinstance(gone, nn.Conv2d)
    assert gone.stride is not None
    torch.testing.assert_close(unplug(host)(X), before, rtol=0, atol=0)
    replace(host, "dcn2", input=SIZE)
    assert isinstance(next(m for m in host.modules() if hasattr(m, "saccade_conv")), nn.Conv2d)


def test_a_replaced_convolution_that_is_exchanged_is_noticed(make):
    host = replace(make("torchvision resnet").eval(), "dcn2", input=SIZE)
    path = next(path for path, m in host.named_modules() if hasattr(m, "saccade_conv"))
    parent, name = host.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
    old = getattr(parent, name)
    setattr(parent, name, nn.Conv2d(old.in_channels, old.out_channels, 3, old.stride, 1))
    with pytest.raises(UserError, match="the replacement is lost"):
        host(X)


class Wrapper(nn.Module):
    """As adapter libraries wrap a layer: the layer is inside, its call goes on to it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base

    def forward(self, *args):
        return self.base_layer(*args)


class Saved(nn.Module):
    """As adapter libraries keep a module beside a copy that is trained."""

    def __init__(self, module):
        super().__init__()
        self.original_module = module
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(module)})
        self.active_adapters = ["default"]
        module.requires_grad_(False)

    def forward(self, *args):
        return self.modules_to_save["default"](*args)


def test_wrapped_parents_and_wrapped_plugs_are_found(make):
    host = _plugged(make("torchvision resnet"), "se")
    wanted, paths = host(X), [row.parent for row in plugs(host)]
    block = host.layer2[0]
    block.bn2 = Wrapper(block.bn2)
    norm = host.layer3[0].bn2
    setattr(norm, CHILD, Saved(getattr(norm, CHILD)))
    torch.testing.assert_close(host(X), wanted, rtol=0, atol=0)
    rows = plugs(host)
    assert len(rows) == len(paths)
    trained = norm.saccade.modules_to_save["default"]
    assert any(row.module is trained for row in rows)
    groups = {g["name"]: {id(p) for p in g["params"]} for g in parameter_groups(host, 0.1)}
    attention = groups["attention"] | groups["attention, no decay"]
    assert {id(p) for p in trained.parameters()} <= attention
    assert not attention & (groups["host"] | groups["host, no decay"])
    type(block.bn2.base_layer)(4)  # a new module of the class has no plug and is the plain module
    block.bn2 = Wrapper(nn.Identity())
    with pytest.raises(UserError, match=r"at layer2\.0\.bn2, the plug is lost"):
        host(X)


def test_a_host_that_was_sharded_or_replicated_is_refused(make, monkeypatch):
    from torch.distributed import _composable, fsdp

    class Sharded(fsdp.FSDPModule, nn.Sequential):
        pass

    host = make("torchvision resnet")
    host.layer1.__class__ = Sharded
    with pytest.raises(UserError, match=r"wrapped in FSDP, which would not synchronise"):
        plug(host, "se", input=SIZE)
    host = make("torchvision resnet")
    monkeypatch.setattr(_composable, "_get_registry", lambda module: {"replicate": 1} if module is host else None)
    with pytest.raises(UserError, match=r"wrapped in replicate, which"):
        plug(host, "se", input=SIZE)
