"""Parameters and multiply-adds against thop."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn

import saccade
from saccade.cost import count_macs, measure
from saccade.cost.call import ForwardCall
from saccade.cost.thop import thop_counts
from saccade.errors import UserError


def _ones(*shape):
    return torch.ones(shape)


def _thop(network, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses distutils, and functions of its own that it calls deprecated
        import thop

        macs, parameters = thop.profile(network, (x,), verbose=False)
    return parameters, macs


def _ours(network, x):
    cost = measure(network, x, runs=1, counter="thop")
    assert cost.counter == "thop"
    return cost.parameters, cost.macs


@pytest.fixture(scope="module")
def resnet():
    """A ResNet of two bottlenecks per stage, with and without a projection, as in resnet50."""
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (2, 2, 2, 2))


@pytest.mark.parametrize("mechanism", ["none", *sorted(set(saccade.list_mechanisms("plug")) - {"skip_gate"})])
def test_the_counter_thop_equals_thop_on_a_resnet(mechanism, resnet):
    host, x = copy.deepcopy(resnet), torch.rand(1, 3, 64, 64)
    if mechanism != "none":
        saccade.plug(host, mechanism, start="paper", input=(3, 64, 64))
    found = thop_counts(ForwardCall.build(host, x, 1))
    assert found == _thop(host, x)
    if mechanism in ("das", "self_attention"):
        assert found[1] != count_macs(host, x)


def test_the_printed_figures_of_das():
    # The paper prints 26.90 M and 4.39 G, without the deformable kernels.
    host = saccade.plug(timm.create_model("resnet50"), "das", start="paper")
    parameters, macs = thop_counts(ForwardCall.build(host, (3, 224, 224), 1))
    assert parameters == 26_897_326
    assert f"{macs / 1e9:.2f}" == "4.39"


class Odd(nn.Module):
    """What thop counts by rules of its own: shared, uncalled and derived layers, layers called by keyword."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, (3, 1), groups=1)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.layers = nn.ModuleList([nn.PReLU(8), nn.LeakyReLU(), nn.ReLU6(), nn.GELU()])
        self.up = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(3, 2), nn.ZeroPad2d(1))
        self.back = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.shared = nn.Conv2d(6, 6, 1)
        self.again = nn.Sequential(self.shared, nn.InstanceNorm2d(6, affine=True))
        self.unused = nn.Linear(100, 100)
        self.loose = nn.Parameter(torch.zeros(6, 1, 1))
        self.derived = type("Derived", (nn.Conv2d,), {})(6, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.head = nn.Sequential(nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 5), nn.Softmax(1), nn.Dropout())

    def forward(self, x):
        x = self.norm(self.first(x))
        for layer in self.layers:
            x = layer(x)
        x = self.shared(self.again(self.back(self.up(x)))) * self.loose
        return self.head(self.pool(self.derived(input=x)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Odd(), (1, 3, 11, 9)),
        (nn.Conv2d(3, 4, 3), (1, 3, 7, 5)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(4), nn.Upsample(7)), (1, 3, 11)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample((5, 7), mode="bicubic")), (1, 3, 9, 6)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.AvgPool3d(2)), (1, 2, 7, 5, 6)),
    ],
)
def test_the_counter_thop_has_its_rules(network, shape):
    x = torch.rand(shape)
    assert _ours(network, x) == _thop(network.eval(), x)


def test_the_counter_thop_does_not_guess():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 4)

        def forward(self, x):
            return self.cell(x)[0]

    with pytest.raises(UserError, match="cannot count LSTM layers"):
        measure(Last(), (_ones(3, 1, 4),), counter="thop")
    with pytest.raises(UserError, match=r"no counter is called 'top'; there are true and thop\. Did you mean 'thop'"):
        measure(Last(), (_ones(3, 1, 4),), counter="top")
