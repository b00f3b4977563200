"""What ``plug`` draws, refuses, rolls back, counts; what ``plugs`` notices."""

import contextlib
import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnet50

from oracles import counts
from saccade import UserError
from saccade.specs import Spec
from saccade.surgery import Plug, parameter_groups, plug, plug_control, plugs, replace, unplug
from saccade.surgery.controls import ExtraBottleneck
from saccade.surgery.mechanism import Mechanism

SIZE = (3, 64, 48)


COUNTED = [
    # Network, mechanism, options, parameters in millions: counted with the authors' modules.
    (resnet50, "se", {}, "28.088"),
    (resnet50, "se", {"bias": False}, "28.072"),
    (resnet50, "cbam", {}, "28.090"),
    (resnet50, "eca", {"kernel_size": [3, 5, 5, 7]}, "25.557"),
    (resnet50, "das", {}, "36.908"),
    (resnet18, "cbam", {}, "11.779"),
    (resnet18, "das", {}, "12.440"),
    (mobilenet_v2, "se", {"bias": False}, "3.533"),
    (mobilenet_v2, "cbam", {}, "3.537"),
]


@pytest.fixture(scope="module")
def bare():
    kept = {}

    def of(make):
        if make not in kept:
            kept[make] = make(weights=None)
        return unplug(kept[make])

    return of


@pytest.mark.parametrize(("make", "mechanism", "options", "millions"), COUNTED)
def test_networks_of_the_papers_have_their_size(bare, make, mechanism, options, millions):
    host = plug(bare(make), mechanism, start="paper", input=SIZE, **options)
    assert f"{sum(p.numel() for p in host.parameters()) / 1e6:.3f}" == millions
    assert [row for row in plugs(host) if row.module.a is not None] == []


@pytest.mark.parametrize(
    ("official", "make", "mechanism", "options"),
    [
        ("ECANet/eca_resnet18 k=3577", resnet18, "eca", {"kernel_size": [3, 5, 7, 7]}),
        ("ECANet/eca_resnet50 k=3557", resnet50, "eca", {"kernel_size": [3, 5, 5, 7]}),
        ("attention-module/ResNet18 CBAM", resnet18, "cbam", {}),
        ("attention-module/ResNet50 CBAM", resnet50, "cbam", {}),
    ],
)
def test_the_authors_networks_have_that_size_to_the_last_parameter(bare, official, make, mechanism, options):
    host = plug(bare(make), mechanism, start="paper", input=SIZE, **options)
    assert sum(p.numel() for p in host.parameters()) == counts()[official]["params"]


