"""Convolutions exchanged for mechanisms: the kernel that is kept, the one that is not, and what is refused."""

import copy
import io
import logging
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import saccade
from saccade import UserError, parameter_groups, plug, plugs, record, replace, replacements, unplug
from saccade.bases import Convolution
from saccade.surgery.replaced import CHILD, ReplacedConvolution

SIZE = (3, 64, 48)


class Pointwise(nn.Module):
    """A mechanism that has no use for the kernel: a 1×1 convolution of every stride-th pixel."""

    def __init__(
        self, channels: int, out_channels: int | None = None, kernel_size: int = 3, stride: int = 1,
        padding: int | None = None, dilation: int = 1, groups: int = 1, bias: bool = False, gain: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        same = dilation * (kernel_size - 1) // 2
        if padding not in (None, same):
            raise ValueError(f"padding must be {same}, got {padding}")
        self.kernel_size, self.stride, self.gain = kernel_size, stride, gain
        self.mix = nn.Conv2d(channels, out_channels or channels, 1, groups=groups, bias=bias)
        self.tap = nn.Identity()

    def forward(self, x):
        return self.tap(self.mix(x[..., :: self.stride, :: self.stride])) * self.gain


def _sized(module):
    return sum(p.numel() for p in module.parameters())


def _x(batch=2, seed=0, dtype=torch.float32):
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _off(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def _paths(host):
    return [row.convolution for row in replacements(host)]


def _moved(host):
    """The host with every parameter of its replacements drawn at random."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for row in replacements(host):
            for p in row.module.parameters():
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return host


HOSTS = ["torchvision resnet", "torchvision mobilenet_v2", "torchvision convnext", "timm densenet", "timm vgg_bn"]


@pytest.mark.parametrize("mechanism", ["dcn1", "dcn2"])
@pytest.mark.parametrize("name", HOSTS)
def test_a_kept_kernel_computes_the_same_function_under_the_same_keys(make, name, mechanism):
    host, x = make(name).eval(), _x()
    before, state = host(x), {key: value.clone() for key, value in host.state_dict().items()}
    own, objects = dict(host.named_parameters()), dict(host.named_modules())
    assert replace(host, mechanism, where="conv3x3", input=SIZE) is host
    rows = replacements(host)
    assert rows
    assert [row for row in rows if not (row.neutral and row.discarded == 0 and row.mechanism == mechanism)] == []
    found = host(x)
    assert _off(found, before) <= 1e-5  # another order of summation
    assert {name: p for name, p in host.named_parameters() if CHILD not in name}.keys() == own.keys()
    assert [name for name, p in own.items() if host.get_parameter(name) is not p] == []
    assert [path for path, module in objects.items() if path and host.get_submodule(path) is not module] == []
    host.load_state_dict(state)
    torch.testing.assert_close(host(x), found, rtol=0, atol=0)
    double = copy.deepcopy(host).double()
    assert _off(double(x.double()), unplug(copy.deepcopy(double))(x.double())) <= 1e-12
    assert not torch.equal(_moved(copy.deepcopy(host))(x), found)  # the twin: offsets do something
    unplug(host)
    torch.testing.assert_close(host(x), before, rtol=0, atol=0)
    assert list(host.state_dict()) == list(state)
    assert [type(m) for m in host.modules()] == [type(m) for m in objects.values()]
    assert "_saccade" not in "".join(key for m in host.modules() for key in m.__dict__)
    assert not host._load_state_dict_pre_hooks


@pytest.mark.parametrize("mechanism", ["dcn1", "dcn2"])
def test_plug_replaces_where_the_kernel_is_kept(make, mechanism, tmp_path):
    """The same network, bit for bit, as of ``replace``: the host until it is trained, another after a step."""
    host, x = make("torchvision resnet").eval(), _x()
    before, state = host(x), copy.deepcopy(host.state_dict())
    torch.manual_seed(4)
    other = replace(copy.deepcopy(host), mechanism, input=SIZE)
    torch.manual_seed(4)
    assert plug(host, mechanism, input=SIZE) is host
    assert plugs(host) == []
    assert [(r.convolution, r.position, r.neutral, r.discarded) for r in replacements(host)] == [
        (r.convolution, r.position, True, 0) for r in replacements(other)
    ]
    torch.testing.assert_close(host(x), other(x), rtol=0, atol=0)
    assert _off(host(x), before) <= 1e-5  # another order of summation
    assert [key for key in host.state_dict() if f".{CHILD}." not in key] == list(state)
    host.load_state_dict(state, strict=True)
    assert _off(host(x), before) <= 1e-5
    optimizer = torch.optim.SGD(parameter_groups(host, lr=0.0, attention_lr=1.0))
    for _ in range(2):  # of dcn2, offsets and modulation take a gradient from the first step on
        optimizer.zero_grad()
        F.cross_entropy(host(x), torch.arange(len(x))).backward()
        optimizer.step()
    moved = host(x).detach()
    assert _off(moved, before) > 1e-3
    saccade.save(host, tmp_path)
    torch.testing.assert_close(saccade.load(tmp_path, host=make("torchvision resnet"))(x), moved, rtol=0, atol=0)
    unplug(host)
    torch.testing.assert_close(host(x), before, rtol=0, atol=0)
    assert list(host.state_dict()) == list(state)


def test_plug_of_a_kept_kernel_takes_the_places_of_convolutions(make):
    host = plug(make("torchvision resnet"), "dcn2", where=["layer3.0.conv1", "conv3x3[0]"], start="paper", input=SIZE)
    assert sorted(_paths(host)) == ["layer1.0.conv2", "layer3.0.conv1"]
    assert not any(row.neutral for row in replacements(host))


def test_a_kept_kernel_and_its_mechanism_learn(make):
    host, x = make("torchvision resnet").train(), _x(4)
    replace(host, "dcn2", input=SIZE)
    groups = parameter_groups(host, lr=1e-2, attention_lr=1e-1, weight_decay=1e-2)
    named = {id(p): name for name, p in host.named_parameters()}
    attention = {named[id(p)] for g in groups if g["name"].startswith("attention") for p in g["params"]}
    assert attention == {name for name in named.values() if f".{CHILD}." in name}
    assert len(attention) == 2 * len(replacements(host))
    optimizer = torch.optim.SGD(groups)
    before = {name: p.detach().clone() for name, p in host.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(host(x), torch.arange(4)).backward()
        optimizer.step()
    still = [name for name, p in host.named_parameters() if torch.equal(p, before[name])]
    assert still == []
    kernel = host.layer4[0].conv2.weight
    trained = kernel.detach().clone()
    unplug(host)
    assert host.layer4[0].conv2.weight is kernel  # trained, and kept
    torch.testing.assert_close(kernel, trained, rtol=0, atol=0)
    assert not torch.equal(kernel, before["layer4.0.conv2.weight"])


def test_the_papers_start_halves_what_dcn2_makes(make):
    host, x = make("torchvision resnet").eval(), _x()
    seen = []
    host.layer4[0].conv2.register_forward_hook(lambda m, args, y: seen.append(y))
    host(x)
    replace(host, "dcn2", where="layer4.0.conv2", start="paper", input=SIZE)
    host(x)
    assert _off(seen[-1] * 2, seen[0]) < 1e-5
    (row,) = replacements(host)
    assert (row.neutral, row.module.scale) == (False, 1.0)
    with pytest.raises(UserError, match="does not start as the convolution"):
        replace(unplug(host), "dcn2", where="layer4.0.conv2", scale=1.0, input=SIZE)


@pytest.mark.parametrize("width", [("groups", 2), ("dilation", 2), ("stride", 2), ("padding", 0), ("bias", True)])
@pytest.mark.parametrize("name", ["dcn1", "dcn2"])
def test_every_number_of_a_convolution_is_kept(name, width):
    """Against torchvision's own operator, with offsets that are not zero."""
    key, value = width
    torch.manual_seed(0)
    host = nn.Sequential(nn.Conv2d(6, 8, 3, **{"padding": 1, "bias": False, key: value})).double()
    replace(host, name, where="0", input=(6, 11, 9), offset_groups=3)
    _moved(host)
    conv, x = host[0], torch.randn(2, 6, 11, 9, dtype=torch.float64)
    made = getattr(conv, CHILD)
    offset = F.conv2d(x, made.offset.weight, made.offset.bias, conv.stride, conv.padding, conv.dilation)
    mask = offset[:, 54:].sigmoid() * 2 if name == "dcn2" else None
    numbers = conv.stride, conv.padding, conv.dilation
    wanted = torchvision.ops.deform_conv2d(x, offset[:, :54], conv.weight, conv.bias, *numbers, mask=mask)
    assert _off(host(x), wanted) < 1e-12
    plain = F.conv2d(x, conv.weight, conv.bias, *numbers, conv.groups)
    assert plain.shape == wanted.shape
    assert _off(plain, wanted) > 1e-3


def test_where_it_goes(make):
    host = make("timm resnet")
    assert _paths(replace(host, "dcn2", input=SIZE)) == [f"layer{n}.0.conv2" for n in (2, 3, 4)]
    assert {row.position for row in replacements(host)} == {"conv3x3 in stage[-3:]"}
    assert _paths(replace(unplug(host), "dcn1", input=SIZE)) == ["layer4.0.conv2"]
    for where, paths in {
        "conv3x3[1:3]": ["layer2.0.conv2", "layer3.0.conv2"],
        "conv3x3 in stage[0]": ["layer1.0.conv2"],
        "paper[-1]": ["layer4.0.conv2"],
        "paper in stage[:2]": ["layer2.0.conv2", "layer3.0.conv2"],
        "conv3x3[1:] in stage[-1]": ["layer4.0.conv2"],
        "layer*.conv? in stage[1:][0]": ["layer2.0.conv1"],
        "layer2.0.conv?": ["layer2.0.conv1", "layer2.0.conv2"],
        "layer2.*": ["layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"],
    }.items():
        assert sorted(_paths(replace(unplug(host), "dcn2", where=where, input=SIZE))) == paths
    assert _paths(replace(unplug(host), "dcn2", where=["layer3.0.conv1", "conv3x3[0]"], input=SIZE)) == [
        "layer1.0.conv2", "layer3.0.conv1",
    ]  # fmt: skip
    row = replacements(host)[1]
    assert (row.channels, row.size, row.stage) == (48, (8, 6), 2)


def _twice(host):
    return replace(replace(host, "dcn2", input=SIZE), "dcn1", input=SIZE)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda h: replace(h, "se"), r"se is a gate, not a convolution: saccade\.plug\(host, 'se'\)"),
        (
            lambda h: plug(h, "sasa"),
            r"saccade\.replace\(host, 'sasa'\) inserts it, and reports how many weights",
        ),
        (lambda h: plug(h, "dcn2", where="stage", input=SIZE), "'stage' is a position for plugs; convolutions are at"),
        (lambda h: saccade.surgery.plug_control(h, "noise", "dcn2"), r"saccade\.replace"),
        (lambda h: replace(h, "dcn2", stride=2), "stride=2: the replaced convolution determines"),
        (lambda h: replace(h, "dcn2", sclae=2.0), "no option 'sclae'. Did you mean 'scale'"),
        (lambda h: replace(h, "dcn2", start="cold"), "'neutral' or 'paper', got 'cold'"),  # type: ignore[arg-type]
        (
            lambda h: replace(h, "dcn2", offset_groups=5, input=SIZE),
            r"at layer2\.0\.conv2: dcn2: offset_groups must divide the channels, got 5 and 48",
        ),
        (lambda h: replace(h, "dcn2", kernel_size=5, input=SIZE), r"kernel of shape \(48, 48, 3, 3\)"),
        (lambda h: replace(h, "dcn2", where="layer1.0.bn1", input=SIZE), r"layer1\.0\.bn1 is a BatchNorm2d"),
        (lambda h: replace(h, "dcn2", where="stage", input=SIZE), "'stage' is a position for plugs"),
        (lambda h: replace(h, "dcn2", where="*.bn?", input=SIZE), "selects no convolution of ResNet. Its convolutions"),
        (lambda h: replace(h, "dcn2", where="conv3x3 in stage[9]", input=SIZE), "leaves none of 4 sites"),
        (lambda h: replace(h, "dcn2", where=[], input=SIZE), "empty list"),
        (lambda h: replace(h, "dcn2", where="layer9", input=SIZE), "neither a position nor a site"),
        (_twice, r"layer4\.0\.conv2 is replaced by dcn2 already"),
        (lambda h: replace("resnet", "dcn2"), r"must be a torch\.nn\.Module, got str"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(make, do, message):
    host = make("timm resnet").eval()
    before = host(_x())
    with pytest.raises(UserError, match=message):
        do(host)
    unplug(host)
    torch.testing.assert_close(host(_x()), before, rtol=0, atol=0)


def _seq(conv, channels=6):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), conv)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (
            nn.Conv2d(6, 6, (1, 7), padding=(0, 3)),
            r"1 has kernel_size=\(1, 7\): mechanisms take one value for height and width",
        ),
        (nn.Conv2d(6, 6, 3, padding=(1, 0)), r"padding=\(1, 0\)"),
        (nn.Conv2d(6, 6, 3, stride=(1, 2)), r"stride=\(1, 2\)"),
        (nn.Conv2d(6, 6, 4, padding="same"), "pads 1 on one side and 2 on the other"),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.ConvTranspose2d(6, 6, 3), "ConvTranspose2d"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3)), "ParametrizedConv2d, which overrides forward"),
        (nn.utils.spectral_norm(nn.Conv2d(6, 6, 3)), "computes its weight"),
        (timm.layers.StdConv2d(6, 6, 3), "StdConv2d, which overrides forward"),  # type: ignore[attr-defined]
        (timm.layers.Conv2dSame(6, 6, 3, stride=2), "Conv2dSame"),  # type: ignore[attr-defined]
    ],
)
def test_a_convolution_that_is_something_else_is_refused_and_the_others_are_left(conv, message):
    host = _seq(conv)
    with pytest.raises(UserError, match=message):
        replace(host, "dcn1", where=["0", "1"], input=(6, 12, 10))
    assert replacements(host) == []
    assert type(host[0]) is nn.Conv2d
    assert list(host.state_dict())[:2] == ["0.weight", "0.bias"]


