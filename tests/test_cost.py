"""Multiply-adds against numbers worked out by hand, latency as a spread, and a network that is left as it was."""

import time

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import saccade
from saccade.cost import count_macs, measure, measure_all
from saccade.errors import UserError
from saccade.ops.counted import counted
from saccade.ops.deform import deform_conv2d, deform_conv2d_definition


class Of(nn.Module):
    """A network out of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def _ones(*shape):
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("network", "size", "macs"),
    [
        # output pixels × output channels × kernel × input channels of a group
        (nn.Conv2d(3, 8, 3, padding=1), (3, 5, 7), 5 * 7 * 8 * 9 * 3),
        (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), (4, 7, 9), 4 * 5 * 8 * 9 * 1),
        (nn.Conv2d(6, 9, (1, 3), groups=3, dilation=2), (6, 5, 11), 5 * 7 * 9 * 3 * 2),
        # input pixels × input channels × kernel × output channels
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 5), 3 * 5 * 4 * 4 * 6),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 12 * 5),
        (nn.Linear(7, 5, bias=False), (3, 2, 7), 3 * 2 * 7 * 5),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), (3, 8, 8), 0),
    ],
)
def test_layers(network, size, macs):
    assert count_macs(network, size) == macs


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.mm, [(2, 3), (3, 5)], 2 * 3 * 5),
        (torch.bmm, [(4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.baddbmm, [(4, 2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.addbmm, [(2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.addmm, [(2, 5), (2, 3), (3, 5)], 2 * 3 * 5),
        (torch.mv, [(2, 3), (3,)], 2 * 3),
        (torch.addmv, [(2,), (2, 3), (3,)], 2 * 3),
        (torch.dot, [(7,), (7,)], 7),
        (torch.matmul, [(2, 1, 3, 5), (4, 5, 6)], 2 * 4 * 3 * 5 * 6),
        (lambda q, k: torch.einsum("bcn,bcm->bnm", q, k), [(2, 3, 5), (2, 3, 7)], 2 * 3 * 5 * 7),
    ],
)
def test_products(function, shapes, macs):
    assert count_macs(Of(function), tuple(_ones(*shape) for shape in shapes)) == macs


@pytest.mark.parametrize("width", [16, 8, 3])
def test_attention_counts_both_products_by_whichever_kernel(width):
    # 2 heads, 7 queries, 5 keys of width 16, values of another width
    q, k, v = _ones(1, 2, 7, 16), _ones(1, 2, 5, 16), _ones(1, 2, 5, width)
    assert count_macs(Of(F.scaled_dot_product_attention), (q, k, v)) == 2 * 7 * 5 * (16 + width)


def test_a_fused_transformer_layer_is_not_free():
    # 5 tokens of width 16, 2 heads, 32 hidden: projections 16→48 and 16→16, attention 2·5·5·16, 16→32→16
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    expected = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32
    assert count_macs(layer, (_ones(1, 5, 16),)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("mode", "neighbours"), [("bilinear", 4), ("nearest", 0), ("bicubic", 16)])
def test_grid_sample_counts_neighbours(mode, neighbours):
    sample = Of(lambda x, grid: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, (_ones(2, 3, 9, 8), _ones(2, 5, 7, 2))) == 2 * 3 * 5 * 7 * neighbours


@pytest.mark.parametrize("operator", [deform_conv2d, deform_conv2d_definition, torchvision.ops.deform_conv2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_costs_the_same_in_every_form(operator, groups):
    # 6→4 channels, kernel 3×5, stride (2, 1), padding (1, 2), a 7×6 map -> 4×6; 2 offset groups, mask.
    # Kernel: 24 pixels · 4 · (6/groups) · 15. Sampling: 24 pixels · 6 channels · 15 taps · 4 neighbours.
    x, weight, bias = _ones(2, 6, 7, 6), _ones(4, 6 // groups, 3, 5), _ones(4)
    offset, mask = _ones(2, 2 * 2 * 15, 4, 6) / 3, _ones(2, 2 * 15, 4, 6)
    network = Of(lambda x, offset: operator(x, offset, weight, bias, stride=(2, 1), padding=(1, 2), mask=mask))
    expected = 2 * (24 * 4 * (6 // groups) * 15 + 24 * 6 * 15 * 4)
    assert count_macs(network, (x, offset)) == expected


def test_das_is_the_sum_of_its_parts():
    # C = 15, c = 3, 5×7 pixels: depthwise 9C, pointwise Cc, offsets 27·9c, kernel 9cC, sampling 4·9c
    each = 9 * 15 + 15 * 3 + 27 * 9 * 3 + 9 * 3 * 15 + 4 * 9 * 3
    assert count_macs(saccade.create("das", 15), (15, 5, 7)) == 35 * each


def test_an_operator_that_states_its_cost_counts_as_stated():
    @counted(lambda x: 10)
    def inner(x):
        return x @ x

    @counted(lambda x, times: 100 * times)
    def outer(x, times):
        return inner(x) @ x

    x = _ones(4, 4)
    assert count_macs(Of(lambda x: inner(x) + x @ x), (x,)) == 10 + 64
    assert count_macs(Of(lambda x: outer(x, times=3)), (x,)) == 300
    assert torch.equal(outer(x, 1), x @ x @ x)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18_Weights"),
        ("resnet50", "ResNet50_Weights"),
        ("mobilenet_v2", "MobileNet_V2_Weights"),
        ("densenet121", "DenseNet121_Weights"),
        ("convnext_tiny", "ConvNeXt_Tiny_Weights"),
        ("swin_t", "Swin_T_Weights"),
    ],
)
def test_networks_cost_what_torchvision_states(name, weights):
    stated = getattr(torchvision.models, weights).DEFAULT.meta["_ops"]  # 10⁹ multiply-adds, to three digits
    assert count_macs(getattr(torchvision.models, name)(), (3, 224, 224)) / 1e9 == pytest.approx(stated, abs=0.002)


def test_das_in_resnet50():
    host = saccade.plug(timm.create_model("resnet50"), "das", start="paper")
    cost = measure(host, runs=1)
    assert cost.parameters == 36_908_204
    # Convolutions and the classifier of ResNet-50, and DAS after each stage: channels, compressed channels, side.
    stages = [(256, 51, 56), (512, 102, 28), (1024, 204, 14), (2048, 409, 7)]
    das = sum(s * s * (9 * C + C * c + 27 * 9 * c + 9 * c * C + 4 * 9 * c) for C, c, s in stages)
    assert cost.macs == 4_089_184_256 + das == 5_825_160_127


def test_macs_are_those_of_one_picture_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 3 * 4, 2))
    one = count_macs(network, (3, 5, 6))
    assert one == 3 * 4 * 8 * 27 + 96 * 2
    assert measure(network, (3, 5, 6), batch=7, runs=1).macs == one
    assert measure(network, torch.rand(7, 3, 5, 6), runs=1).macs == one


def test_parameters_count_once_and_frozen_ones_do_not_train():
    shared = nn.Conv2d(4, 4, 1)
    network = nn.Sequential(shared, shared, nn.Conv2d(4, 2, 3))
    network[2].bias.requires_grad_(False)
    cost = measure(network, (4, 5, 5), runs=1)
    assert cost.parameters == 20 + 74
    assert cost.trainable == 20 + 72


class Recorder(nn.Module):
    """Keeps the shapes and dtypes it is called with."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.seen = []

    def forward(self, x):
        self.seen.append((tuple(x.shape), x.dtype))
        return self.layers(x)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Recorder(nn.Conv2d(3, 2, 1)), (3, 224, 224)),
        (Recorder(nn.Conv2d(5, 2, 1)), (5, 224, 224)),
        (Recorder(nn.ReLU()), (3, 224, 224)),
    ],
)
def test_the_default_picture_has_the_channels_of_the_first_convolution(network, shape):
    measure(network, batch=2, runs=1)
    assert {seen for seen, _ in network.seen} == {(1, *shape), (2, *shape)}


