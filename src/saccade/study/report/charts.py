"""How an arm is drawn all over the report, and the parts that several charts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from saccade.escaping import printable
from saccade.study.arms import BASELINE, Arm
from saccade.study.report.svg import Scale, decimals, element, ticks
from saccade.study.report.typeset import number

__all__ = ["Curves", "Style", "key", "marker", "mean_curve", "named", "rules", "stretched", "styles", "thinned"]

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
"""What the hollow marker of a control holds: nothing, a cross, a dot."""
_COLOURS = 7
"""Hues of the style sheet, ``c1`` … ``c7``; ``c0`` is the plain host's grey."""


@dataclass(frozen=True)
class Style:
    """Colour and marker of an arm all over the report; a control is hollow and dashed.

    Attributes:
        control: its name, None where the arm is no control.
    """

    name: str
    colour: str
    shape: str
    control: str | None = None

    @property
    def classes(self) -> str:
        """The style sheet's classes for it."""
        return f"arm {self.colour}" + (" control" if self.control else "")


def styles(arms: Sequence[Arm], baseline: str = BASELINE) -> dict[str, Style]:
    """A style for each arm, by name; a control takes after the arm in whose place it stands."""
    found: dict[str, Style] = {}
    hues = 0
    for arm in sorted(arms, key=lambda arm: arm.control is not None):
        settings = {key: value for key, value in arm.settings.items() if key != "attention.control"}
        owner = next((other for other in arms if other.control is None and _owns(other, arm, settings)), None)
        if arm.name == baseline:
            found[arm.name] = Style(arm.name, "c0", "circle")
        elif arm.control is not None and owner is not None:
            found[arm.name] = Style(arm.name, found[owner.name].colour, found[owner.name].shape, arm.control)
        else:
            shape = _SHAPES[(hues % _COLOURS + 1 + hues // _COLOURS) % len(_SHAPES)]
            found[arm.name] = Style(arm.name, f"c{hues % _COLOURS + 1}", shape, arm.control)
            hues += 1
    return {arm.name: found[arm.name] for arm in arms}


def _owns(arm: Arm, control: Arm, settings: Mapping[str, Any]) -> bool:
    """Whether ``control``, of these ``settings`` but for the control itself, stands in the place of ``arm``."""
    return control.name == f"{control.control} for {arm.name}" or (arm.settings == settings and settings != {})


def marker(style: Style, x: str, y: float, tip: str | None = None) -> Markup:
    """The arm's marker in a chart; ``tip`` is shown under the pointer."""
    shapes = _shapes(style, element("title", tip) if tip else "")
    return element("svg", *shapes, x=x, y=y, overflow="visible", class_=style.classes)


def _shapes(style: Style, *inside: object) -> list[Markup]:
    shapes = [element("path", *inside, d=_PATHS[style.shape], class_="marker")]
    if dot := _INSIDE.get(style.control or ""):
        shapes.append(element("path", d=dot, class_="inside"))
    return shapes


def key(style: Style) -> Markup:
    """The mark before an arm's name."""
    return element("svg", *_shapes(style), class_=f"key {style.classes}", viewBox="-8 -8 16 16", aria_hidden="true")


def named(style: Style) -> Markup:
    """The arm's mark and name, which may be broken after a colon or an underscore."""
    words = escape(printable(style.name)).replace(":", Markup(":<wbr>")).replace("_", Markup("_<wbr>"))
    return element("span", key(style), element("span", words, class_="armname"), class_=f"named {style.classes}")


def rules(down: Scale, about: int = 4) -> list[Markup]:
    """Horizontal lines with their numbers at the left."""
    marks = ticks(down.low, down.high, about)
    digits = decimals(marks)
    parts = []
    for t in marks:
        y = down(t)
        parts.append(element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(element("text", number(t, digits), x=-8, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def stretched(*children: Markup, height: float) -> Markup:
    """A plane of 100 × 100, as wide as the chart and ``height`` pixels high; the rest is cut off."""
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
    """At most ``most`` of ``epochs``, evenly chosen, first and last included: more are not seen apart."""
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most)]
