"""Arithmetic on sizes that stays symbolic in graph capture, where ``max()`` would not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least_one"]


def at_least_one(count: Any) -> Any:
    """Return the larger of ``count`` and 1, for an int, a SymInt of torch.export or a Tensor of torch.jit.trace."""
    if isinstance(count, Tensor):
        return count.clamp_min(1)
    return max(count, 1) if type(count) is int else torch.sym_max(count, 1)  # also a Proxy of torch.fx
