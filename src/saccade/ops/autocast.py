"""Autocast helpers for operators."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_enabled", "operand_dtype", "without_autocast"]


def operand_dtype(input: Tensor) -> torch.dtype:
    """Return the dtype of an operator's products: autocast's if enabled, else that of ``input`` (any shape)."""
    # Autocast never casts float64.
    if input.dtype != torch.float64 and autocast_enabled(input):
        return torch.get_autocast_dtype(input.device.type)
    return input.dtype


def autocast_enabled(input: Tensor) -> bool:
    """Return True if autocast is enabled on the device of ``input`` (any shape)."""
    device = input.device.type
    # torch.compile cannot trace ``is_autocast_available`` in every version; all devices it compiles for have autocast.
    has_autocast = not input.is_meta and (torch.compiler.is_compiling() or torch.amp.is_autocast_available(device))
    return has_autocast and torch.is_autocast_enabled(device)


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Return a context manager that disables autocast on the device of ``like`` (any shape)."""
    return torch.autocast(like.device.type, enabled=False) if autocast_enabled(like) else nullcontext()
