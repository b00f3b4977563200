"""How the values of a map lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["copied", "laid_out", "memory_format"]


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last if that alone describes x (B, C, H, W), as ``F.conv2d`` decides it; else contiguous."""
    last = not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()  # ``vmap`` has no answer for channels last
    return torch.channels_last if last else torch.contiguous_format


def laid_out(y: Tensor, x: Tensor) -> Tensor:
    """A map y as x lies in memory; a compiler decides for itself."""
    if torch.compiler.is_compiling():
        return y
    if memory_format(x) == torch.contiguous_format:
        return y.contiguous()
    return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def copied(y: Tensor, x: Tensor) -> Tensor:
    """A copy of the map y as x lies in memory; a compiler decides for itself whether there is one."""
    if torch.compiler.is_compiling():
        return y
    if memory_format(x) == torch.contiguous_format:
        return y.clone(memory_format=torch.contiguous_format)
    return y.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
