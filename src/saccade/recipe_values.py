"""Pydantic types of recipe values; each error states the value found and the values allowed in one message."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from saccade.errors import did_you_mean

__all__ = [
    "ChannelMeans",
    "ChannelStds",
    "FreezeMode",
    "PlainTable",
    "Precision",
    "Size",
    "Text",
    "Texts",
    "short_repr",
]

_SIDE_LIMITS = (8, 2048)
"""Smallest and largest side of an image, in pixels."""
_MAX_DEPTH = 16
"""Deepest nesting of tables and lists."""
_FREEZE_MODES = ("auto", "norm", "host", "none")
_MAX_SHOWN = 80
"""Longest representation of a value in a message, in characters."""


def short_repr(value: object) -> str:
    """Return ``repr(value)`` on one line, truncated to 80 characters.

    >>> short_repr([0] * 1000)[-20:]
    ', 0, 0, 0, 0, 0, 0 …'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to print integers of over 4300 digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} …"


def _check_text(value: str) -> str:
    """Return ``value`` if a UTF-8 file and a path can hold it, else raise."""
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        context = {"found": short_repr(value)}
        raise PydanticCustomError(
            "text", "{found} holds NUL or bytes that are not UTF-8; plain text is needed", context
        )
    return value


def _check_texts(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for text in (value,) if isinstance(value, str) else value:
        _check_text(text)
    return value


Text = Annotated[str, AfterValidator(_check_text)]
"""Text without NUL that UTF-8 can encode."""
Texts = Annotated[str | tuple[str, ...], AfterValidator(_check_texts)]
"""Text, or a tuple of texts."""


Precision = Annotated[
    Literal["32", "bf16", "auto"], BeforeValidator(lambda value: "32" if type(value) is int and value == 32 else value)
]
"""Precision of a training; the number 32 is accepted."""


def _to_plain_values(value: Any, key: str = "", depth: int = 0) -> Any:
    """Return ``value`` in the types of TOML, tuples as lists, so that a saved recipe equals the original."""
    if depth > _MAX_DEPTH:
        raise PydanticCustomError(
            "deep", "values nested in at most {depth} tables and lists are needed", {"depth": _MAX_DEPTH}
        )
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {
            _check_text(name): _to_plain_values(inner, f"{key}.{name}" if key else name, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_to_plain_values(inner, f"{key}[{i}]", depth + 1) for i, inner in enumerate(value)]
    limit = 2**63 if isinstance(value, int) else math.inf
    if isinstance(value, int | float) and not abs(value) < limit:  # NaN fails this comparison too
        context = {"key": key or "it", "found": short_repr(value)}
        raise PydanticCustomError("number", "{key} is {found}; a finite number of 64 bits is needed", context)
    if isinstance(value, str):
        return _check_text(value)
    if isinstance(value, bool | int | float):
        return value
    context = {"key": key or "it", "kind": type(value).__name__}
    if value is None:
        raise PydanticCustomError("none", "{key} is None, which TOML cannot store; leave it out", context)
    raise PydanticCustomError(
        "plain", "{key} is a {kind}; numbers, texts, lists and tables with text keys are allowed", context
    )


def _check_size(value: Any) -> Any:
    """Return ``value`` if it is None, a side or a pair of sides; a pydantic union would report three errors."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if value is None or all(isinstance(side, int) and _SIDE_LIMITS[0] <= side <= _SIDE_LIMITS[1] for side in sides):
        return value
    needed = "one number of {} to {} or two of them, [height, width], are needed".format(*_SIDE_LIMITS)
    raise PydanticCustomError("size", "{needed}", {"needed": needed})


def _check_means(value: Any) -> Any:
    """Return ``value`` as a list of one or three numbers in [0, 1], or None."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if value is None or (len(numbers) in (1, 3) and all(isinstance(n, int | float) and 0 <= n <= 1 for n in numbers)):
        return value if value is None else numbers
    raise PydanticCustomError("channels", "one number in [0, 1], or a list of three of them, is needed", {})


def _check_stds(value: Any) -> Any:
    """Return ``value`` as a list of one or three numbers in (0, 1], or None."""
    if (numbers := _check_means(value)) is not None and min(numbers) <= 0:
        raise PydanticCustomError("spread", "numbers above 0 are needed: pixels are divided by them", {})
    return numbers


def _check_freeze_mode(value: Any) -> Any:
    """Return ``value`` if it is a mode or a list of globs; a pydantic union would report several errors."""
    if value in _FREEZE_MODES or (
        isinstance(value, list | tuple) and value and all(isinstance(glob, str) for glob in value)
    ):
        return value
    needed = f"one of {', '.join(_FREEZE_MODES)}, or a list of globs of parameter names, is needed"
    suggestion = did_you_mean(value, _FREEZE_MODES) if isinstance(value, str) else ""
    raise PydanticCustomError("freeze", "{needed}", {"needed": f"{needed}.{suggestion}" if suggestion else needed})


_Value = TypeVar("_Value")
PlainTable = Annotated[dict[str, _Value], BeforeValidator(_to_plain_values)]
"""Table that TOML can store: maps text keys to values."""
Size = Annotated[int | tuple[int, int] | None, BeforeValidator(_check_size)]
"""Side of a square or (height, width), in pixels."""
ChannelMeans = Annotated[tuple[float, ...] | None, BeforeValidator(_check_means)]
"""Mean per channel, in [0, 1]."""
ChannelStds = Annotated[tuple[float, ...] | None, BeforeValidator(_check_stds)]
"""Standard deviation per channel, in (0, 1]."""
FreezeMode = Annotated[Literal["auto", "norm", "host", "none"] | tuple[Text, ...], BeforeValidator(_check_freeze_mode)]
"""Mode of freezing, or globs of parameter names."""
