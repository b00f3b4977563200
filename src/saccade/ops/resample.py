"""Maps of another size: means over windows, and bilinear interpolation, each as two products with small matrices.

    means      p = A_h x A_wᵀ      A (n, N): row i is 1/(e − s) from s = ⌊i·N/n⌋ up to e = ⌈(i + 1)·N/n⌉
    bilinear   u = L_h x L_wᵀ      L (n, N): L_{i,j} = max(0, 1 − |i·(N − 1)/(n − 1) − j|), corners on corners

The definitions are PyTorch's ``adaptive_avg_pool2d`` and ``interpolate(align_corners=True)``. Their sizes are constants
of an exported program, and their gradients cannot be differentiated again; the matrices are built from the sizes as a
tensor, so that one program serves all, and products are differentiable as often as wanted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import without_autocast
from saccade.ops.sizes import at_least_one

__all__ = ["bilinear", "bilinear_definition", "starts", "window_means", "window_means_definition"]


def window_means_definition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """PyTorch's adaptive pooling: the referee of ``window_means``, with its arguments and result."""
    return F.adaptive_avg_pool2d(x, size)


def bilinear_definition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """PyTorch's interpolation: the referee of ``bilinear``, with its arguments and result."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def window_means(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Means over windows that cover the map evenly, overlapping where the sizes do not divide.

    Args:
        x: (B, C, H, W).
        size: of the result; larger than the map it repeats pixels.

    Returns:
        (B, C, size[0], size[1]), in the dtype of x, under autocast too.
    """
    return _resampled(x, size, _windows)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation that maps corner pixels to corner pixels.

    Args:
        x: (B, C, H, W).
        size: of the result.

    Returns:
        (B, C, size[0], size[1]), in the dtype of x, under autocast too.
    """
    return _resampled(x, size, _hats)


def starts(side: int, stride: int, window: int, device: torch.device) -> Tensor:
    """Where windows that fit into a row of ``side`` pixels start, a stride apart, for ``index_select``; at least 0.

    In an exported program their number would be a bound on the sizes it takes, unless it is of the data.
    """
    if not torch.compiler.is_exporting():
        return stride * torch.arange(at_least_one((side - window) // stride + 1), device=device)
    place = torch.arange(side, device=device)
    return ((place % stride == 0) & ((place + window <= side) | (place == 0))).nonzero()[:, 0]


def _resampled(x: Tensor, size: tuple[int, int], matrix: object) -> Tensor:
    assert callable(matrix)
    height, width = (matrix(n, old, x) for n, old in zip(size, x.shape[2:], strict=True))
    with without_autocast(x):  # no place of a pixel in half precision
        y: Tensor = height @ x @ width.mT
    return y


def _windows(n: int, old: int, like: Tensor) -> Tensor:
    i = torch.arange(n, device=like.device)[:, None]
    place = torch.arange(old, device=like.device)
    start, end = i * old // n, -(-(i + 1) * old // n)
    return ((place >= start) & (place < end)).to(like.dtype) / (end - start).to(like.dtype)


def _hats(n: int, old: int, like: Tensor) -> Tensor:
    # In float32 at least: a place in bfloat16 would be off by pixels on a large map.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    i = torch.arange(n, device=like.device, dtype=dtype)[:, None]
    place = torch.arange(old, device=like.device, dtype=dtype)
    last = (torch.ones((), device=like.device, dtype=dtype) * n - 1).clamp(min=1)
    return (1 - (i * (old - 1) / last - place).abs()).clamp(min=0).to(like.dtype)
