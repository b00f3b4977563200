"""Arithmetic on sizes that graph capture can keep symbolic, unlike ``max()``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least_one"]


def at_least_one(count: Any) -> Any:
    """Return the larger of ``count`` and 1, for an int, a SymInt of torch.export or a Tensor of torch.jit.trace."""
    return count.clamp_min(1) if isinstance(count, Tensor) else torch.sym_max(count, 1)
