"""SVG elements, scales and ticks.

Horizontal positions are in per cent and vertical ones in pixels, so that a chart fills its width and its text keeps its
size. Colours come from the style sheet, which has a light and a dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from saccade.escaping import printable

__all__ = ["Scale", "element", "n_decimals", "padded_range", "polyline", "svg_chart", "ticks"]


def _format_attribute(value: object) -> str:
    """Return an attribute value as text; round floats to two decimals, for a reproducible report."""
    if isinstance(value, float):
        return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
    return str(value)


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return one element; children and values are escaped unless they are Markup.

    A trailing underscore of an attribute name is dropped (``class_``), other underscores become hyphens. An attribute
    whose value is None is omitted.

    >>> element("text", "a < b", class_="label", text_anchor="end", x=1.0)
    Markup('<text class="label" text-anchor="end" x="1">a &lt; b</text>')
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(_format_attribute(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    content = "".join(child if isinstance(child, Markup) else escape(printable(child)) for child in children)
    return Markup(f"<{name}{attribute_text}>{content}</{name}>")


def svg_chart(*children: object, height: float, label: str, class_: str = "chart") -> Markup:
    """Return an ``svg`` as wide as its container and ``height`` pixels high; screen readers read ``label``."""
    return element("svg", *children, class_=class_, width="100%", height=height, role="img", aria_label=label)


@dataclass(frozen=True)
class Scale:
    """Linear map from [low, high] to [start, stop]."""

    low: float
    high: float
    start: float = 0.0
    stop: float = 100.0

    def __call__(self, value: float) -> float:
        """Return the position of ``value``."""
        fraction = (value - self.low) / (self.high - self.low)
        return self.start + fraction * (self.stop - self.start)

    def percent(self, value: float) -> str:
        """Return the position of ``value`` as a length in per cent."""
        return f"{_format_attribute(float(self(value)))}%"

    def contains(self, value: float) -> bool:
        """Return True if ``value`` lies in [low, high]."""
        return self.low <= value <= self.high


def padded_range(values: Iterable[float | None], *, min_span: float, margin: float = 0.06) -> tuple[float, float]:
    """Return the range of the finite ``values``, at least ``min_span`` wide, with a relative ``margin`` on both sides.

    >>> padded_range([1.0, None, 3.0], min_span=1.0, margin=0.5)
    (0.0, 4.0)
    """
    finite = [v for v in values if v is not None and math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, min_span)
    padding = max(0.0, min_span - (high - low)) / 2 + margin * max(high - low, min_span)
    return low - padding, high + padding


def ticks(low: float, high: float, n_ticks: int = 5) -> list[float]:
    """Return about ``n_ticks`` numbers in [low, high], multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(-0.7, 1.3, 5)
    [-0.5, 0.0, 0.5, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / n_ticks))
    choices = []
    for step in (m * power for m in (1, 2, 5, 10)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        choices.append([round(k * step, 10) + 0.0 for k in range(first, last + 1)])
    return min(choices, key=lambda tick_values: abs(len(tick_values) - n_ticks))


def n_decimals(ticks: Iterable[float]) -> int:
    """Return the smallest number of decimals that represents all ``ticks`` exactly.

    >>> n_decimals([1.0, 1.5, 2.0])
    1
    """
    values = list(ticks)
    return next((n for n in range(10) if all(round(value, n) == value for value in values)), 10)


def polyline(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """Return a line through ``points``; its stroke width is not scaled with the chart."""
    path = " ".join(f"{_format_attribute(float(x))},{_format_attribute(float(y))}" for x, y in points)
    return element("polyline", points=path, fill="none", vector_effect="non-scaling-stroke", **attributes)
