"""Example inputs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.image_size import parse_size

__all__ = ["example_input", "is_out_of_memory"]

_MIN_SPACE_TO_DEPTH_CHANNELS = 16
"""Fewest input channels that imply a preceding space-to-depth step."""


def example_input(model: nn.Module, input: Any = None, *, batch: int = 1) -> tuple[Any, ...]:
    """Return the positional arguments of one forward pass of ``model``.

    Args:
        model: network, whose first floating-point parameter gives device and dtype.
        input: a size (C, H, W), for random pixels with a fixed seed; None for the size in timm's ``pretrained_cfg``,
            else 3×224×224, with the channels of the first convolution; a tuple of arguments; or one argument.
        batch: number of random images.

    Raises:
        UserError: a size is not three positive integers, ``batch`` is not positive, or there is not enough memory.
    """
    if batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")
    if input is None:
        size = _default_size(model)
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
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{'×'.join(map(str, shape))} pixels, {4 * prod(shape) / 1e9:,.1f} GB, do not fit into the memory of "
            f"{weight.device}"
        ) from None


def is_out_of_memory(error: Exception) -> bool:
    """Return True if ``error`` means that a device or the machine has no memory left."""
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error) or "enough memory" in str(error)


def _default_size(model: nn.Module) -> tuple[int, ...]:
    """Return the default size (C, H, W) of the network's input."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    config_size = tuple(config["input_size"]) if isinstance(config, dict) and "input_size" in config else None
    size = config_size or (3, 224, 224)
    # The network may have been built for another number of channels than its pretrained weights.
    in_channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), size[0])
    return (in_channels if config_size is None or in_channels < _MIN_SPACE_TO_DEPTH_CHANNELS else size[0], *size[1:])