def test_paddings_by_name():
    for padding, size in (("same", (12, 10)), ("valid", (8, 6))):
        host = nn.Sequential(nn.Conv2d(6, 5, 3, padding=padding, dilation=2)).double()
        x = torch.randn(1, 6, 12, 10, dtype=torch.float64)
        before = host(x)
        replace(host, "dcn2", where="0", input=(6, 12, 10))
        assert host(x).shape[2:] == size
        assert _off(host(x), before) < 1e-12


def test_what_keeps_no_kernel_says_what_is_discarded(make, caplog):
    caplog.set_level(logging.WARNING, "saccade")
    host, x = make("torchvision resnet").eval(), _x()
    before, state = host(x), {key: value.clone() for key, value in host.state_dict().items()}
    objects, count = dict(host.named_parameters()), _sized(host)
    replace(host, Pointwise, where="conv3x3", input=SIZE)
    rows = replacements(host)
    lost = sum(state[f"{row.convolution}.weight"].numel() for row in rows)
    assert f"{lost:,} weights of {len(rows)} convolutions of ResNet are discarded" in caplog.text
    assert sum(row.discarded for row in rows) == lost
    caplog.clear()
    replace(make("torchvision resnet"), Pointwise, where="conv3x3", start="paper", input=SIZE)
    assert "discarded" not in caplog.text  # from scratch nothing is lost
    assert not any(row.neutral for row in rows)
    assert _sized(host) == count - lost + sum(row.parameters for row in rows)
    assert not torch.allclose(host(x), before)
    unplug(host)
    torch.testing.assert_close(host(x), before, rtol=0, atol=0)
    assert [name for name, p in objects.items() if host.get_parameter(name) is not p] == []
    assert list(host.state_dict()) == list(state)


