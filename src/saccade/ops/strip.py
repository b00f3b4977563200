"""Strip pooling: the mean of each row and of each column of a map.

    r_{c,h} = (1/W) Σ_w x_{c,h,w}          (B, C, H, 1)
    s_{c,w} = (1/H) Σ_h x_{c,h,w}          (B, C, 1, W)

``strip_means_definition`` writes this down. ``strip_means`` has the same forward; backward, autograd would spread the
gradient of each mean over a map of its own and add the two maps; here one broadcast sum is the gradient of both.

Source: Hou, Zhang, Cheng, Feng, "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", CVPR 2020,
arXiv:2003.13328.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_captured, is_composed, is_transformed

__all__ = ["strip_means", "strip_means_definition"]


def strip_means_definition(x: Tensor) -> tuple[Tensor, Tensor]:
    """The equations at the head of the module, differentiated by autograd: the referee of ``strip_means``.

    Argument, results and errors are those of ``strip_means``.
    """
    _check(x)
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the rows and of the columns of a map.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, H, 1) and (B, C, 1, W), in the dtype of x.

    Compiled or exported (``torch.compile``, ``torch.export``, ONNX), in ``torch.func`` and in forward mode the call is
    the definition.

    Raises:
        ValueError: x is no map (B, C, H, W).
    """
    if is_captured() or is_transformed():
        return strip_means_definition(x)
    _check(x)
    rows, columns = _StripMeans.apply(x)
    return rows, columns


class _StripMeans(torch.autograd.Function):
    """The definition, with one gradient for both means; linear, so that its gradient is differentiable as it is."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(3, keepdim=True), x.mean(2, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.size = inputs[0].shape[2:]
        ctx.flat = not inputs[0].is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        height, width = ctx.size
        rows, columns = of_rows / width, of_columns / height
        if not (ctx.flat or is_composed()):  # the sum takes the layout of its operands
            rows, columns = (t.contiguous(memory_format=torch.channels_last) for t in (rows, columns))
        return rows + columns


def _check(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must have 4 dimensions, (B, C, H, W), got shape {tuple(x.shape)}")
