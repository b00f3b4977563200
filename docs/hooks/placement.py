"""A drawing of where a mechanism stands in a network, as SVG."""

from __future__ import annotations

import re

_STAGES = 4
_UNITS = {
    "residual": ("conv 3×3", "conv 3×3", "●", "+"),
    "block": ("conv 3×3", "conv 3×3", "+", "●"),
    "conv3x3": ("conv 1×1", "conv 3×3", "●", "conv 1×1", "+"),
    "activated": ("conv 1×1", "conv 3×3", "norm, ReLU", "●", "conv 1×1", "+"),
    "expanded": ("conv 1×1, wider", "depthwise 3×3", "●", "conv 1×1", "+"),
}
"""Maps position to the parts of one unit, in forward order; ● is the mechanism, + the addition."""
_DECODER_BLOCK = ("upsampled map ∥ skip", "●", "conv 3×3", "conv 3×3")
"""Parts of a block of a decoder with the mechanism on the concatenation."""
_REPLACED = ("conv 1×1", "●", "conv 1×1", "+")
_WIDTH = 700


def drawing(name: str, position: str, is_replacement: bool) -> str:
    """Return a figure of the network and, for a position inside units, of one unit.

    Args:
        name: short name of the mechanism.
        position: as in ``SPEC``: "stage[:-1]", "residual[last]", "conv3x3 in stage[-1:]", ...
        is_replacement: True if the mechanism replaces a convolution.
    """
    base, stages, unit = _parsed(position)
    if base == "skip":
        parts, top, height = _unit(name, _DECODER_BLOCK, "one block of the decoder"), 110, 110
    elif base in _UNITS:
        sequence = _REPLACED if is_replacement else _UNITS[base]
        parts, top, height = [*_network(base, stages, unit), *_unit(name, sequence, "one unit")], 0, 220
    else:
        parts, top, height = [*_network(base, stages, unit)], 0, 96
    title = f"{name}: position {position}"
    return (
        f'<figure class="placement" markdown="0"><svg viewBox="0 {top} {_WIDTH} {height}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def _parsed(position: str) -> tuple[str, list[int], str]:
    """Return the position without its suffix, the stages that have it, and which units: "all", "first" or "last"."""
    head, _, within = position.partition(" in ")
    base, suffix = re.fullmatch(r"(\w+)(?:\[(.*)\])?", head).groups()  # type: ignore[union-attr]
    unit = suffix if suffix in ("first", "last") else "all"
    chosen = within.removeprefix("stage[").removesuffix("]") if within else suffix if base == "stage" else None
    indices = list(range(_STAGES))
    if chosen is None:
        return base, indices, unit
    numbers = [int(part) if part else None for part in chosen.split(":")]
    return base, indices[slice(*numbers)] if len(numbers) > 1 else [indices[numbers[0] or 0]], unit


def _network(base: str, stages: list[int], unit: str) -> list[str]:
    """Draw stem, stages of three units and head in one row."""
    y, middle = 28, 58
    parts = [f'<path class="wire" d="M40 {middle}H{_WIDTH - 40}"/>']
    parts += [_text(20, middle + 4, "image"), _text(_WIDTH - 22, middle + 4, "head")]
    has_stem = base == "conv_stem"
    parts.append(f'<rect class="{"mark" if has_stem else "box"}" x="56" y="{y + 10}" width="52" height="40" rx="4"/>')
    parts.append(_text(82, middle + 4, "stem", has_stem))
    for stage in range(_STAGES):
        x = 132 + 132 * stage
        parts.append(f'<rect class="box" x="{x}" y="{y}" width="96" height="60" rx="6"/>')
        parts.append(_text(x + 48, y - 8, f"stage {stage + 1}"))
        for number in range(3):
            marked = base in _UNITS and stage in stages and (unit == "all" or number == {"first": 0, "last": 2}[unit])
            left = x + 9 + 28 * number
            parts.append(f'<rect class="{"mark" if marked else "part"}" x="{left}" y="{y + 13}" width="22" '
                         f'height="34" rx="3"/>')  # fmt: skip
        if base == "stage" and stage in stages:
            parts.append(f'<rect class="mark" x="{x + 105}" y="{y + 8}" width="18" height="44" rx="4"/>')
    return parts


def _unit(name: str, sequence: tuple[str, ...], label: str) -> list[str]:
    """Draw one unit: its branch, its shortcut and the mechanism."""
    widths = [34 if part == "+" else max(64, 7 * len(name) + 24) if part == "●" else 7 * len(part) + 22
              for part in sequence]  # fmt: skip
    gap = 22
    total = sum(widths) + gap * (len(widths) - 1)
    x, middle = (_WIDTH - total) / 2, 180
    start, end = x - 40, x + total + 40
    parts = [
        f'<path class="wire" d="M{start:.0f} {middle}H{end:.0f}"/>',
        _text(max(start, 4 * len(label)), middle - 52, label, note=True),
    ]
    for part, width in zip(sequence, widths, strict=True):
        centre = x + width / 2
        if part == "+":
            parts.append(
                f'<path class="wire" d="M{start + 18:.0f} {middle}V{middle - 40}H{centre:.0f}V{middle - 14}"/>'
            )
            parts.append(f'<circle class="part" cx="{centre:.0f}" cy="{middle}" r="14"/>')
            parts.append(_text(centre, middle + 5, "+"))
        else:
            marked = part == "●"
            parts.append(f'<rect class="{"mark" if marked else "box"}" x="{x:.0f}" y="{middle - 17}" '
                         f'width="{width:.0f}" height="34" rx="5"/>')  # fmt: skip
            parts.append(_text(centre, middle + 4, name if marked else part, marked))
        x += width + gap
    return parts


def _text(x: float, y: float, text: str, on: bool = False, note: bool = False) -> str:
    style = ' class="on"' if on else ' class="note"' if note else ""
    return f'<text{style} x="{x:.0f}" y="{y:.0f}">{text}</text>'
