"""What autocast asks of an operator: the dtype of its products, and to be left alone where it has one of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_enabled", "operand_dtype", "without_autocast"]


def operand_dtype(input: Tensor) -> torch.dtype:
    """The dtype of the products and the result: that of autocast where it is on, else the input's."""
    # Autocast leaves float64 alone everywhere.
    if input.dtype != torch.float64 and autocast_enabled(input):
        return torch.get_autocast_dtype(input.device.type)
    return input.dtype


def autocast_enabled(input: Tensor) -> bool:
    """Is autocast on for the input's device? Not on one that knows none, as ``meta``, where torch refuses to tell."""
    device = input.device.type
    # A compiler, which asks for devices that it has code for, cannot trace the first question in every version.
    known = not input.is_meta and (torch.compiler.is_compiling() or torch.amp.is_autocast_available(device))
    return known and torch.is_autocast_enabled(device)


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Products in the dtype of their operands, on a device with autocast or without it."""
    return torch.autocast(like.device.type, enabled=False) if autocast_enabled(like) else nullcontext()
