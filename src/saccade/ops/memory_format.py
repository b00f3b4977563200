"""Memory formats of maps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clone_in_format", "match_memory_format", "memory_format"]


def memory_format(x: Tensor) -> torch.memory_format:
    """Return channels last if x (B, C, H, W) has that format only, else contiguous."""
    # ``is_contiguous(channels_last)`` fails under ``vmap``.
    is_channels_last = not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()
    return torch.channels_last if is_channels_last else torch.contiguous_format


def match_memory_format(y: Tensor, x: Tensor) -> Tensor:
    """Return the map y (B, C, H, W) in the memory format of x; unchanged under torch.compile."""
    if torch.compiler.is_compiling():
        return y
    if memory_format(x) == torch.contiguous_format:
        return y.contiguous()
    return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def clone_in_format(y: Tensor, x: Tensor) -> Tensor:
    """Return a copy of the map y (B, C, H, W) in the memory format of x; y itself under torch.compile."""
    if torch.compiler.is_compiling():
        return y
    if memory_format(x) == torch.contiguous_format:
        return y.clone(memory_format=torch.contiguous_format)
    return y.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
