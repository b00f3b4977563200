"""Constant gates folded into the host: the same outputs, keys and multiply-adds as the plain host; and what is kept."""

import copy

import pytest
import torch
from timm.layers.norm import LayerNorm2d
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import saccade
from saccade.bases import Gate
from saccade.contract.randomize import perturb, randomize
from saccade.cost import count_macs
from saccade.surgery import fold, held, mean_gates, plug, plug_control, plugs, replace

SIZE = (3, 64, 48)


def images(seed=5):
    """Four images of one class of noise each, at different contrasts."""
    x = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([0.5, 1.0, 2.0, 4.0]).view(4, 1, 1, 1)


@torch.no_grad()
def outputs(model):
    return model.eval()(images().to(next(model.parameters()).dtype))


def difference(one, other):
    return float((one - other).abs().max() / other.abs().max())


CONSTANT = {
    "residual, into the norm": ("torchvision resnet", "residual", "bn2", False),
    "before the norm": ("timm resnet", "conv3x3", "conv2", False),
    "behind a ReLU6, into the reader": ("torchvision mobilenet_v2", "expanded", "conv.2", True),
    "without a bias": ("timm mobilenetv2", ["blocks.3.0"], "bn3", False),
    "a sum, into its one reader": ("timm mobilenetv2", ["blocks.3.1"], "blocks.4.0.conv_pw", True),
    "on the input": ("torchvision resnet", "activated", "conv2", True),
    "behind a ReLU": ("user's Sequential", ["0.2"], "0.1", False),
    "depthwise": ("torchvision convnext", "conv3x3", "block.0", False),
}