def test_rows_tell_what_is_where(make):
    host = plug(make("torchvision resnet"), "se", where="stage", rd_ratio=0.25, input=SIZE)
    rows = plugs(host)
    assert [(r.site, r.parent, r.channels, r.size, r.stage) for r in rows] == [
        ("layer1", "layer1.1", 64, (16, 12), 0),
        ("layer2", "layer2.0", 128, (8, 6), 1),
        ("layer3", "layer3.0", 256, (4, 3), 2),
        ("layer4", "layer4.0", 512, (2, 2), 3),
    ]
    assert [r.parameters for r in rows] == [2 * c * c // 4 + c + c // 4 + 1 for c in (64, 128, 256, 512)]
    assert {(r.mechanism, r.position) for r in rows} == {("se", "stage")}
    assert [r for r in rows if r.module is not host.get_submodule(r.parent).saccade] == []
    wrapped = nn.ModuleDict({"net": host})
    assert [(r.site, r.parent) for r in plugs(wrapped)][:1] == [("net.layer1", "net.layer1.1")]
    assert plugs(make("torchvision resnet")) == []


def test_the_plug_is_its_equation():
    mechanism = nn.Conv2d(3, 3, 1)
    host = nn.Sequential(nn.Conv2d(3, 3, 1))
    plug(host, lambda channels: mechanism, where="0", input=SIZE)
    one = host[0].saccade
    f = torch.randn(2, 3, 5, 4)
    assert isinstance(one, Plug)
    assert one.a.shape == (1,)
    with torch.no_grad():
        one.a.fill_(0.3)
        torch.testing.assert_close(one(f), f + 0.3 * (mechanism(f) - f))
        one.a.fill_(0.0)
        torch.testing.assert_close(one(f), f, rtol=0, atol=0)
    assert one(f.double().float()).dtype == f.dtype
    unplug(host)
    plug(host, lambda channels: mechanism, where="0", start="paper", input=SIZE)
    torch.testing.assert_close(host[0].saccade(f), mechanism(f), rtol=0, atol=0)


def test_the_mechanism_is_drawn_from_the_global_state_and_leaves_it(make):
    def drawn(seed):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        host = plug(make("torchvision resnet"), "se", start="paper", input=SIZE)
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        return [row.module.mechanism.squeeze.weight for row in plugs(host)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    torch.testing.assert_close(list(first), list(again), rtol=0, atol=0)
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[1])  # one site after the other, not each from the start


def test_mechanisms_take_the_mode_of_their_parent(make):
    host = make("torchvision resnet").train()
    host.layer2.eval()
    modes = {row.parent: row.module.mechanism.training for row in plugs(plug(host, "cbam", input=SIZE))}
    assert modes == {path: not path.startswith("layer2") for path in modes}


def test_a_mechanism_that_is_neutral_by_itself_gets_no_a(make):
    host = plug(make("torchvision resnet"), "saccade.surgery.controls.extra:ExtraBottleneck", width=3, input=SIZE)
    x = torch.randn(2, *SIZE)
    assert [row for row in plugs(host) if row.module.a is not None] == []
    torch.testing.assert_close(host.eval()(x), make("torchvision resnet").eval()(x), rtol=0, atol=0)


def test_an_option_may_take_the_neutral_start_away(make):
    # gc adds zero at its start; with fuse_scale it also halves the map, and then it needs its a
    x = torch.randn(2, *SIZE)
    plain = make("torchvision resnet").eval()(x)
    added = plug(make("torchvision resnet"), "gc", input=SIZE)
    assert [row for row in plugs(added) if row.module.a is not None] == []
    scaled = plug(make("torchvision resnet"), "gc", fuse_scale=True, input=SIZE)
    assert [row for row in plugs(scaled) if row.module.a is None] == []
    mixed = plug(make("torchvision resnet"), "gc", where="stage", fuse_scale=[False, True, False, True], input=SIZE)
    assert [row.module.a is not None for row in plugs(mixed)] == [False, True, False, True]
    for host in (added, scaled, mixed):
        torch.testing.assert_close(host.eval()(x), plain, rtol=0, atol=0)
    halved = plug(make("torchvision resnet"), "gc", start="paper", fuse_scale=True, input=SIZE)
    assert not torch.equal(halved.eval()(x), plain)


def test_a_list_is_one_value_per_stage(make):
    host = plug(make("torchvision resnet"), "eca", kernel_size=[3, 5, 5, 7], input=SIZE)
    kernels = {row.parent: row.module.mechanism.conv.kernel_size[0] for row in plugs(host)}
    assert list(kernels.values()) == [3, 3, 5, 5, 7]
    assert [row.module.options for row in plugs(host)][-1] == {"kernel_size": 7}
    with pytest.raises(UserError, match=r"kernel_size=\[3, 5\] has 2 values.*the 5 sites lie in 4 stages"):
        plug(make("torchvision resnet"), "eca", kernel_size=[3, 5], input=SIZE)


def test_an_option_that_is_a_list_by_itself_is_passed_whole():
    class Listed(nn.Module):
        def __init__(self, channels, sizes=(1, 2)):
            super().__init__()
            self.sizes = sizes

        def forward(self, x):
            return x

    host = nn.Sequential(nn.Conv2d(3, 4, 3))
    plug(host, Listed, where="0", sizes=[5, 6, 7], input=SIZE)
    assert host[0].saccade.mechanism.sizes == [5, 6, 7]


class Greedy(nn.Module):
    """Runs its children one after the other, as a Sequential does, and is none."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


class Sly(Greedy):
    """The same, where nobody sees it."""

    def forward(self, x):
        return super().forward(x)


class Halves(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x[:, :, ::2]


class OneChannel(Halves):
    def forward(self, x):
        return x.mean(1, keepdim=True)


class Doubles(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return x.double()


class Fails(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        raise IndexError("no such place")


class Interrupted(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        raise KeyboardInterrupt


def _skeleton(host):
    return [
        (name, set(m.__dict__), list(m._modules), dict(m._forward_hooks), dict(m._forward_pre_hooks),
         dict(m._load_state_dict_pre_hooks))
        for name, m in host.named_modules()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mechanism", "options", "message"),
    [
        ("cbma", {}, "no mechanism is called 'cbma'. Did you mean 'cbam'"),
        ("se", {"rd_ration": 1}, r"se has no option 'rd_ration'. Did you mean 'rd_ratio'\?"),
        ("se", {"rd_ratio": 1 / 100}, r"at layer1.0.bn2: se: channels \* rd_ratio must be at least 1, got 64 \* 0.01"),
        ("se", {"start": "warm"}, "start must be 'neutral' or 'paper', got 'warm'"),
        (3, {}, "got 3"),
        (Halves, {}, r"turned \(\(1, 64, 16, 12\), torch.float32\) into \(\(1, 64, 8, 12\)"),
        (OneChannel, {}, r"turned \(\(1, 64, 16, 12\), torch.float32\) into \(\(1, 1, 16, 12\)"),
        ("se", {"where": None}, "where is a position.*got None"),
        ("se", {"where": [1]}, r"where is a position.*got \[1\]"),
        (Halves, {"start": "paper"}, r"turned \(\(1, 64, 16, 12\), torch.float32\) into \(\(1, 64, 8, 12\)"),
        (Doubles, {"start": "paper"}, "torch.float64"),
        (Fails, {}, "does not run with .*Fails plugged: IndexError: no such place"),
        (Halves, {"width": 3}, "width"),
        (lambda channels: "gate", {}, "returned a str, which is not a torch.nn.Module"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_refusals_leave_the_host_as_it_was(make, mechanism, options, message):
    host = make("torchvision resnet")
    before = _skeleton(host)
    with pytest.raises(UserError, match=message):
        plug(host, mechanism, input=SIZE, **options)
    assert _skeleton(host) == before


def test_an_interruption_does_too(make):
    host = make("torchvision resnet")
    before = _skeleton(host)
    with pytest.raises(KeyboardInterrupt):
        plug(host, Interrupted, input=SIZE)
    assert _skeleton(host) == before


def test_a_parent_that_runs_its_plug_as_a_child_is_noticed():
    host = nn.Sequential(Sly(), nn.Conv2d(4, 4, 3))
    before = _skeleton(host)
    with pytest.raises(UserError, match="the plug at 0 ran 2 times for 1 calls of 0"):
        plug(host, "eca", where="0", input=SIZE)
    assert _skeleton(host) == before
    assert len(plugs(plug(host, "eca", where="0.b", input=SIZE))) == 1


def test_a_module_that_goes_through_its_children_is_no_parent():
    (row,) = plugs(plug(nn.Sequential(Greedy(), nn.Conv2d(4, 4, 3)), "eca", where="0", input=SIZE))
    assert (row.site, row.parent) == ("0", "0.b")


def test_one_plug_a_parent(make):
    host = plug(make("torchvision resnet"), "se", input=SIZE)
    before = _skeleton(host)
    with pytest.raises(UserError, match=r"'layer2.0.bn2' has se already"):
        plug(host, "eca", where=["layer1.0.conv1", "layer2.0.bn2"], input=SIZE)
    assert _skeleton(host) == before
    plug(host, "das", where="stage", input=SIZE)
    assert [row.mechanism for row in plugs(host)].count("das") == 4
    assert unplug(host) is host
    assert _skeleton(host) == _skeleton(make("torchvision resnet"))


def test_a_module_that_has_something_of_that_name_is_no_parent():
    host = nn.Sequential(nn.Conv2d(3, 4, 3))
    host[0].saccade = "taken"
    with pytest.raises(UserError, match="has an attribute 'saccade' that is not a plug"):
        plug(host, "eca", where="0", input=SIZE)
    assert host[0].saccade == "taken"


def test_two_mechanisms_load_the_hosts_state_together(make):
    host, state = make("torchvision resnet"), make("torchvision resnet", seed=6).state_dict()
    plug(host, "se", input=SIZE)
    half = copy.deepcopy(host).state_dict()
    plug(host, "das", where="stage", input=SIZE)
    host.load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1.1.saccade.mechanism"):
        host.load_state_dict(half, strict=True)


def test_a_wrapper_loads_the_hosts_state_too(make):
    host = make("torchvision resnet")
    wrapper = nn.ModuleDict({"net": host, "head": nn.Linear(2, 2)})
    state = copy.deepcopy(wrapper).state_dict()
    plug(host, "se", input=SIZE)
    wrapper.load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match=r"head.weight"):
        wrapper.load_state_dict({k: v for k, v in state.items() if k != "head.weight"}, strict=True)
    before = host.layer1[0].bn2.saccade.a
    host.load_state_dict(make("torchvision resnet").state_dict(), strict=True, assign=True)
    assert host.layer1[0].bn2.saccade.a is before


@pytest.mark.parametrize("loss", ["replaced", "of its own class again", "plug gone"])
def test_a_lost_plug_is_noticed(make, loss):
    host = plug(make("torchvision resnet"), "se", input=SIZE)
    copied = copy.deepcopy(host)
    match loss:
        case "replaced":
            host.layer3[0].bn2 = nn.Identity()
        case "of its own class again":
            host.layer3[0].bn2.__class__ = nn.BatchNorm2d
        case "plug gone":
            del host.layer3[0].bn2.saccade
    with pytest.raises(UserError, match=r"at layer3.0.bn2, the plug is lost"):
        plugs(host)
    with pytest.raises(UserError, match=r"at layer3.0.bn2, the plug is lost"):
        host(torch.randn(2, *SIZE))
    assert len(plugs(copied)) == 5


def test_a_parent_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(self.stem(x)))

    host = Twice()
    before = copy.deepcopy(host)
    x = torch.randn(2, *SIZE)
    plug(host, "eca", where="conv", input=SIZE)
    torch.testing.assert_close(host(x), before(x), rtol=0, atol=0)
    with torch.no_grad():
        host.conv.saccade.a.fill_(1.0)
    gate = host.conv.saccade.mechanism
    torch.testing.assert_close(host(x), gate(before.conv(gate(before.conv(before.stem(x))))))


def test_a_plug_before_a_module_sees_what_enters_it(make):
    host = make("torchvision densenet").eval()
    x, entered, left = torch.randn(2, *SIZE), [], []
    plug(host, "eca", where="features.denseblock1", start="paper", input=SIZE)
    host.features.denseblock1.register_forward_hook(lambda m, args, out: left.append(out))
    host.features.transition1.norm.register_forward_pre_hook(lambda m, args: entered.append(args[0]))
    host(x)
    torch.testing.assert_close(entered[0], host.features.transition1.norm.saccade.mechanism(left[0]), rtol=0, atol=0)


@pytest.mark.parametrize("mechanism", ["se", "eca", "cbam", "das"])
def test_the_control_costs_about_the_same_at_the_same_sites(make, mechanism):
    host = make("torchvision resnet")
    real = plugs(plug(copy.deepcopy(host), mechanism, start="paper", input=SIZE))
    x = torch.randn(2, *SIZE)
    plain = host.eval()(x)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    rows = plugs(plug_control(host, "extra", mechanism, input=SIZE))
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.testing.assert_close(host.eval()(x), plain, rtol=0, atol=0)
    assert [(r.site, r.parent, r.channels) for r in rows] == [(r.site, r.parent, r.channels) for r in real]
    for row, wanted in zip(rows, real, strict=True):
        extra = row.module.mechanism
        assert isinstance(extra, ExtraBottleneck)
        assert row.module.a is None
        width, step = extra.down.out_channels, 2 * row.channels
        assert row.parameters == width * step
        assert abs(row.parameters - wanted.parameters) <= step / 2 or width == 1
    optimiser = torch.optim.SGD(host.parameters(), lr=0.1)
    before = [p.detach().clone() for row in rows for p in row.module.parameters()]
    for _ in range(3):
        host.train()(x).square().mean().backward()
        optimiser.step()
    assert not any(map(torch.equal, before, [p for row in rows for p in row.module.parameters()]))


def test_controls_refuse_what_they_do_not_know(make):
    with pytest.raises(UserError, match=r"no control is called 'exta'. Did you mean 'extra'\?"):
        plug_control(make("torchvision resnet"), "exta", "se", input=SIZE)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        ExtraBottleneck(4, 0)


def test_the_global_default_device_does_not_matter(make):
    host = make("torchvision resnet")
    with torch.device("meta"):
        plug(host, "se", input=torch.randn(1, *SIZE, device="cpu"))
    assert {p.device.type for p in host.parameters()} == {"cpu"}


def test_pretrained_names_of_timm_stay_where_they_are():
    host = timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32))
    keys = list(host.state_dict())
    plug(host, "se", input=SIZE)
    host.load_state_dict(timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32)).state_dict())
    assert [key for key in host.state_dict() if "saccade" not in key] == keys


@pytest.fixture
def parallel():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield nn.parallel.DistributedDataParallel
    torch.distributed.destroy_process_group()


def test_a_host_in_distributed_data_parallel_is_refused(parallel):
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    wrapped = parallel(host)
    before = _skeleton(wrapped)
    for insert, mechanism in ((plug, "se"), (replace, "dcn2")):
        with pytest.raises(UserError, match="put mechanisms in first, wrap it afterwards"):
            insert(wrapped, mechanism, where="module.0", input=SIZE)
    assert _skeleton(wrapped) == before
    wrapped = parallel(plug(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), "se", where="0", input=SIZE))
    assert len(plugs(wrapped)) == 1


class Adds(nn.Module):
    def __init__(self, channels, by=1.0):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


def test_a_spec_that_says_neutral_is_not_believed(make, monkeypatch):
    facts = Spec(title="Adds", kind="transform", evidence="reading", neutral=True)
    monkeypatch.setattr(Mechanism, "resolve", lambda made: Mechanism("adds", facts, {"by": 1.0}, made))
    host = make("torchvision resnet")
    before = _skeleton(host)
    with pytest.raises(UserError, match=r"adds at layer1.0.bn2: SPEC says neutral, and it changes the map"):
        plug(host, Adds, input=SIZE)
    assert _skeleton(host) == before
    assert [row.module.a for row in plugs(plug(host, Adds, by=0.0, input=SIZE))] == [None] * 5
    assert len(plugs(plug(unplug(host), Adds, start="paper", input=SIZE))) == 5


def test_a_converted_parent_does_not_drop_its_plug_silently(make):
    host, x = plug(make("torchvision resnet"), "se", input=SIZE), torch.randn(2, *SIZE)
    for copied in (copy.deepcopy(host), pickle.loads(pickle.dumps(host))):
        torch.testing.assert_close(copied.eval()(x), host.eval()(x), rtol=0, atol=0)
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(copied)
        with pytest.raises(UserError, match=r"at layer1.0.bn2, .* the plug is lost: .*converted"):
            converted(x)
    afterwards = plug(nn.SyncBatchNorm.convert_sync_batchnorm(make("torchvision resnet")), "se", input=SIZE)
    torch.testing.assert_close(afterwards.eval()(x), host.eval()(x), rtol=0, atol=0)


def test_a_plugged_host_exports(make):
    host, x = plug(make("torchvision resnet"), "se", input=SIZE).eval(), torch.randn(2, *SIZE)
    torch.testing.assert_close(torch.export.export(host, (x,)).module()(x), host(x))


def test_a_part_that_was_unplugged_by_itself_is_told(make):
    host, x = plug(make("torchvision resnet"), "se", input=SIZE), torch.randn(2, *SIZE)
    unplug(host.layer1)
    for look in (plugs, lambda host: host(x)):
        with pytest.raises(UserError, match=r"at layer1.0.bn2, .* only a part of the network was unplugged"):
            look(host)
    assert _skeleton(unplug(host)) == _skeleton(make("torchvision resnet"))


def test_autocast_and_inference_mode_around_plug_do_not_matter(make):
    def plugged(context):
        torch.manual_seed(0)
        with context:
            return plug(make("torchvision resnet"), "cbam", start="paper", input=SIZE).train()

    x = torch.randn(2, *SIZE)
    wanted = plugged(contextlib.nullcontext())(x)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        host = plugged(context)
        assert {p.dtype for p in host.parameters()} == {torch.float32}
        assert not any(p.is_inference() for row in plugs(host) for p in row.module.parameters())
        if not next(host.parameters()).is_inference():
            host(x).sum().backward()
            torch.testing.assert_close(host(x), wanted, rtol=0, atol=0)


def test_a_host_made_outside_is_plugged_in_inference_mode(make):
    host, x = make("torchvision resnet"), torch.randn(2, *SIZE)
    with torch.inference_mode():
        plug(host, "cbam", start="paper", input=torch.randn(1, *SIZE))
    host(x).sum().backward()
    assert [row for row in plugs(host) for p in row.module.parameters() if p.grad is None] == []


@pytest.mark.parametrize("mechanism", ["se", "eca", "cbam", "das"])
def test_no_bias_of_a_mechanism_is_decayed(make, mechanism):
    host = plug(make("torchvision resnet"), mechanism, input=SIZE)
    names = {id(p): name for name, p in host.named_parameters()}
    groups = parameter_groups(host, lr=0.1, weight_decay=0.01)
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    own = {name for name in decayed if "saccade" in name}
    assert own
    assert [name for name in own if not name.endswith("weight")] == []
