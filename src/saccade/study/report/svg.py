"""Scalable vector graphics by hand: elements, scales, ticks.

Charts are placed in per cent across and in pixels down: they take the width they get while their text keeps its size.
Colours are the style sheet's, which knows light from dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from saccade.escaping import printable

__all__ = ["Scale", "curve", "decimals", "element", "extent", "picture", "ticks"]


def _attribute(value: object) -> str:
    """Floats with two decimals at most, so that a rebuilt report is the same file."""
    if isinstance(value, float):
        return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
    return str(value)


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One element; children and values are escaped unless they are markup.

    An attribute's trailing underscore is dropped (``class_``), inner ones become hyphens; None leaves it out.

    >>> element("text", "a < b", class_="label", text_anchor="end", x=1.0)
    Markup('<text class="label" text-anchor="end" x="1">a &lt; b</text>')
    """
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(_attribute(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(child if isinstance(child, Markup) else escape(printable(child)) for child in children)
    return Markup(f"<{name}{head}>{inside}</{name}>")


def picture(*children: object, height: float, label: str, class_: str = "chart") -> Markup:
    """An ``svg`` as wide as its place, ``height`` pixels high; ``label`` is for screen readers."""
    return element("svg", *children, class_=class_, width="100%", height=height, role="img", aria_label=label)


@dataclass(frozen=True)
class Scale:
    """A linear map from [low, high] to [start, stop]."""

    low: float
    high: float
    start: float = 0.0
    stop: float = 100.0

    def __call__(self, value: float) -> float:
        """The place of ``value``."""
        part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.stop - self.start)

    def percent(self, value: float) -> str:
        """The place of ``value`` as a per cent length."""
        return f"{_attribute(float(self(value)))}%"

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside."""
        return self.low <= value <= self.high


def extent(values: Iterable[float | None], *, least: float, margin: float = 0.06) -> tuple[float, float]:
    """The range of the finite ``values``, at least ``least`` wide, with a relative ``margin`` on both sides.

    >>> extent([1.0, None, 3.0], least=1.0, margin=0.5)
    (0.0, 4.0)
    """
    finite = [v for v in values if v is not None and math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, least)
    spare = max(0.0, least - (high - low)) / 2 + margin * max(high - low, least)
    return low - spare, high + spare


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round numbers inside [low, high]: multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(-0.7, 1.3, 5)
    [-0.5, 0.0, 0.5, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    choices = []
    for step in (m * power for m in (1, 2, 5, 10)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        choices.append([round(k * step, 10) + 0.0 for k in range(first, last + 1)])
    return min(choices, key=lambda marks: abs(len(marks) - about))


def decimals(marks: Iterable[float]) -> int:
    """The fewest decimals that tell ``marks`` exactly.

    >>> decimals([1.0, 1.5, 2.0])
    1
    """
    found = list(marks)
    return next((n for n in range(10) if all(round(mark, n) == mark for mark in found)), 10)


def curve(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """A line through ``points`` whose width does not stretch with the chart."""
    path = " ".join(f"{_attribute(float(x))},{_attribute(float(y))}" for x, y in points)
    return element("polyline", points=path, fill="none", vector_effect="non-scaling-stroke", **attributes)
