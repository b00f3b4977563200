"""The charts of a report, each a piece of SVG. An arm of the study has one colour and one marker in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from saccade.escaping import printable
from saccade.study.report.svg import Scale, curve, element, extent, picture, ticks
from saccade.study.report.typeset import interval, number, signed

__all__ = [
    "Look",
    "Point",
    "Row",
    "cost",
    "forest_axis",
    "forest_row",
    "forest_scale",
    "gate",
    "key",
    "learning",
    "learning_range",
    "looks",
    "thinned",
]

_SHAPES = ("circle", "square", "diamond", "triangle", "hexagon", "bar")
_PATHS = {
    "circle": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "square": "M-4.4,-4.4h8.8v8.8h-8.8z",
    "diamond": "M0,-6.2L6.2,0L0,6.2L-6.2,0z",
    "triangle": "M0,-5.8L5.8,4.6L-5.8,4.6z",
    "hexagon": "M-5.6,0L-2.8,-4.9L2.8,-4.9L5.6,0L2.8,4.9L-2.8,4.9z",
    "bar": "M-2.2,-6h4.4v12h-4.4z",
}
_INSIDE = {
    "extra": "",
    "noise": "M-2,-2L2,2M-2,2L2,-2",
    "shuffled": "M-0.7,0a0.7,0.7 0 1,0 1.4,0a0.7,0.7 0 1,0 -1.4,0z",
}
"""What a hollow marker holds, so that the controls of one mechanism can be told apart: nothing, a cross, a dot."""
_COLOURS = 7
"""Hues of the style sheet, ``c1`` … ``c7``; ``c0`` is the plain host's grey."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: the same colour and marker all over the report; a control is hollow and dashed.

    Attributes:
        control: its name, None where the arm is a mechanism itself.
    """

    name: str
    colour: str
    shape: str
    control: str | None = None

    @property
    def classes(self) -> str:
        """The style sheet's classes for it."""
        return f"arm {self.colour}" + (" control" if self.control else "")

    @property
    def words(self) -> Markup:
        """The name, escaped, which may be broken after a colon: it is followed by options."""
        return escape(printable(self.name)).replace(":", Markup(":<wbr>"))


