"""The size of a picture, (C, H, W), as users write it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from saccade.errors import UserError

__all__ = ["parse_size"]


def parse_size(given: Any, name: str = "an input size") -> tuple[int, int, int]:
    """Return three positive integers (C, H, W) out of a sequence, or out of a text such as ``3,224,224``.

    Args:
        given: the sequence or text.
        name: what the message calls it.

    Raises:
        UserError: it is something else.
    """
    parts: Any = given.replace("x", ",").split(",") if isinstance(given, str) else given
    if isinstance(parts, Sequence) and len(parts) == 3:
        try:
            size = [int(n) for n in parts if isinstance(n, str | Integral)]
        except ValueError:
            size = []
        if len(size) == 3 and min(size) > 0:
            return size[0], size[1], size[2]
    shape = getattr(given, "shape", None)
    shown = (
        f"a tensor of {tuple(shape)}" if shape is not None else tuple(given) if isinstance(given, list) else repr(given)
    )
    raise UserError(f"{name} is three positive integers (C, H, W), got {shown}; for example 3,224,224")
