"""Colour and marker of each arm, and shared chart elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from saccade.escaping import printable
from saccade.study.arms import BASELINE, Arm
from saccade.study.report.svg import Scale, element, n_decimals, ticks
from saccade.study.report.typeset import format_number

__all__ = [
    "ArmStyle",
    "CurvesBySeed",
    "arm_label",
    "assign_styles",
    "gridlines",
    "legend_marker",
    "marker",
    "mean_curve",
    "plot_area",
    "subsample",
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
_CONTROL_GLYPHS = {
    "extra": "",
    "noise": "M-2,-2L2,2M-2,2L2,-2",
    "shuffled": "M-0.7,0a0.7,0.7 0 1,0 1.4,0a0.7,0.7 0 1,0 -1.4,0z",
}
"""Maps a kind of control to the path drawn inside its hollow marker."""
_N_COLOURS = 7
"""Number of hues in the style sheet, ``c1`` to ``c7``; ``c0`` is the grey of the plain host."""


@dataclass(frozen=True)
class ArmStyle:
    """Colour and marker of an arm, the same throughout the report; a control is hollow and dashed.

    Attributes:
        name: name of the arm.
        colour: CSS class of the colour.
        shape: marker shape, a key of ``_PATHS``.
        control: kind of control (``extra``, ``noise``, ``shuffled``); None for an arm that is not a control.
    """

    name: str
    colour: str
    shape: str
    control: str | None = None

    @property
    def classes(self) -> str:
        """CSS classes of the arm."""
        return f"arm {self.colour}" + (" control" if self.control else "")


def assign_styles(arms: Sequence[Arm], baseline: str = BASELINE) -> dict[str, ArmStyle]:
    """Return a mapping from arm name to style; a control has the colour and shape of the arm it controls for."""
    style_of: dict[str, ArmStyle] = {}
    n_coloured_arms = 0
    for arm in sorted(arms, key=lambda arm: arm.control is not None):
        settings = {name: value for name, value in arm.settings.items() if name != "attention.control"}
        controlled_arm = next(
            (other for other in arms if other.control is None and _is_control_for(other, arm, settings)), None
        )
        if arm.name == baseline:
            style_of[arm.name] = ArmStyle(arm.name, "c0", "circle")
        elif arm.control is not None and controlled_arm is not None:
            style_of[arm.name] = ArmStyle(
                arm.name, style_of[controlled_arm.name].colour, style_of[controlled_arm.name].shape, arm.control
            )
        else:
            shape = _SHAPES[(n_coloured_arms % _N_COLOURS + 1 + n_coloured_arms // _N_COLOURS) % len(_SHAPES)]
            style_of[arm.name] = ArmStyle(arm.name, f"c{n_coloured_arms % _N_COLOURS + 1}", shape, arm.control)
            n_coloured_arms += 1
    return {arm.name: style_of[arm.name] for arm in arms}


def _is_control_for(arm: Arm, control: Arm, settings: Mapping[str, Any]) -> bool:
    """Return True if ``control`` is a control for ``arm``.

    Args:
        arm: the arm that is controlled for.
        control: the control.
        settings: settings of the control without ``attention.control``.
    """
    return control.name == f"{control.control} for {arm.name}" or (arm.settings == settings and settings != {})


def marker(style: ArmStyle, x: str, y: float, tip: str | None = None) -> Markup:
    """Return the marker of an arm in a chart, with ``tip`` as its tooltip."""
    paths = _marker_paths(style, element("title", tip) if tip else "")
    return element("svg", *paths, x=x, y=y, overflow="visible", class_=style.classes)


def _marker_paths(style: ArmStyle, *tooltip: object) -> list[Markup]:
    """Return the paths of an arm's marker."""
    paths = [element("path", *tooltip, d=_PATHS[style.shape], class_="marker")]
    if glyph := _CONTROL_GLYPHS.get(style.control or ""):
        paths.append(element("path", d=glyph, class_="inside"))
    return paths


def legend_marker(style: ArmStyle) -> Markup:
    """Return the marker shown before an arm's name."""
    return element(
        "svg", *_marker_paths(style), class_=f"key {style.classes}", viewBox="-8 -8 16 16", aria_hidden="true"
    )


def arm_label(style: ArmStyle) -> Markup:
    """Return marker and name of an arm; long names may break after a colon or an underscore."""
    name = escape(printable(style.name)).replace(":", Markup(":<wbr>")).replace("_", Markup("_<wbr>"))
    return element(
        "span", legend_marker(style), element("span", name, class_="armname"), class_=f"named {style.classes}"
    )


def gridlines(y_scale: Scale, n_ticks: int = 4) -> list[Markup]:
    """Return horizontal lines with tick values at the left."""
    tick_values = ticks(y_scale.low, y_scale.high, n_ticks)
    digits = n_decimals(tick_values)
    elements = []
    for tick in tick_values:
        y = y_scale(tick)
        elements.append(element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
        elements.append(element("text", format_number(tick, digits), x=-8, y=y + 4, text_anchor="end", class_="tick"))
    return elements


def plot_area(*children: Markup, height: float) -> Markup:
    """Return a nested svg with a viewBox of 100 × 100.

    The svg fills the chart's width and ``height`` pixels; content outside is clipped.
    """
    return element("svg", *children, x=0, y=0, width="100%", height=height, viewBox="0 0 100 100",
                   preserveAspectRatio="none", overflow="hidden")  # fmt: skip


CurvesBySeed = Mapping[int, Sequence[tuple[int, float]]]
"""Maps a seed to its (epoch, value) pairs in order."""


def mean_curve(curves: CurvesBySeed) -> list[tuple[int, float]]:
    """Return (epoch, mean over the seeds) for every epoch that all seeds reached."""
    scores_by_epoch = [dict(points) for points in curves.values()]
    epochs = sorted(set.intersection(*(set(points) for points in scores_by_epoch))) if scores_by_epoch else []
    return [(epoch, fmean(points[epoch] for points in scores_by_epoch)) for epoch in epochs]


def subsample(rows: Sequence[Any], max_rows: int) -> list[Any]:
    """Return at most ``max_rows`` rows, evenly spaced, the first and last included."""
    if len(rows) <= max_rows:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (max_rows - 1))] for i in range(max_rows)]
