"""Multiply-adds against numbers worked out by hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from function_network import FunctionNetwork, ones
from torch import nn
from torch.utils.flop_counter import flop_registry

import saccade
from saccade.cost import count_macs
from saccade.cost.macs import _RULES
from saccade.ops.attention import attention, attention_definition
from saccade.ops.deform import deform_conv2d, deform_conv2d_definition
from saccade.ops.macs import with_macs


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
    assert count_macs(FunctionNetwork(function), tuple(ones(*shape) for shape in shapes)) == macs


@pytest.mark.parametrize("width", [16, 8, 3])
def test_attention_counts_both_products_by_whichever_kernel(width):
    # 2 heads, 7 queries, 5 keys of width 16, values of another width
    q, k, v = ones(1, 2, 7, 16), ones(1, 2, 5, 16), ones(1, 2, 5, width)
    assert count_macs(FunctionNetwork(F.scaled_dot_product_attention), (q, k, v)) == 2 * 7 * 5 * (16 + width)


def test_a_fused_transformer_layer_is_not_free():
    # 5 tokens of width 16, 2 heads, 32 hidden: projections 16→48 and 16→16, attention 2·5·5·16, 16→32→16
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    expected = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32
    assert count_macs(layer, (ones(1, 5, 16),)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("shapes", [((1, 2, 7, 3), (1, 2, 5, 3), (1, 2, 5, 11)), ((4, 7, 3), (4, 5, 3), (4, 5, 9))])
@pytest.mark.parametrize("form", [attention, attention_definition, F.scaled_dot_product_attention])
def test_attention_costs_the_same_in_every_form(form, shapes):
    # heads · queries · keys · (width of keys + width of values), whatever the fast form fills up with zeros
    q, k, v = (ones(*shape) for shape in shapes)
    expected = q[..., 0, 0].numel() * 7 * 5 * (3 + v.shape[-1])
    assert count_macs(FunctionNetwork(lambda q, k, v: form(q, k, v, scale=0.5)), (q, k, v)) == expected


@pytest.mark.parametrize(
    "kernel",
    [
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "flash_attention_for_cpu",
        "fused_attention_overrideable",
        "attention_math_for_mps",
    ],
)
def test_every_kernel_of_attention_has_a_rule(kernel):
    # 2 · 3 heads, 7 queries, 5 keys of width 16, values of width 16; in operations, two a multiply-add
    rule = {**flop_registry, **_RULES}[getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")]
    q, k, v = ones(2, 3, 7, 16), ones(2, 3, 5, 16), ones(2, 3, 5, 16)
    arguments = (q, k, v) if hasattr(rule, "_get_raw") else (q.shape, k.shape, v.shape)
    assert rule(*arguments) == 2 * 6 * 7 * 5 * 32


def test_self_attention_is_the_sum_of_its_parts():
    # C = 16, c = 2, 5×7 pixels: query and key Cc each, value C², then 35 · (c + C) a pixel
    assert count_macs(saccade.create("self_attention", 16), (16, 5, 7)) == 35 * (2 * 32 + 256 + 35 * 18)


@pytest.mark.parametrize(("mode", "neighbours"), [("bilinear", 8), ("nearest", 0)])
def test_grid_sample_of_a_volume_counts_neighbours(mode, neighbours):
    sample = FunctionNetwork(lambda x, grid: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, (ones(1, 3, 4, 5, 6), ones(1, 2, 7, 8, 3))) == 3 * 2 * 7 * 8 * neighbours


@pytest.mark.parametrize(("mode", "neighbours"), [("bilinear", 4), ("nearest", 0), ("bicubic", 16)])
def test_grid_sample_counts_neighbours(mode, neighbours):
    sample = FunctionNetwork(lambda x, grid: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert count_macs(sample, (ones(2, 3, 9, 8), ones(2, 5, 7, 2))) == 2 * 3 * 5 * 7 * neighbours


@pytest.mark.parametrize("operator", [deform_conv2d, deform_conv2d_definition, torchvision.ops.deform_conv2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_costs_the_same_in_every_form(operator, groups):
    # 6→4 channels, kernel 3×5, stride (2, 1), padding (1, 2), a 7×6 map -> 4×6; 2 offset groups, mask.
    # Kernel: 24 pixels · 4 · (6/groups) · 15. Sampling: 24 pixels · 6 channels · 15 taps · 4 neighbours.
    x, weight, bias = ones(2, 6, 7, 6), ones(4, 6 // groups, 3, 5), ones(4)
    offset, mask = ones(2, 2 * 2 * 15, 4, 6) / 3, ones(2, 2 * 15, 4, 6)
    network = FunctionNetwork(
        lambda x, offset: operator(x, offset, weight, bias, stride=(2, 1), padding=(1, 2), mask=mask)
    )
    expected = 2 * (24 * 4 * (6 // groups) * 15 + 24 * 6 * 15 * 4)
    assert count_macs(network, (x, offset)) == expected


def test_das_is_the_sum_of_its_parts():
    # C = 15, c = 3, 5×7 pixels: depthwise 9C, pointwise Cc, offsets 27·9c, kernel 9cC, sampling 4·9c
    each = 9 * 15 + 15 * 3 + 27 * 9 * 3 + 9 * 3 * 15 + 4 * 9 * 3
    assert count_macs(saccade.create("das", 15), (15, 5, 7)) == 35 * each


def test_an_operator_that_states_its_cost_counts_as_stated():
    @with_macs(lambda x: 10)
    def inner(x):
        return x @ x

    @with_macs(lambda x, times: 100 * times)
    def outer(x, times):
        return inner(x) @ x

    x = ones(4, 4)
    assert count_macs(FunctionNetwork(lambda x: inner(x) + x @ x), (x,)) == 10 + 64
    assert count_macs(FunctionNetwork(lambda x: outer(x, times=3)), (x,)) == 300
    torch.testing.assert_close(outer(x, 1), x @ x @ x, rtol=0, atol=0)


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
    assert sum(p.numel() for p in host.parameters()) == 36_908_204
    # Convolutions and the classifier of ResNet-50, and DAS after each stage: channels, compressed channels, side.
    stages = [(256, 51, 56), (512, 102, 28), (1024, 204, 14), (2048, 409, 7)]
    das = sum(s * s * (9 * C + C * c + 27 * 9 * c + 9 * c * C + 4 * 9 * c) for C, c, s in stages)
    assert count_macs(host) == 4_089_184_256 + das == 5_825_160_127
