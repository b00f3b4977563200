"""Sizes that a graph can hold, as it could not hold ``max()`` of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least_one"]


def at_least_one(count: Any) -> Any:
    """Return ``count``, or 1 where it is less: an int, a SymInt of torch.export, a Tensor of torch.jit.trace."""
    return count.clamp_min(1) if isinstance(count, Tensor) else torch.sym_max(count, 1)
