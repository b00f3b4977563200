"""A depthwise convolution whose kernel is as large as the map: one weighted sum per channel.

PyTorch's backward kernel takes ten times as long as needed: the gradient of the map is a product, that of the weight a
sum over the images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import can_use_pieces, is_plain_layer, needs_composite_backward

__all__ = ["global_depthwise_conv"]


def global_depthwise_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``conv(x)`` for a depthwise kernel as large as the map.

    A layer that is not plain (see ``is_plain_layer``) is called as usual.

    Args:
        conv: C channels in C groups, kernel (H, W), no padding.
        x: (B, C, H, W).

    Returns:
        (B, C, 1, 1).
    """
    can_optimise = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if (
        can_use_pieces(x)
        and can_optimise
        and is_plain_layer(conv)
        and can_use_pieces(conv.weight)
        and x.dtype == conv.weight.dtype
    ):
        y: Tensor = _GlobalDepthwiseConv.apply(x, conv.weight, conv.bias)
        return y
    result: Tensor = conv(x)
    return result


class _GlobalDepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = grad * weight[:, 0] if needs_x else None
        grad_weight = None
        if needs_weight and needs_composite_backward():
            grad_weight = (grad * x).sum(0)[:, None]
        elif needs_weight:
            grad_weight = torch.zeros_like(weight)
            for image, image_grad in zip(x, grad, strict=True):
                grad_weight[:, 0] += image * image_grad
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None