def test_a_kernel_put_aside_goes_where_the_network_goes(make):
    host, x = make("torchvision resnet").eval(), _x()
    replace(host, Pointwise, where="conv3x3", input=SIZE)
    written = io.BytesIO()
    pickle.dump(host, written)
    for other in (copy.deepcopy(host), pickle.loads(written.getvalue())):
        torch.testing.assert_close(other(x), host(x), rtol=0, atol=0)
        assert {p.dtype for p in unplug(other.double()).parameters()} == {torch.float64}
        assert _off(other(x.double()), make("torchvision resnet").eval().double()(x.double())) < 1e-12
    assert replacements(other) == []
    assert len(replacements(host)) > 1


def test_checkpoints_of_the_host_load_strictly(make):
    host = make("torchvision resnet").eval()
    state = {key: value + 0.01 if value.is_floating_point() else value for key, value in host.state_dict().items()}
    other = make("torchvision resnet").eval()
    other.load_state_dict(state)
    replace(host, Pointwise, where="conv3x3", input=SIZE)
    own = {key: value.clone() for key, value in host.state_dict().items() if CHILD in key}
    host.load_state_dict(state)
    assert [key for key, value in own.items() if not torch.equal(host.state_dict()[key], value)] == []
    full = {key: value.clone() for key, value in host.state_dict().items()}
    host.load_state_dict(full)
    first = next(key for key in full if CHILD in key)
    with pytest.raises(RuntimeError, match=f'Missing key.*"{first}"'):
        host.load_state_dict({key: value for key, value in full.items() if key != first})
    with pytest.raises(RuntimeError, match=r'Missing key.*"layer1\.0\.conv2\.weight"'):
        host.load_state_dict({key: value for key, value in state.items() if key != "layer1.0.conv2.weight"})
    with pytest.raises(RuntimeError, match=r"size mismatch for layer1\.0\.conv2\.weight"):
        host.load_state_dict({**state, "layer1.0.conv2.weight": torch.zeros(1, 1, 3, 3)})
    unplug(host)
    torch.testing.assert_close(host(_x()), other(_x()), rtol=0, atol=0)  # kernels that had no use here were put aside
    wrapped = nn.ModuleDict({"backbone": replace(host, "dcn2", input=SIZE)})
    wrapped.load_state_dict({f"backbone.{key}": value for key, value in state.items()})