def test_the_default_picture_is_the_one_a_timm_network_states():
    network = timm.create_model("efficientnet_b1", in_chans=1)
    shapes = []
    network.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    count_macs(network)
    assert shapes == [(1, 1, *network.default_cfg["input_size"][1:])]
    assert shapes != [(1, 1, 224, 224)]


def test_the_picture_has_the_dtype_of_the_weights():
    network = Recorder(nn.Conv2d(3, 2, 1).to(torch.bfloat16))
    count_macs(network, (3, 4, 4))
    assert network.seen == [((1, 3, 4, 4), torch.bfloat16)]


def test_other_arguments_are_passed_as_they_are():
    boxes = Of(lambda images: sum(image @ image for image in images))
    assert count_macs(boxes, [_ones(2, 2), _ones(2, 2)]) == 2 * 8
    two = Of(lambda x, y: x @ y)
    assert count_macs(two, (_ones(2, 3), _ones(3, 4))) == 24
    named = Of(lambda *, pixels, other: pixels @ other)
    assert count_macs(named, {"pixels": _ones(2, 3), "other": _ones(3, 4)}) == 24


class Forgetful(nn.Module):
    """Batch norm, dropout, buffers that move in eval, a child whose mode differs from its parent's, a cache."""

    grid = None

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = self.seen + len(x)
        if self.grid is None:
            self.grid = torch.rand(())
        return self.frozen(self.body(x)) * self.grid


