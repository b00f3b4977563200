"""A depthwise convolution whose kernel is as large as the map: one weighted sum of each channel.

PyTorch's backward kernel takes ten times as long there as it must: the gradient of the map is a product, that of the
kernel a sum over the images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import is_bare, is_composed, is_eager

__all__ = ["whole_conv"]


def whole_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` for a depthwise kernel that covers the whole map.

    A layer that is more than its kernel and bias is called as it is.

    Args:
        conv: C channels in C groups, its kernel (H, W), nothing outside the map.
        x: (B, C, H, W).

    Returns:
        (B, C, 1, 1).
    """
    learns = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if is_eager(x) and learns and is_bare(conv) and is_eager(conv.weight) and x.dtype == conv.weight.dtype:
        y: Tensor = _WholeConv.apply(x, conv.weight, conv.bias)
        return y
    result: Tensor = conv(x)
    return result


class _WholeConv(torch.autograd.Function):
    """A weighted sum of each map; its gradients are products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grad_x = grad * weight[:, 0] if of_x else None
        grad_weight = None
        if of_weight and is_composed():
            grad_weight = (grad * x).sum(0)[:, None]
        elif of_weight:
            grad_weight = torch.zeros_like(weight)
            for image, slope in zip(x, grad, strict=True):
                grad_weight[:, 0] += image * slope
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if of_bias else None
