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

_AXIS = re.compile(r"L\['\w+'\]\.size\(\)\[(\d)\]")
_NUMBER = re.compile(r"(?<![\w\[.])\d+(?![\w\].])")
_BATCH_SIZES = (1, 2, 3, 8, 9, 17)
_MAX_SIDE = 1024
"""Largest number in a guard that is treated as a side length."""
_UNBOUNDED = 2**31
"""Bound from which an axis counts as unbounded."""


def upper_bounds(program: torch.export.ExportedProgram) -> dict[int, int]:
    """Return the upper bounds of the dynamic axes that have one, by axis."""
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
    program: torch.export.ExportedProgram, native: tuple[int, int], smallest: tuple[int, int], is_fixed: bool
) -> dict[str, list[Size]]:
    """Return sizes that violate the guards of a program, by guard, fewest pixels first.

    Args:
        program: traced program.
        native: height and width of the network's input.
        smallest: smallest height and width that the program accepts.
        is_fixed: whether height and width are always ``native``.
    """
    sizes_by_guard: dict[str, list[Size]] = {}
    max_pixels = max(2**18, 18 * native[0] * native[1])
    for text, holds in _guards(program):
        numbers = {n + shift for n in map(int, _NUMBER.findall(text)) if n <= _MAX_SIDE for shift in (-1, 0, 1)}
        sides = [
            [side] if is_fixed else _sides(side, least, numbers) for side, least in zip(native, smallest, strict=True)
        ]
        batch_sizes = (
            sorted({*_BATCH_SIZES, *(n for n in numbers if n > 0)}) if "size[0]" in text else _BATCH_SIZES[1:2]
        )
        sizes = [(n, h, w) for n, h, w in product(batch_sizes, sides[0], sides[1]) if n * h * w <= max_pixels]
        violations = [size for size in sizes if not holds(size)]
        if violations:
            sizes_by_guard[text] = sorted(violations, key=lambda size: (size[0] * size[1] * size[2], size))
    return sizes_by_guard


def common_multiple(program: torch.export.ExportedProgram, texts: list[str], smallest: tuple[int, int]) -> int | None:
    """Return the smallest number whose multiples, as sides, satisfy the guards ``texts``; None if there is none."""
    predicates = [holds for text, holds in _guards(program) if text in texts]
    for step in range(2, 257):
        sides = [[n * step for n in range(2, 12) if n * step >= least] for least in smallest]
        if all(holds((2, height, width)) for holds in predicates for height, width in product(*sides)):
            return step
    return None


def _guards(program: torch.export.ExportedProgram) -> list[tuple[str, Callable[[Size], bool]]]:
    """Return the guards of a program as (text, predicate)."""
    # A private attribute, with Python expressions in the sizes of the inputs. If a version of torch lacks it, the
    # bounds and the comparison at other sizes remain.
    rows = getattr(program, "_guards_code", None) or []
    return [(text, _predicate(text)) for text in dict.fromkeys(_AXIS.sub(r"size[\1]", row) for row in rows)]


def _predicate(text: str) -> Callable[[Size], bool]:
    code = compile(text, "<guard>", "eval")

    def holds(size: Size) -> bool:
        try:
            return bool(eval(code, {"torch": torch, "size": (size[0], None, *size[1:])}))
        except Exception:  # the guard is not about sizes: only a run of the network can decide
            return False

    return holds


def _sides(native: int, smallest: int, numbers: set[int]) -> list[int]:
    """Return side lengths that cover the parities and remainders a network is likely to test."""
    sides = {native + n for n in range(-1, 5)}
    sides |= {native + 32, native + 64, native * 3 // 2 | 1, 2 * native, 2 * native + 7, native // 2, native // 2 + 1}
    return sorted(n for n in sides | numbers if n >= max(smallest, native // 2, 1))
