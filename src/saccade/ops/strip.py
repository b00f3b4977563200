"""Strip pooling: the mean of each row and of each column of a map.

    r_{c,h} = (1/W) Σ_w x_{c,h,w}          (B, C, H, 1)
    s_{c,w} = (1/H) Σ_h x_{c,h,w}          (B, C, 1, W)

Source: Hou et al., CVPR 2020, arXiv:2003.13328.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_captured, is_transformed, needs_composite_backward

__all__ = ["strip_means", "strip_means_definition"]


def strip_means_definition(x: Tensor) -> tuple[Tensor, Tensor]:
    """Reference implementation of ``strip_means``."""
    _check_shape(x)
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the rows and of the columns of a map.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, H, 1) and (B, C, 1, W), in the dtype of x.

    Raises:
        ValueError: x does not have four dimensions.
    """
    if is_captured() or is_transformed():
        return strip_means_definition(x)
    _check_shape(x)
    rows, columns = _StripMeans.apply(x)
    return rows, columns


class _StripMeans(torch.autograd.Function):
    """Both means, with one broadcast sum as their gradient."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(3, keepdim=True), x.mean(2, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.size = inputs[0].shape[2:]
        ctx.is_channels_first = not inputs[0].is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor, grad_columns: Tensor) -> Tensor:
        height, width = ctx.size
        rows, columns = grad_rows / width, grad_columns / height
        if not (ctx.is_channels_first or needs_composite_backward()):  # make the sum channels last too
            rows, columns = (t.contiguous(memory_format=torch.channels_last) for t in (rows, columns))
        return rows + columns


def _check_shape(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must have 4 dimensions, (B, C, H, W), got shape {tuple(x.shape)}")