def test_a_kernel_size_of_its_own(make):
    host = make("torchvision resnet").eval()
    replace(host, Pointwise, where="conv3x3", input=SIZE, kernel_size=7, gain=0.5)
    assert {(row.module.kernel_size, row.module.gain) for row in replacements(host)} == {(7, 0.5)}
    with pytest.raises(UserError, match="pads 0 around a kernel of 3, where 1 keeps the size"):
        replace(nn.Sequential(nn.Conv2d(3, 4, 3)), Pointwise, where="0", kernel_size=7, input=SIZE)


def test_one_that_makes_another_size_is_taken_out_again(make):
    class Smaller(Pointwise):
        def forward(self, x):
            return super().forward(x)[..., 1:]

    host = make("torchvision resnet").eval()
    before = host(_x())
    with pytest.raises(UserError, match=r"Smaller at layer1\.0\.conv2 turns .* into \(1, 64, 16, 11\)"):
        replace(host, Smaller, where="conv3x3", input=SIZE)
    torch.testing.assert_close(host(_x()), before, rtol=0, atol=0)
    assert replacements(host) == []


def test_plugs_and_replacements_in_one_host(make):
    host, x = make("timm resnet").eval(), _x()
    before = host(x)
    bare = [site.path for site in saccade.sites(host, input=SIZE)]
    replace(host, "dcn2", where="conv3x3", input=SIZE)
    assert [site.path for site in saccade.sites(host, input=SIZE)] == bare  # the host is seen as it was
    plug(host, "se", where="conv3x3", input=SIZE)
    assert [row.site for row in plugs(host)] == _paths(host)
    assert _off(host(x), before) < 1e-5
    _moved(host)
    with record(host) as maps:
        host(x)
    first = _paths(host)[0]
    assert maps[first].shape == (2, 32, 1, 1)  # the gate of se
    assert maps[f"{first}.{CHILD}"].shape == (2, 9, 16, 12)  # the modulation of dcn2
    other = copy.deepcopy(host)
    torch.testing.assert_close(other(x), host(x), rtol=0, atol=0)
    for row in plugs(host):
        row.module.a.data.fill_(0.5)
    assert not torch.equal(other(x), host(x))
    unplug(host)
    assert plugs(host) == [] == replacements(host)
    torch.testing.assert_close(host(x), before, rtol=0, atol=0)


