"""Resizing of maps: adaptive average pooling and bilinear interpolation, each as two products with small matrices.

    means      p = A_h x A_wᵀ      A (n, N): row i is 1/(e − s) from s = ⌊i·N/n⌋ up to e = ⌈(i + 1)·N/n⌉
    bilinear   u = L_h x L_wᵀ      L (n, N): L_{i,j} = max(0, 1 − |i·(N − 1)/(n − 1) − j|), align_corners=True

Unlike PyTorch's own operators, they export with symbolic sizes and can be differentiated twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import without_autocast
from saccade.ops.sizes import at_least_one

__all__ = ["bilinear", "bilinear_definition", "window_means", "window_means_definition", "window_starts"]


def window_means_definition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Reference implementation of ``window_means`` for x (B, C, H, W)."""
    return F.adaptive_avg_pool2d(x, size)


def bilinear_definition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Reference implementation of ``bilinear`` for x (B, C, H, W)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def window_means(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return means over windows that cover the map evenly; they overlap if ``size`` does not divide that of x.

    Args:
        x: (B, C, H, W).
        size: (height, width) of the result; if larger, pixels are repeated.

    Returns:
        (B, C, height, width), in the dtype of x.
    """
    return _resample(x, size, _mean_matrix)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the map interpolated bilinearly, with ``align_corners=True``.

    Args:
        x: (B, C, H, W).
        size: (height, width) of the result.

    Returns:
        (B, C, height, width), in the dtype of x.
    """
    return _resample(x, size, _bilinear_matrix)


def window_starts(length: int, stride: int, window: int, device: torch.device) -> Tensor:
    """Return the start indices of windows that fit into ``length`` pixels, ``stride`` apart; at least one.

    Under torch.export ``nonzero`` finds them: a symbolic count would add guards that restrict the sizes of x.
    """
    if not torch.compiler.is_exporting():
        return stride * torch.arange(at_least_one((length - window) // stride + 1), device=device)
    index = torch.arange(length, device=device)
    return ((index % stride == 0) & ((index + window <= length) | (index == 0))).nonzero()[:, 0]


def _resample(x: Tensor, size: tuple[int, int], make_matrix: object) -> Tensor:
    assert callable(make_matrix)
    height, width = (make_matrix(n, n_in, x) for n, n_in in zip(size, x.shape[2:], strict=True))
    with without_autocast(x):  # autocast would round coordinates to half precision
        y: Tensor = height @ x @ width.mT
    return y


def _mean_matrix(n_out: int, n_in: int, like: Tensor) -> Tensor:
    """Return the matrix A (n_out, n_in) of window means."""
    i = torch.arange(n_out, device=like.device)[:, None]
    index = torch.arange(n_in, device=like.device)
    start, end = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
    return ((index >= start) & (index < end)).to(like.dtype) / (end - start).to(like.dtype)


def _bilinear_matrix(n_out: int, n_in: int, like: Tensor) -> Tensor:
    """Return the matrix L (n_out, n_in) of bilinear interpolation."""
    # bfloat16 coordinates would be off by pixels on a large map.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    i = torch.arange(n_out, device=like.device, dtype=dtype)[:, None]
    index = torch.arange(n_in, device=like.device, dtype=dtype)
    last = (torch.ones((), device=like.device, dtype=dtype) * n_out - 1).clamp(min=1)
    return (1 - (i * (n_in - 1) / last - index).abs()).clamp(min=0).to(like.dtype)
