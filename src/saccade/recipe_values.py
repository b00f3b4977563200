"""The kinds of values in a recipe, checked so that one message says what was found and what is needed."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from saccade.errors import did_you_mean

__all__ = ["Channels", "Frozen", "PlainTable", "Size", "Spreads", "Text", "Texts", "described"]

_SIDES = (8, 2048)
"""Pixels of the smallest and the largest side of an image."""
_MAX_DEPTH = 16
_FREEZE = ("auto", "norm", "host", "none")
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


def _channels(value: Any) -> Any:
    """``value``, found to be one number for all channels or one for each of three, each in [0, 1]."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if value is None or (len(numbers) in (1, 3) and all(isinstance(n, int | float) and 0 <= n <= 1 for n in numbers)):
        return value if value is None else numbers
    raise PydanticCustomError("channels", "one number in [0, 1], or a list of three of them, is needed", {})


def _spread(value: Any) -> Any:
    """``value``, as of ``_channels``, each above 0."""
    if (found := _channels(value)) is not None and min(found) <= 0:
        raise PydanticCustomError("spread", "numbers above 0 are needed: pixels are divided by them", {})
    return found


def _freeze(value: Any) -> Any:
    """``value``, found to be a word for what is frozen or globs; both kinds in one message."""
    if value in _FREEZE or (isinstance(value, list | tuple) and value and all(isinstance(g, str) for g in value)):
        return value
    needed = f"one of {', '.join(_FREEZE)}, or a list of globs of parameter names, is needed"
    near = did_you_mean(value, _FREEZE) if isinstance(value, str) else ""
    raise PydanticCustomError("freeze", "{needed}", {"needed": f"{needed}.{near}" if near else needed})


_Value = TypeVar("_Value")
PlainTable = Annotated[dict[str, _Value], BeforeValidator(_plain)]
"""A table of names to values that TOML can hold."""
Size = Annotated[int | tuple[int, int] | None, BeforeValidator(_size)]
"""One side or (height, width) in pixels."""
Channels = Annotated[tuple[float, ...] | None, BeforeValidator(_channels)]
"""A number in [0, 1] for each channel."""
Spreads = Annotated[tuple[float, ...] | None, BeforeValidator(_spread)]
"""A number in (0, 1] for each channel."""
Frozen = Annotated[Literal["auto", "norm", "host", "none"] | tuple[Text, ...], BeforeValidator(_freeze)]
"""A word for what is frozen, or globs of parameter names."""