@pytest.mark.parametrize("case", CONSTANT)
def test_a_constant_gate_is_folded_exactly(make, case):
    name, where, into, is_input = CONSTANT[case]
    plain = make(name).double()
    host = copy.deepcopy(plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plug_control(host, "noise", "se", where=where, input=SIZE)
    for row in plugs(host):
        row.module.a.data.fill_(0.7)
    expected = outputs(host)
    rows = fold(host.train(), input=SIZE)
    assert all(module.training for module in host.modules())
    assert [row.reason for row in rows if row.into is None] == []
    assert all(row.into.endswith(into) and row.is_input is is_input for row in rows)
    assert all(row.difference < 1e-12 and 0.3 < row.factors[0] < 0.5 < 0.9 < row.factors[1] < 1 for row in rows)
    assert difference(outputs(host), expected) < 1e-12
    assert difference(outputs(plain), expected) > 1e-3
    assert plugs(host) == []
    plain.load_state_dict(host.state_dict(), strict=True)
    torch.testing.assert_close(outputs(plain), outputs(host), rtol=0, atol=0)
    assert list(plain.state_dict()) == list(host.state_dict())


def squeezed(make, constant):
    """Return a ResNet with SE, whose gates are sigmoid(bias) if ``constant``, else depend on the image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        host = perturb(plug(make("timm resnet"), "se", input=SIZE), by=0.3)
        for row in plugs(host):
            layers = [module for module in row.module.mechanism.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
            layers[-1].bias.data.uniform_(-3, 3)
            layers[-1].weight.data.mul_(0.0 if constant else 4.0)
    return host


def test_a_gate_that_ignores_the_image_needs_no_values(make):
    host = squeezed(make, constant=True)
    expected, plain = outputs(host), make("timm resnet")
    rows = fold(host, input=images())
    assert [row.into for row in rows] == [f"layer{k}.0.bn2" for k in (1, 2, 3, 4)]
    assert all(row.difference < 1e-6 for row in rows)
    assert difference(outputs(host), expected) < 1e-6
    assert count_macs(host, SIZE) == count_macs(plain, SIZE)
    assert sum(p.numel() for p in host.parameters()) == sum(p.numel() for p in plain.parameters())


def test_a_gate_that_depends_on_the_image_is_folded_only_at_given_values(make):
    host = squeezed(make, constant=False)
    state, expected = copy.deepcopy(host.state_dict()), outputs(host)
    for row in fold(host, input=images()):
        assert row.into is None
        assert "the gate depends on the image, by up to 0." in row.reason
    torch.testing.assert_close(host.state_dict(), state, rtol=0, atol=0)
    means = mean_gates(host, images().split(3))
    with held(host, means):
        held_outputs = outputs(host)
    rows = fold(host, means, sites=["layer1*", "layer4.0.bn2"], input=SIZE)
    assert [row.site for row in rows] == ["layer1.0.bn2", "layer4.0.bn2"]
    assert [row.site for row in plugs(host)] == ["layer2.0.bn2", "layer3.0.bn2"]
    fold(host, {row.site: means[row.site] for row in plugs(host)}, input=SIZE)
    assert difference(outputs(host), held_outputs) < 1e-6
    assert difference(held_outputs, expected) > 1e-3


class Scale(Gate):
    """A gate with one given number for every channel."""

    def __init__(self, channels, value=0.5):
        super().__init__()
        self.register_buffer("value", torch.full((channels, 1, 1), value))

    def gate(self, x):
        return self.value.expand(len(x), -1, -1, -1)


class Rising(Gate):
    """A gate that rises from channel to channel."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("value", torch.linspace(0.2, 1.7, channels).view(-1, 1, 1))

    def gate(self, x):
        return self.value.expand(len(x), -1, -1, -1)


class Sum(Gate):
    """A gate of one value per image and pixel."""

    def gate(self, x):
        return x.mean(1, keepdim=True).sigmoid()


class Standardised(nn.Conv2d):
    """A convolution that normalises its weight, so that scaling the weight changes nothing."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, padding=self.padding)


class Net(nn.Module):
    """Two convolutions and an activation, around whatever ``rule`` does with the first map."""

    def __init__(self, first=None, activation=None, rule=None):
        super().__init__()
        self.conv1 = first or nn.Conv2d(3, 8, 3, padding=1)
        self.act = activation or nn.ReLU()
        self.conv2, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.rule = rule or (lambda net, y: net.conv2(net.act(y)))

    def forward(self, x):
        y = self.rule(self, self.conv1(x))
        return self.fc(y.mean((2, 3)))


def read_twice(net, y):
    z = net.act(y)
    return net.conv2(z) + z


def net(**parts):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(Net(**parts))


LAYERS = {
    "group norm": nn.GroupNorm(2, 8),
    "layer norm": LayerNorm2d(8),
    "instance norm": nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "frozen batch norm": FrozenBatchNorm2d(8),
    "batch norm with a ReLU": BatchNormAct2d(8),
    "transposed": nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2),
    "grouped": nn.Conv2d(8, 8, 3, padding=1, groups=4, padding_mode="reflect", bias=False),
    "PReLU": nn.Sequential(nn.Conv2d(8, 8, 1), nn.PReLU(8)),
    "reader in groups": nn.Sequential(nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2, padding_mode="circular")),
    "channels last": nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_is_scaled_by_channel(name):
    layer = copy.deepcopy(LAYERS[name])
    host = net(first=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer), rule=read_twice).double()
    site, into = "conv1.1", "conv1.1"
    if name == "PReLU":
        site, into = "conv1.1.1", "conv1.1.0"
    elif name == "reader in groups":
        site, into = "conv1.1.0", "conv1.1.1"
    plain, state = copy.deepcopy(host), copy.deepcopy(host.state_dict())
    plug(host, Rising, where=site, start="paper", input=SIZE)
    expected = outputs(host)
    (row,) = fold(host, input=SIZE)
    assert (row.into, row.is_input) == (into, name == "reader in groups")
    assert difference(outputs(host), expected) < 1e-12
    assert difference(outputs(plain), expected) > 1e-3
    changed = {key for key, value in host.state_dict().items() if not torch.equal(value, state[key])}
    assert {key.rpartition(".")[0] for key in changed} == {into}


def tied():
    host = net(rule=lambda net, y: net.conv2(net.act(net.fc2(y))) + y)
    host.fc2 = nn.Conv2d(8, 8, 3, padding=1)
    host.fc2.weight = host.conv2.weight
    return plug(host, Scale, where="fc2", start="paper", input=SIZE)


def two_plugs():
    host = net(rule=lambda net, y: (z := net.act(y), net.conv2(z) + z)[1])
    plug(host, Scale, where="act", start="paper", input=SIZE)
    return plug(host, "se", where="conv1", start="paper", rd_ratio=0.5, input=SIZE)


def replaced():
    host = replace(net(), "dcn1", where="conv1", input=SIZE)
    return plug(host, Scale, where="conv1", start="paper", input=SIZE)


def with_gate(site="conv1", value=0.5, **parts):
    return plug(net(**parts), lambda c: Scale(c, value), where=site, start="paper", input=SIZE)


KEPT = {
    "gate varies over pixels, (64, 48)": lambda: plug(net(), lambda c: Sum(), where="conv1", start="paper", input=SIZE),
    "gc is not a gate": lambda: plug(net(), "gc", where="conv1", start="paper", input=SIZE),
    "act (SiLU) is before it, which a scale does not pass, and its map has 2 readers": lambda: with_gate(
        "act", activation=nn.SiLU(), rule=read_twice
    ),
    "act (ReLU) is before it, and its gate is negative, -0.5, and its map has 2 readers": lambda: with_gate(
        "act", value=-0.5, rule=read_twice
    ),
    "act (ReLU) is before it, and others read what enters that, and its map has 2 readers": lambda: with_gate(
        "act", rule=lambda net, y: read_twice(net, y) + y
    ),
    "act returns its input": lambda: with_gate("act", activation=nn.Identity(), rule=read_twice),
    "conv2 runs 2 times in a forward pass": lambda: with_gate("conv2", rule=lambda net, y: net.conv2(net.conv2(y))),
    "the weight of conv1 (ParametrizedConv2d) is computed from other tensors": lambda: with_gate(
        first=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1)), rule=read_twice
    ),
    "fc2 (Conv2d) shares its weights": tied,
    "another plug is between it and conv1": two_plugs,
    "conv1 is a convolution that dcn1 replaces": replaced,
    "scaling conv1 (Standardised) does not scale its map": lambda: with_gate(first=Standardised(3, 8, 3, padding=1)),
}


@pytest.mark.parametrize("reason", KEPT)
def test_plugs_that_are_kept_say_why(reason):
    host = KEPT[reason]()
    expected, state = outputs(host), copy.deepcopy(host.state_dict())
    rows = fold(host, input=images())
    assert [row.into for row in rows] == [None] * len(rows)
    assert any(reason in row.reason for row in rows), rows
    torch.testing.assert_close(host.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(outputs(host), expected, rtol=0, atol=0)
    # The same place can be folded where the reason does not hold.
    control = with_gate()
    expected = outputs(control)
    assert fold(control, input=images())[0].into == "conv1"
    assert difference(outputs(control), expected) < 1e-6


def test_a_plug_whose_descriptors_are_read_is_kept_with_its_reader(make):
    host = plug(make("timm resnet"), "emca", where=["layer1.0.bn2", "layer2.0.bn2"], start="paper", input=SIZE)
    means = mean_gates(host, [images()])
    (row,) = fold(host, means, sites="layer1*", input=images())
    assert row.reason == "the plug at layer2.0.bn2, which stays, reads its descriptors"
    with held(host, means):
        expected = outputs(host)
    assert [row.into for row in fold(host, means, input=images())] == ["layer1.0.bn2", "layer2.0.bn2"]
    assert difference(outputs(host), expected) < 1e-6


def test_a_map_read_before_its_plug_is_found_by_the_outputs():
    def early(net, y):
        return net.conv2(net.act(y)) + y  # the activation is in place: y is the map without its gate

    host = with_gate("act", activation=nn.ReLU(inplace=True), rule=early)
    state, expected = copy.deepcopy(host.state_dict()), outputs(host)
    with pytest.raises(saccade.UserError, match="a map is read before its plug"):
        fold(host, input=images())
    torch.testing.assert_close(host.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(outputs(host), expected, rtol=0, atol=0)


def test_one_image_shows_no_dependence(make):
    with pytest.raises(saccade.UserError, match="at least two images"):
        fold(with_gate(), input=images()[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": "conv3"}, "'conv3' is no site with a plug. Did you mean 'conv1'"),
        ({"gates": {"act": torch.ones(8)}}, "'act' is no site with a plug"),
        ({"gates": {"conv1": torch.ones(3)}}, "must hold 8 finite numbers, one per channel, got"),
        ({"gates": {"conv1": torch.full((8,), float("nan"))}}, "values that are not finite"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(saccade.UserError, match=message):
        fold(with_gate(), input=SIZE, **arguments)


def test_a_plain_network_is_refused(make):
    with pytest.raises(saccade.UserError, match="ResNet has no plugs to fold"):
        saccade.fold(make("timm resnet"))