def test_the_other_way_round(make):
    host, x = make("timm resnet").eval(), _x()
    before = host(x)
    plug(host, "se", where="conv3x3", input=SIZE)
    for row in plugs(host):
        row.module.a.data.fill_(0.5)
    gated = host(x)
    replace(host, "dcn2", where="conv3x3", input=SIZE)
    assert _off(host(x), gated) < 1e-5
    torch.testing.assert_close(unplug(host)(x), before, rtol=0, atol=0)


def test_the_random_state_stays_and_decides(make):
    drawn = []
    for _ in range(2):
        host = make("torchvision resnet")
        torch.manual_seed(3)
        state = torch.get_rng_state()
        replace(host, Pointwise, where="conv3x3", input=SIZE)
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        drawn.append(replacements(host)[0].module.mix.weight)
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


class Shared(nn.Module):
    """One convolution under two names, called three times, once by keyword, on maps of two sizes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 3, padding=1)
        self.alias = self.head

    def forward(self, x):
        x = self.head(self.stem(x).relu())
        return x + self.alias(input=x) + F.interpolate(self.head(F.max_pool2d(x, 2)), x.shape[2:])


@pytest.mark.parametrize("mechanism", ["dcn2", Pointwise])
def test_a_convolution_of_two_names_that_runs_several_times(mechanism):
    torch.manual_seed(0)
    host, x = Shared(), _x()
    before, state = host(x), {key: value.clone() for key, value in host.state_dict().items()}
    replace(host, mechanism, where="alias", input=SIZE)
    assert _paths(host) == ["head"]
    kept = mechanism == "dcn2"
    assert (_off(host(x), before) < 1e-5) is kept
    host.load_state_dict(state)
    assert {key.partition(".")[0] for key in host.state_dict() if CHILD in key} == {"head", "alias"}
    with record(host) as maps:
        host(x)
    assert [m.shape[2:] for m in maps["head"]] == [(64, 48), (64, 48), (32, 24)]
    wrapped = nn.Sequential(copy.deepcopy(host))
    assert _paths(wrapped) == ["0.head"]
    torch.testing.assert_close(unplug(wrapped)(x), before, rtol=0, atol=0)
    torch.testing.assert_close(unplug(host)(x), before, rtol=0, atol=0)
    assert list(host.state_dict()) == list(state)


def test_a_replacement_that_was_exchanged_is_told(make):
    host = replace(make("timm resnet"), "dcn2", input=SIZE)
    host.layer2[0].conv2 = nn.Identity()
    with pytest.raises(UserError, match=r"the replacement of layer2\.0\.conv2 is lost"):
        replacements(host)


@pytest.mark.parametrize("mechanism", ["dcn2", Pointwise])
def test_a_part_that_is_gone_does_not_keep_the_others_in(make, mechanism):
    host, bare = make("timm resnet").eval(), make("timm resnet").eval()
    bare.load_state_dict(host.state_dict())
    replace(host, mechanism, where="conv3x3", input=SIZE)
    assert (_off(_moved(host)(_x()), bare(_x()))) > 1e-3
    for each in (host, bare):
        each.layer4 = nn.Identity()
        each.fc = nn.Identity()
    torch.testing.assert_close(unplug(host)(_x()), bare(_x()), rtol=0, atol=0)
    assert replacements(host) == []
    assert list(host.state_dict()) == list(bare.state_dict())
    assert host.__dict__.keys() == bare.__dict__.keys()
    assert not host._load_state_dict_pre_hooks


class Pooled(Pointwise):
    """A mechanism with nothing to learn."""

    def __init__(
        self, channels: int, out_channels: int | None = None, kernel_size: int = 3, stride: int = 1,
        padding: int | None = None, dilation: int = 1, groups: int = 1, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.mix = nn.AvgPool2d(1)  # type: ignore[assignment]


def test_a_mechanism_with_nothing_to_save_loads_its_own_state_and_the_hosts():
    host = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1, bias=False)).eval()
    bare = copy.deepcopy(host)
    state = {key: value + 0.1 for key, value in host.state_dict().items()}
    replace(host, Pooled, where="2", input=(3, 9, 7))
    host.load_state_dict({key: value + 0.2 for key, value in host.state_dict().items()})
    torch.testing.assert_close(host[0].weight, bare[0].weight + 0.2, rtol=0, atol=0)
    host.load_state_dict(state)
    bare.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Missing key.*"0\.weight"'):
        host.load_state_dict({key: value for key, value in state.items() if key != "0.weight"})
    x = torch.randn(2, 3, 9, 7)
    assert not torch.equal(host(x), bare(x))
    torch.testing.assert_close(unplug(host)(x), bare(x), rtol=0, atol=0)


def test_compiled_and_exported_it_is_the_same(make):
    host, x = _moved(replace(make("torchvision resnet").eval(), "dcn2", input=SIZE)), _x()
    wanted = host(x)
    torch.compiler.reset()
    assert _off(torch.compile(host, fullgraph=True, backend="eager")(x), wanted) < 1e-5
    exported = torch.export.export(host, (x,)).module()
    assert _off(exported(x), wanted) < 1e-5
    torch.compiler.reset()


def test_under_autocast_and_in_the_layout_of_the_host(make):
    host, x = make("torchvision resnet").eval(), _x().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        before = host(x)
        assert _off(replace(host, "dcn2", input=SIZE)(x), before) < 0.1
    assert isinstance(host.layer4[0].conv2, ReplacedConvolution)
    assert "by dcn2" in repr(host.layer4[0].conv2)


def test_a_norm_is_folded_into_a_kernel_that_is_kept_and_into_no_other(make):
    host, x = _moved(replace(make("torchvision resnet").eval(), "dcn2", input=SIZE)), _x()
    wanted, block = host(x), host.layer4[0]
    block.conv2 = nn.utils.fuse_conv_bn_eval(block.conv2, block.bn2)
    block.bn2 = nn.Identity()
    assert _off(host(x), wanted) < 1e-5
    other = replace(make("torchvision resnet").eval(), Pointwise, where="conv3x3", input=SIZE).layer4[0]
    with pytest.raises((AttributeError, TypeError)):
        nn.utils.fuse_conv_bn_eval(other.conv2, other.bn2)


def test_parameters_of_a_checkpoint_may_be_taken_over(make):
    host = replace(make("torchvision resnet").eval(), "dcn2", input=SIZE)
    state = make("torchvision resnet", seed=2).state_dict()
    host.load_state_dict(state, assign=True)
    assert host.layer4[0].conv2.weight.data_ptr() == state["layer4.0.conv2.weight"].data_ptr()
    wanted = make("torchvision resnet", seed=2).eval()(_x())
    assert _off(host(_x()), wanted) < 1e-5
    torch.testing.assert_close(unplug(host)(_x()), wanted, rtol=0, atol=0)


def test_the_facts_of_a_kept_kernel():
    assert issubclass(saccade.catalog.load("dcn2"), Convolution)
    assert {"dcn1", "dcn2"} <= set(saccade.list_mechanisms("replace"))
