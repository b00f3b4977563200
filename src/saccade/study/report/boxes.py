"""Boxes over an image, as vector graphics, coloured by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from colorsys import hsv_to_rgb

from markupsafe import Markup

from saccade.study.report.svg import element
from saccade.tasks.base import Box

__all__ = ["class_colour", "class_legend", "draw_boxes"]

_COLOURS = ("#ffb000", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Colours of the first classes, distinguishable with any kind of colour vision (Okabe and Ito, 2008)."""
_HUE_STEP = (5**0.5 - 1) / 2
"""Step between the hues of further classes; the golden ratio keeps many hues far apart."""


def class_colour(label: int) -> str:
    """Return the colour of class ``label``, such as ``#ffb000``."""
    if label < len(_COLOURS):
        return _COLOURS[label]
    channels = hsv_to_rgb((label - len(_COLOURS)) * _HUE_STEP % 1, 0.65, 1.0 if label % 2 else 0.8)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def draw_boxes(boxes: Sequence[Box]) -> list[Markup]:
    """Return rectangles in a viewBox of 100 × 100: dark outlines, then coloured ones with ``Box.text`` as tooltip."""
    if not boxes:
        return []
    # Small boxes come last, so that the tooltip of a large one does not cover theirs.
    by_area = sorted(boxes, key=lambda box: (box.left - box.right) * (box.bottom - box.top))
    coloured = [
        element("path", element("title", box.text) if box.text else "", d=_path(box), stroke=class_colour(box.label))
        for box in by_area
    ]
    return [element("path", d="".join(map(_path, by_area)), class_="halo"), *coloured]


def class_legend(boxes: Iterable[Box], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, colour) of each class of ``boxes``, in the order of the classes."""
    labels = sorted({box.label for box in boxes})
    return [(classes[k] if k < len(classes) else f"class {k}", class_colour(k)) for k in labels]


def _path(box: Box) -> str:
    """Return the outline of a box as the ``d`` attribute of a path, in per cent, cut at the edges of the image."""
    left, top, right, bottom = (
        f"{100 * min(max(x, 0.0), 1.0):.2f}".rstrip("0").rstrip(".") for x in (box.left, box.top, box.right, box.bottom)
    )
    return f"M{left},{top}H{right}V{bottom}H{left}Z"