def looks(arms: Sequence[Mapping[str, str | None]]) -> dict[str, Look]:
    """A look for each arm, by name. A control takes after the mechanism it belongs to.

    Args:
        arms: mappings with ``name``, ``mechanism`` and ``control`` (None where the arm is a mechanism itself).
    """
    found: dict[str, Look] = {}
    number_ = 0
    for arm in sorted(arms, key=lambda a: a["control"] is not None):
        name, mechanism = str(arm["name"]), str(arm["mechanism"])
        if name == "none":
            found[name] = Look(name, "c0", "circle")
        elif arm["control"] is not None and mechanism in found:
            found[name] = Look(name, found[mechanism].colour, found[mechanism].shape, arm["control"])
        else:
            shape = _SHAPES[(number_ % _COLOURS + 1 + number_ // _COLOURS) % len(_SHAPES)]
            found[name] = Look(name, f"c{number_ % _COLOURS + 1}", shape, arm["control"])
            number_ += 1
    return {str(arm["name"]): found[str(arm["name"])] for arm in arms}


def _marker(look: Look, x: str, y: float, tip: str | None = None) -> Markup:
    shapes = _shapes(look, element("title", tip) if tip else "")
    return element("svg", *shapes, x=x, y=y, overflow="visible", class_=look.classes)


def _shapes(look: Look, *inside: object) -> list[Markup]:
    shapes = [element("path", *inside, d=_PATHS[look.shape], class_="marker")]
    if look.control is not None and _INSIDE[look.control]:
        shapes.append(element("path", d=_INSIDE[look.control], class_="inside"))
    return shapes


def key(look: Look) -> Markup:
    """The little mark that stands before an arm's name in the text."""
    return element("svg", *_shapes(look), class_=f"key {look.classes}", viewBox="-8 -8 16 16", aria_hidden="true")


@dataclass(frozen=True)
class Row:
    """One line of the forest plot: differences to the plain host, in percentage points of top-1."""

    look: Look
    difference: float | None
    low: float | None
    high: float | None
    raw: Sequence[tuple[int, float]]
    """(seed, difference) of every pair of finished runs."""


def forest_scale(rows: Sequence[Row], margin: float) -> Scale:
    """The one axis of all rows: it holds every interval, every dot and the band of ± ``margin``."""
    values = [v for row in rows for v in (row.low, row.high, row.difference, *(d for _, d in row.raw))]
    return Scale(*extent([*values, -margin, margin], least=2 * margin or 1.0))


def _ruled(scale: Scale, margin: float, height: float) -> list[Markup]:
    left, right = scale(-margin), scale(margin)
    lines = [
        element("line", x1=scale.percent(t), x2=scale.percent(t), y1=0, y2=height, class_="zero" if t == 0 else "grid")
        for t in ticks(scale.low, scale.high, 7)
    ]
    band = element("rect", x=f"{left:.2f}%", width=f"{right - left:.2f}%", y=0, height=height, class_="band")
    return [band, *lines]


def forest_row(row: Row, scale: Scale, margin: float) -> Markup:
    """Estimate and interval above, the raw differences as dots below."""
    height, line, dots = 50, 17, 36
    parts: list[Markup] = _ruled(scale, margin, height)
    if row.low is not None and row.high is not None:
        ends = {"x1": scale.percent(row.low), "x2": scale.percent(row.high), "y1": line, "y2": line}
        parts.append(element("line", **ends, class_=f"interval {row.look.classes}"))
    for order, (seed, value) in enumerate(row.raw):
        tip = element("title", f"{row.look.name}, seed {seed}: {signed(value)} points")
        low = dots + 4 * (order % 3 - 1)  # at one height, equal differences would hide one another
        parts.append(element("circle", tip, cx=scale.percent(value), cy=low, r=3.2, class_=f"dot {row.look.classes}"))
    words = "no pair of finished runs"
    if row.difference is not None:
        words = f"{signed(row.difference)} points, {interval(row.low, row.high)}"
        parts.append(_marker(row.look, scale.percent(row.difference), line, words))
    return picture(*parts, height=height, label=f"{row.look.name} against none: {words}", class_="strip")


def forest_axis(scale: Scale, margin: float) -> Markup:
    """The numbers below the rows."""
    marks = [
        element("text", signed(t, 0 if t == int(t) else 1 if round(t, 1) == t else 2), x=scale.percent(t), y=16,
                text_anchor="middle", class_="tick")
        for t in ticks(scale.low, scale.high, 7)
    ]  # fmt: skip
    band = [
        element("line", x1=scale.percent(-margin), x2=scale.percent(margin), y1=1, y2=1, class_="bandline"),
    ]
    return picture(*band, *marks, height=22, label="differences in percentage points", class_="strip")


@dataclass(frozen=True)
class Point:
    """An arm's accuracy and one of its costs."""

    look: Look
    cost: float
    cost_low: float
    cost_high: float
    top1: float
    spread: float
    """Standard deviation of top-1 between seeds."""


def cost(points: Sequence[Point], unit: str) -> Markup:
    """Top-1 against a cost with bars for both spreads; ``unit`` is that of the cost, as "ms"."""
    height = 280.0
    largest = max(p.cost for p in points)
    across = Scale(*extent([v for p in points for v in (p.cost_low, p.cost_high)], least=0.1 * largest, margin=0.16))
    down = Scale(*extent([v for p in points for v in (p.top1 - p.spread, p.top1 + p.spread)], least=0.5), height, 0.0)
    parts = [*_rows(down, 5), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    parts.append(element("text", "top-1, %", x=-30, y=-12, class_="tick"))
    for t in ticks(across.low, across.high, 5):
        parts.append(element("text", f"{t:g}", x=across.percent(t), y=height + 18, text_anchor="middle", class_="tick"))
        parts.append(
            element("line", x1=across.percent(t), x2=across.percent(t), y1=height, y2=height + 4, class_="axis")
        )
    for p in points:
        x, y = across.percent(p.cost), down(p.top1)
        bar = f"spread {p.look.classes}"
        parts.append(element("line", x1=x, x2=x, y1=down(p.top1 - p.spread), y2=down(p.top1 + p.spread), class_=bar))
        ends = {"x1": across.percent(p.cost_low), "x2": across.percent(p.cost_high)}
        parts.append(element("line", **ends, y1=y, y2=y, class_=bar))
    for p in points:
        tip = f"{p.look.name}: top-1 {number(p.top1)} ± {number(p.spread)} %, {p.cost:.3g} {unit}"
        parts.append(_marker(p.look, across.percent(p.cost), down(p.top1), tip))
    for p, (left, top, anchor) in _labels(points, across, down).items():
        place = {"x": f"{left:.2f}%", "y": top, "text_anchor": anchor}
        parts.append(element("text", p.look.name, **place, class_=f"name {p.look.classes}"))
    return picture(*parts, height=height + 24, label=f"top-1 in per cent against {unit}")


def _labels(points: Sequence[Point], across: Scale, down: Scale) -> dict[Point, tuple[float, float, str]]:
    """A free place for each name, tried on a chart 280 pixels wide: what does not collide there collides nowhere.

    A name that finds no place is left out; the legend above the chart has it.
    """
    width, letter, tall = 280.0, 7.0, 15.0
    places = {p: (across(p.cost) * width / 100, down(p.top1)) for p in points}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    bars = {p: (x - 2, down(p.top1 + p.spread), x + 2, down(p.top1 - p.spread)) for p, (x, _) in places.items()}
    found: dict[Point, tuple[float, float, str]] = {}
    for p in sorted(points, key=lambda p: p.cost):
        x, y = places[p]
        long = letter * len(p.look.name)
        crowded = any(0 <= places[q][0] - x < 70 and abs(places[q][1] - y) < 30 for q in points if q is not p)
        sides = ((-9, "end"), (9, "start")) if crowded else ((9, "start"), (-9, "end"))
        others = [bar for q, bar in bars.items() if q is not p]
        for obstacles, dy, (dx, anchor) in product(([*taken, *others], taken), (-7, 17, -21, 31), sides):
            left = x + dx if anchor == "start" else x + dx - long
            box = (left, y + dy - tall + 3, left + long, y + dy + 3)
            inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= down.start
            if inside and not any(_overlap(box, other) for other in obstacles):
                taken.append(box)
                # The gap in pixels as a part of this width; on a wider chart it grows a little.
                found[p] = (across(p.cost) + 100 * dx / width, y + dy, anchor)
                break
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rows(down: Scale, about: int = 4) -> list[Markup]:
    """Horizontal lines with their numbers at the left."""
    marks = ticks(down.low, down.high, about)
    digits = 0 if all(t == int(t) for t in marks) else 1 if all(round(t, 1) == t for t in marks) else 2
    parts = []
    for t in marks:
        y = down(t)
        parts.append(element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(element("text", number(t, digits), x=-8, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def _stretched(*children: Markup, height: float) -> Markup:
    """A plane of 100 × 100 that is as wide as the chart and ``height`` pixels high; what leaves it is cut off."""
    return element("svg", *children, x=0, y=0, width="100%", height=height, viewBox="0 0 100 100",
                   preserveAspectRatio="none", overflow="hidden")  # fmt: skip


Curves = Mapping[int, Sequence[tuple[int, float]]]
"""seed -> (epoch, value) pairs in order."""


def mean_curve(curves: Curves) -> list[tuple[int, float]]:
    """The mean over seeds at every epoch that all seeds reached."""
    by_seed = [dict(points) for points in curves.values()]
    epochs = sorted(set.intersection(*(set(points) for points in by_seed))) if by_seed else []
    return [(epoch, fmean(points[epoch] for points in by_seed)) for epoch in epochs]


def thinned(epochs: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of ``epochs``, evenly chosen, the first and the last among them: more are not seen apart."""
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most)]


def learning_range(curves: Sequence[Curves]) -> tuple[float, float]:
    """The range of top-1 over the later half of the epochs: drawn with the first, steep part, no difference is seen."""
    points = [point for curve_ in curves for run in curve_.values() for point in run]
    start = ceil(max((epoch for epoch, _ in points), default=0) / 2)
    return extent([value for epoch, value in points if epoch >= start], least=1.0)


def learning(look: Look, curves: Curves, baseline: Curves, bounds: tuple[float, float], epochs: int) -> Markup:
    """Test top-1 over the epochs: a thin line a seed, their mean bold, the plain host's mean in grey behind."""
    height = 170.0
    across = Scale(1, max(epochs, 2))
    plane, down = Scale(*bounds, 100.0, 0.0), Scale(*bounds, height, 0.0)
    lines = []
    if baseline is not curves:
        reference = [(across(e), plane(v)) for e, v in mean_curve(baseline) if e]
        lines.append(curve(reference, class_="mean arm c0 reference"))
    for run in curves.values():
        lines.append(curve([(across(e), plane(v)) for e, v in run if e], class_=f"seed {look.classes}"))
    mean = [(e, v) for e, v in mean_curve(curves) if e]
    lines.append(curve([(across(e), plane(v)) for e, v in mean], class_=f"mean {look.classes}"))
    parts = [*_rows(down), element("line", x1=0, x2="100%", y1=height, y2=height, class_="axis")]
    for t in _epochs(epochs):
        parts.append(element("text", t, x=across.percent(t), y=height + 17, text_anchor="middle", class_="tick"))
    end = [_marker(look, across.percent(mean[-1][0]), down(mean[-1][1]))] if mean and down.holds(mean[-1][1]) else []
    last = f"{number(mean[-1][1])} % after epoch {mean[-1][0]}" if mean else "no finished epoch"
    words = f"{look.name}: test top-1 over the epochs, mean {last}"
    return picture(*parts, _stretched(*lines, height=height), *end, height=height + 22, label=words)


def _epochs(last: int) -> list[int]:
    """Whole epochs to name on an axis: the first, the last, and round ones between that leave both room."""
    if last <= 2:
        return list(range(1, max(last, 2) + 1))
    between = [int(t) for t in ticks(1, last, 4) if t == int(t) and 1 + last * 0.1 < t < last * 0.9]
    return [1, *between, last]


Movement = Mapping[int, Sequence[tuple[int, float, float]]]
"""seed -> (epoch, mean, standard deviation) of a site's effective gate."""


def gate(look: Look, movement: Movement, bounds: tuple[float, float], epochs: int, nothing: float) -> Markup:
    """One site's gate over the epochs: the mean of every seed, the spread as a band, a line at ``nothing`` done."""
    height = 42.0
    across, plane = Scale(0, max(epochs, 1)), Scale(*bounds, 100.0, 0.0)
    upper, lower = (
        mean_curve({seed: [(e, m + sign * s) for e, m, s in rows] for seed, rows in movement.items()})
        for sign in (1, -1)
    )
    outline = [*upper, *reversed(lower)]
    shape = " ".join(f"{across(e):.2f},{plane(v):.2f}" for e, v in outline)
    lines = [element("polygon", points=shape, class_=f"gateband {look.classes}")]
    for rows in movement.values():
        lines.append(curve([(across(e), plane(m)) for e, m, _ in rows], class_=f"gateline {look.classes}"))
    one = Scale(*bounds, height, 0.0)
    rule = (
        [element("line", x1=0, x2="100%", y1=one(nothing), y2=one(nothing), class_="one")] if one.holds(nothing) else []
    )
    ground = element("rect", x=0, y=0, width="100%", height=height, class_="ground")
    start = fmean(rows[0][1] for rows in movement.values())
    rule.append(element("line", x1=0, x2="100%", y1=one(start), y2=one(start), class_="from"))
    words = f"{look.name}: gate movement from epoch 0 to {epochs}"
    return picture(ground, *rule, _stretched(*lines, height=height), height=height, label=words, class_="strip")