def _state(network):
    modes = [module.training for module in network.modules()]
    return modes, {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()


def _same(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][key], b[1][key]) for key in a[1]) and torch.equal(a[2], b[2])


@pytest.mark.parametrize("size", [(3, 6, 5), (4, 6, 5)], ids=["measured", "refused"])
def test_a_network_is_left_as_it_was(size):
    network = Forgetful().train()
    network.frozen.eval()
    before = _state(network)
    try:
        measure(network, size, runs=3)
    except UserError:
        assert size[0] == 4
    assert _same(_state(network), before)
    assert not torch.is_inference_mode_enabled()
    assert all(p.requires_grad and not p.is_inference() for p in network.parameters())
    assert not any(b.is_inference() for b in network.buffers())
    network(torch.rand(2, 3, 6, 5)).sum().backward()
    assert not _same(_state(network), before)  # what a plain forward does


def test_latency_is_a_spread_in_milliseconds():
    def doze(x):
        time.sleep(0.004)
        return x

    cost = measure(Of(doze), (1, 2, 2), seconds=0.05)
    spread = cost.latency_ms
    assert 4 <= spread.low <= spread.median <= spread.high
    assert spread.runs >= 10
    assert (cost.batch, cost.threads, cost.device) == (1, torch.get_num_threads(), "cpu")
    assert measure(Of(doze), (1, 2, 2), batch=3, runs=2).latency_ms.runs == 2


def test_one_run_is_its_own_spread():
    spread = measure(Of(lambda x: x), (1, 2, 2), runs=1).latency_ms
    assert spread.low == spread.median == spread.high


def test_networks_that_are_compared_take_turns():
    order = []

    def named(name):
        return Of(lambda x: order.append(name))

    costs = measure_all([named("a"), named("b")], (1, 2, 2), runs=3)
    assert len(costs) == 2
    assert "".join(order).endswith("ababab")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": (3, 8)}, r"three positive integers \(C, H, W\), got \(3, 8\)"),
        ({"input": (3, 0, 8)}, r"got \(3, 0, 8\)"),
        ({"input": (3, 8, 8), "batch": 0}, "batch must be at least 1, got 0"),
        ({"input": (3, 8, 8), "runs": 0}, "runs must be at least 1, got 0"),
        ({"input": (2, 8, 8)}, r"Conv2d does not run on the input 1×2×8×8: RuntimeError.*input=: a size \(C, H, W\)"),
    ],
)
def test_wrong_uses_say_what_is_needed(arguments, message):
    with pytest.raises(UserError, match=message):
        measure(nn.Conv2d(3, 4, 3), **arguments)
