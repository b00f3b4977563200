"""The input that a network is run with when nothing else is known."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.image_size import parse_size

__all__ = ["example_input", "out_of_memory"]

_FOLDED = 16
"""Folding pixels into channels makes at least 12, usually 48; cameras have fewer."""


def example_input(model: nn.Module, input: Any = None, *, batch: int = 1) -> tuple[Any, ...]:
    """Return the positional arguments of one forward of ``model``.

    Args:
        model: its first floating-point parameter gives device and dtype.
        input: a size (C, H, W), for which the same standard normal pixels are drawn each time; None for the size the
            network states (timm's ``pretrained_cfg``), else 3×224×224, with the channels of its first convolution; a
            tuple of several arguments; or the one argument itself.
        batch: how many pictures are drawn.

    Raises:
        UserError: a size is not three positive integers, ``batch`` is not positive, or there is not enough memory.
    """
    if batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")
    if input is None:
        size = _stated_size(model)
    elif isinstance(input, Sequence) and len(input) > 0 and all(type(n) is int for n in input):
        size = parse_size(input)
    else:
        return input if isinstance(input, tuple) else (input,)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    shape = (batch, *size)
    try:
        pixels = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        return (pixels.to(weight.device, weight.dtype),)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{'×'.join(map(str, shape))} pixels, {4 * prod(shape) / 1e9:,.1f} GB, do not fit into the memory of "
            f"{weight.device}"
        ) from None


def out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` says that a device, or the machine, has no memory left."""
    # The allocator of the CPU raises a RuntimeError like any other.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error) or "enough memory" in str(error)


def _stated_size(model: nn.Module) -> tuple[int, ...]:
    facts = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    stated = tuple(facts["input_size"]) if isinstance(facts, dict) and "input_size" in facts else None
    size = stated or (3, 224, 224)
    # The stated size is that of the pretrained weights; the network may have been built for other channels. A first
    # convolution of many channels is no such sign: some networks fold the picture's pixels into channels before it.
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), size[0])
    return (first if stated is None or first < _FOLDED else size[0], *size[1:])
