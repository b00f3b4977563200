"""Find the guards that ``torch.export`` derives from image sizes, and sizes that violate them.

A size-dependent branch is traced once: the graph contains only the branch that the example took, and ``torch.export``
keeps the condition as a guard. If the network accepts a size that violates a guard, the file may be wrong there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import torch

__all__ = ["common_multiple", "upper_bounds", "violating_sizes"]

Size = tuple[int, int, int]
"""Batch size, height and width."""

_SIZE_EXPRESSION = re.compile(r"L\['\w+'\]\.size\(\)\[(\d)\]")
"""Matches the size of an axis in a guard, such as ``L['x'].size()[2]``."""
_NUMBER = re.compile(r"(?<![\w\[.])\d+(?![\w\].])")
_BATCH_SIZES = (1, 2, 3, 8, 9, 17)
_MAX_SIDE = 1024
"""Largest number in a guard that is treated as a side length."""
_UNBOUNDED = 2**31
"""Bound from which an axis counts as unbounded."""


def upper_bounds(program: torch.export.ExportedProgram) -> dict[int, int]:
    """Return the upper bounds of the bounded dynamic axes, by axis index."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    bounds = {}
    for axis, length in enumerate(node.meta["val"].shape):
        interval = program.range_constraints.get(getattr(getattr(length, "node", None), "expr", None))
        # Without a bound, ``upper`` is torch's own infinity, which is not a sympy Integer.
        if interval is not None and getattr(interval.upper, "is_Integer", False) and int(interval.upper) < _UNBOUNDED:
            bounds[axis] = int(interval.upper)
    return bounds


def violating_sizes(
    program: torch.export.ExportedProgram, native: tuple[int, int], smallest: tuple[int, int], is_size_fixed: bool
) -> dict[str, list[Size]]:
    """Return sizes that violate the guards of a program, by guard, fewest pixels first.

    Args:
        program: traced program.
        native: height and width of the network's input.
        smallest: smallest height and width that the program accepts.
        is_size_fixed: True if height and width are always ``native``.
    """
    sizes_by_guard: dict[str, list[Size]] = {}
    max_pixels = max(2**18, 18 * native[0] * native[1])
    for guard, holds in _guards(program):
        numbers = {n + shift for n in map(int, _NUMBER.findall(guard)) if n <= _MAX_SIDE for shift in (-1, 0, 1)}
        sides = [
            [side] if is_size_fixed else _sides(side, lower_bound, numbers)
            for side, lower_bound in zip(native, smallest, strict=True)
        ]
        batch_sizes = (
            sorted({*_BATCH_SIZES, *(n for n in numbers if n > 0)}) if "size[0]" in guard else _BATCH_SIZES[1:2]
        )
        sizes = [(n, h, w) for n, h, w in product(batch_sizes, sides[0], sides[1]) if n * h * w <= max_pixels]
        violations = [size for size in sizes if not holds(size)]
        if violations:
            sizes_by_guard[guard] = sorted(violations, key=lambda size: (size[0] * size[1] * size[2], size))
    return sizes_by_guard


def common_multiple(program: torch.export.ExportedProgram, guards: list[str], smallest: tuple[int, int]) -> int | None:
    """Return the smallest of 2 to 256 such that ``guards`` hold if both sides are its multiples, or None."""
    predicates = [holds for guard, holds in _guards(program) if guard in guards]
    for step in range(2, 257):
        sides = [[n * step for n in range(2, 12) if n * step >= lower_bound] for lower_bound in smallest]
        if all(holds((2, height, width)) for holds in predicates for height, width in product(*sides)):
            return step
    return None


def _guards(program: torch.export.ExportedProgram) -> list[tuple[str, Callable[[Size], bool]]]:
    """Return the guards of a program as pairs (text, predicate)."""
    # _guards_code is private and holds Python expressions of input sizes. If torch lacks it, only the bounds and the
    # comparisons at other sizes are checked.
    rows = getattr(program, "_guards_code", None) or []
    return [(text, _predicate(text)) for text in dict.fromkeys(_SIZE_EXPRESSION.sub(r"size[\1]", row) for row in rows)]


def _predicate(text: str) -> Callable[[Size], bool]:
    code = compile(text, "<guard>", "eval")

    def holds(size: Size) -> bool:
        try:
            return bool(eval(code, {"torch": torch, "size": (size[0], None, *size[1:])}))
        except Exception:  # treat a guard that is not about sizes as violated, so that the network is run
            return False

    return holds


def _sides(native: int, smallest: int, numbers: set[int]) -> list[int]:
    """Return side lengths of the parities and remainders that a network is likely to test."""
    sides = {native + n for n in range(-1, 5)}
    sides |= {native + 32, native + 64, native * 3 // 2 | 1, 2 * native, 2 * native + 7, native // 2, native // 2 + 1}
    return sorted(n for n in sides | numbers if n >= max(smallest, native // 2, 1))
