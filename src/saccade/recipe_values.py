"""The kinds of values in a recipe, checked so that one message says what was found and what is needed."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

__all__ = ["PlainTable", "Size", "Text", "Texts", "described"]

_SIDES = (8, 2048)
"""Pixels of the smallest and the largest side of an image."""
_MAX_DEPTH = 16
_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def described(value: object) -> str:
    """``repr(value)`` on one line, cut where it is long.

    >>> described([0] * 1000)[-20:]
    ', 0, 0, 0, 0, 0, 0 …'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no integer of over 4300 digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _text(value: str) -> str:
    """``value``, found to be text that every file and every path can hold."""
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        found = {"found": described(value)}
        raise PydanticCustomError("text", "{found} holds NUL or bytes that are not UTF-8; plain text is needed", found)
    return value


def _texts(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for text in (value,) if isinstance(value, str) else value:
        _text(text)
    return value


Text = Annotated[str, AfterValidator(_text)]
Texts = Annotated[str | tuple[str, ...], AfterValidator(_texts)]


def _plain(value: Any, key: str = "", depth: int = 0) -> Any:
    """``value`` in the types TOML has, tuples as lists, so that a recipe read back equals the one written."""
    if depth > _MAX_DEPTH:
        raise PydanticCustomError(
            "deep", "values nested in at most {depth} tables and lists are needed", {"depth": _MAX_DEPTH}
        )
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {
            _text(name): _plain(inner, f"{key}.{name}" if key else name, depth + 1) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{key}[{i}]", depth + 1) for i, inner in enumerate(value)]
    limit = 2**63 if isinstance(value, int) else math.inf
    if isinstance(value, int | float) and not abs(value) < limit:  # NaN is not, either
        wrong = {"key": key or "it", "found": described(value)}
        raise PydanticCustomError("number", "{key} is {found}; a finite number of 64 bits is needed", wrong)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | float):
        return value
    found = {"key": key or "it", "kind": type(value).__name__}
    if value is None:
        raise PydanticCustomError("none", "{key} is None, which TOML has no word for; leave it out", found)
    raise PydanticCustomError("plain", "{key} is a {kind}; numbers, texts, lists and tables with names can be", found)


def _size(value: Any) -> Any:
    """``value``, found to be one side or two; both kinds in one message, where a union would give three."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if value is None or all(isinstance(side, int) and _SIDES[0] <= side <= _SIDES[1] for side in sides):
        return value
    needed = "one number of {} to {} or two of them, [height, width], are needed".format(*_SIDES)
    raise PydanticCustomError("size", "{needed}", {"needed": needed})


_Value = TypeVar("_Value")
PlainTable = Annotated[dict[str, _Value], BeforeValidator(_plain)]
"""A table of names to values that TOML can hold."""
Size = Annotated[int | tuple[int, int] | None, BeforeValidator(_size)]
"""One side or (height, width) in pixels."""
