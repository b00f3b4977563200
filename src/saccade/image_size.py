"""Parse an image size (C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from saccade.errors import UserError

__all__ = ["parse_size"]


def parse_size(value: Any, name: str = "an input size") -> tuple[int, int, int]:
    """Return (C, H, W), three positive integers, from a sequence or a text such as ``3,224,224`` or ``3x224x224``.

    Args:
        value: the sequence or text.
        name: name of the value in the error message.

    Raises:
        UserError: ``value`` is not three positive integers.
    """
    parts: Any = value.replace("x", ",").split(",") if isinstance(value, str) else value
    if isinstance(parts, Sequence) and len(parts) == 3:
        try:
            size = [int(part) for part in parts if isinstance(part, str | Integral)]
        except ValueError:
            size = []
        if len(size) == 3 and min(size) > 0:
            return size[0], size[1], size[2]
    shape = getattr(value, "shape", None)
    if shape is not None:
        text = f"a tensor of {tuple(shape)}"
    else:
        text = str(tuple(value)) if isinstance(value, list) else repr(value)
    raise UserError(f"{name} is three positive integers (C, H, W), got {text}; for example 3,224,224")
