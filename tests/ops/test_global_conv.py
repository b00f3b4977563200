"""A depthwise convolution over the whole map: its gradients against PyTorch's."""

import copy

import pytest
import torch
from torch import nn

from saccade.ops.global_conv import global_depthwise_conv


def _conv(size, bias, channels=3):
    torch.manual_seed(0)
    return nn.Conv2d(channels, channels, size, groups=channels, bias=bias).double()


@pytest.mark.parametrize("size", [(5, 4), (7, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_layer(size, bias):
    conv = _conv(size, bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    operands = (x, *conv.parameters())
    y, known = global_depthwise_conv(conv, x), conv(x)
    torch.testing.assert_close(y, known, rtol=0, atol=0)
    grad = torch.randn_like(y)
    for found, wanted in zip(
        torch.autograd.grad(y, operands, grad), torch.autograd.grad(known, operands, grad), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(lambda x, *_: global_depthwise_conv(conv, x), operands)


def test_frozen_parametrized_and_hooked_layers():
    frozen, called = _conv((5, 4), True).requires_grad_(False), []
    frozen.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    global_depthwise_conv(frozen, x).sum().backward()
    assert called == [1]
    assert frozen.weight.grad is None
    torch.testing.assert_close(x.grad, frozen.weight[:, 0].expand_as(x))
    normed = nn.utils.parametrizations.spectral_norm(_conv((5, 4), True))
    twin = copy.deepcopy(normed)
    torch.testing.assert_close(
        global_depthwise_conv(normed, x), twin(x), rtol=0, atol=0
    )  # one power iteration, not two


def test_rounding_is_no_worse_than_the_layers():
    conv = _conv((14, 11), False, 16)
    x, grad = torch.randn(4, 16, 14, 11, dtype=torch.float64), torch.randn(4, 16, 1, 1, dtype=torch.float64)

    def gradients(form, dtype):
        layer, leaf = copy.deepcopy(conv).to(dtype), x.to(dtype).requires_grad_()
        return torch.autograd.grad(form(layer, leaf), (leaf, layer.weight), grad.to(dtype))

    truth = gradients(lambda layer, leaf: layer(leaf), torch.float64)
    fast = gradients(global_depthwise_conv, torch.float32)
    plain = gradients(lambda layer, leaf: layer(leaf), torch.float32)
    for found, known, true in zip(fast, plain, truth, strict=True):
        assert (found - true).abs().max() <= 2 * (known - true).abs().max() + torch.finfo(torch.float32).eps
