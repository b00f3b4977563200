"""What tracing assumed of a picture's size, and pictures that break it.

A forward that asks whether a side is odd, or at most 100, leaves in the graph the one answer it was traced with.
``torch.export`` keeps each question as a condition. Some always hold or are harmless; some say what the network refuses
anyway; the rest make a file wrong. Running a picture of that size tells which.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import torch

__all__ = ["broken", "common_multiple", "upper_bounds"]

Size = tuple[int, int, int]
"""Pictures, height, width."""

_AXIS = re.compile(r"L\['\w+'\]\.size\(\)\[(\d)\]")
_NUMBER = re.compile(r"(?<![\w\[.])\d+(?![\w\].])")
_PICTURES = (1, 2, 3, 8, 9, 17)
_LARGEST = 1024
"""A number above this in a condition is no length of a side."""
_UNBOUNDED = 2**31


def upper_bounds(program: torch.export.ExportedProgram) -> dict[int, int]:
    """Return the axes, of any length, for which the program states a greatest length."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    found = {}
    for axis, length in enumerate(node.meta["val"].shape):
        bounds = program.range_constraints.get(getattr(getattr(length, "node", None), "expr", None))
        # Without a bound the upper end is an infinity of torch's own, which is no integer of sympy's.
        if bounds is not None and getattr(bounds.upper, "is_Integer", False) and int(bounds.upper) < _UNBOUNDED:
            found[axis] = int(bounds.upper)
    return found


def broken(
    program: torch.export.ExportedProgram, own: tuple[int, int], least: tuple[int, int], fixed: bool
) -> dict[str, list[Size]]:
    """Return the conditions of a program that do not hold at every size, each with sizes that break it.

    Args:
        program: what was traced.
        own: height and width the network is meant for.
        least: least height and width for the program.
        fixed: height and width are those.

    Returns:
        sizes from half of ``own`` to some times ``own``, the fewest pixels first.
    """
    found: dict[str, list[Size]] = {}
    room = max(2**18, 18 * own[0] * own[1])
    for text, holds in _conditions(program):
        numbers = {n + shift for n in map(int, _NUMBER.findall(text)) if n <= _LARGEST for shift in (-1, 0, 1)}
        sides = [[side] if fixed else _sides(side, low, numbers) for side, low in zip(own, least, strict=True)]
        pictures = sorted({*_PICTURES, *(n for n in numbers if n > 0)}) if "size[0]" in text else _PICTURES[1:2]
        sizes = [(n, h, w) for n, h, w in product(pictures, sides[0], sides[1]) if n * h * w <= room]
        failing = [size for size in sizes if not holds(size)]
        if failing:
            found[text] = sorted(failing, key=lambda size: (size[0] * size[1] * size[2], size))
    return found


def common_multiple(program: torch.export.ExportedProgram, texts: list[str], least: tuple[int, int]) -> int | None:
    """Return the least number whose multiples, as sides, fulfil these conditions; None if none is found."""
    chosen = [holds for text, holds in _conditions(program) if text in texts]
    for step in range(2, 257):
        sides = [[n * step for n in range(2, 12) if n * step >= low] for low in least]
        if all(holds((2, height, width)) for holds in chosen for height, width in product(*sides)):
            return step
    return None


def _conditions(program: torch.export.ExportedProgram) -> list[tuple[str, Callable[[Size], bool]]]:
    """Yield the conditions of a program: text and test."""
    # torch states them as Python, by the size of its arguments, and checks them when the program itself is called. They
    # are not public: a torch without them leaves the bounds, and the comparison at other sizes.
    rows = getattr(program, "_guards_code", None) or []
    return [(text, _test(text)) for text in dict.fromkeys(_AXIS.sub(r"size[\1]", row) for row in rows)]


def _test(text: str) -> Callable[[Size], bool]:
    code = compile(text, "<condition>", "eval")

    def holds(size: Size) -> bool:
        try:
            return bool(eval(code, {"torch": torch, "size": (size[0], None, *size[1:])}))
        except Exception:  # of something else than sizes: only a picture can tell
            return False

    return holds


def _sides(own: int, least: int, numbers: set[int]) -> list[int]:
    """Return lengths of a side, of every parity and remainder that a network is likely to ask for."""
    near = {own + n for n in range(-1, 5)} | {own + 32, own + 64, own * 3 // 2 | 1, 2 * own, 2 * own + 7}
    return sorted(n for n in near | {own // 2, own // 2 + 1} | numbers if n >= max(least, own // 2, 1))
