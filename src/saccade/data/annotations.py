"""Objects as annotation files state them, checked against the size of their image.

What is wrong with a file of labels is either cleaned, which a note counts, or it refuses the image by name
(``data.skip_bad`` leaves such images out):

======================================================  ==========================================================
found                                                   done
======================================================  ==========================================================
box or polygon without area                             object left out
box past the edge by at most 5 % of that side           cut to the image
(or 2 pixels)
object that stands twice, equal in every number         counted once
``iscrowd = 1``                                         object left out
annotation of an image that the file does not list      left out
label file without an image                             not read
two annotations of one id                               both taken: nothing refers to ids
image without a text file (YOLO)                        background; a part without any is refused
image turned by EXIF, boxes drawn on the stored pixels  boxes are turned with the image
box further outside, inverted, NaN or no number         image refused
polygon of fewer than 3 points or of an odd count       image refused
unknown class; negative or fractional index             image refused
RLE of another size or length than the image            image refused
size stated that the file does not have                 image refused
image that is listed twice with two ids                 image refused
image without an XML file (VOC)                         image refused
file that is cut; DOCTYPE in XML                        image or source refused
path out of the folder; image in two parts              source refused
======================================================  ==========================================================

Boxes and polygons are pixel edges of the upright image, 0 left and above. Numbers of Pascal VOC are read as edges too;
the first VOC sets count pixels from 1, so their boxes lie up to a pixel further right and down.

An image with an EXIF orientation is shown upright. Its boxes are those of the upright image too, unless the file states
the width and height that the pixels are stored with: then they are turned with it. Where both sizes are one (a square,
half a turn) and in YOLO, which states none, the boxes count as upright.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from saccade.escaping import brief

__all__ = ["Annotated", "Annotation", "Box", "Cleaned", "LabelError", "Polygon", "Rle", "placed", "polygon_box"]

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2."""
Polygon: TypeAlias = "array[float]"
"""x1 y1 x2 y2 …, of type code ``d``."""

_PAST = 0.05
"""Of a side: how far a box may reach past the image."""
_PAST_PIXELS = 2.0
_UNSAID = 0.05
"""Pixels; what a box reaches past the image by rounding is cut and not counted."""

_CLEANED = {
    "crowd": "crowds (iscrowd = 1) are left out",
    "empty": "objects without area are left out",
    "cut": "boxes reach a little past their image and are cut to it",
    "twice": "objects stand twice and count once",
    "turned": "images lie on their side, and boxes that were drawn on the stored pixels are turned with them",
    "difficult": "objects are marked difficult and are taken like the others",
}


class LabelError(Exception):
    """A file of labels cannot be used; the rest of a sentence that begins with the name of its image."""


class Rle(NamedTuple):
    """A mask as runs of 0 and 1 in turn, down the columns.

    Attributes:
        height: of the stored image in pixels.
        width: of the stored image in pixels.
        counts: the length of each run, the first of 0.
        orientation: the EXIF orientation by which the mask is turned upright; 1 for none.
    """

    height: int
    width: int
    counts: array[int]
    orientation: int = 1


class Annotation(NamedTuple):
    """One object.

    Attributes:
        name: of its class.
        box: pixels, or parts of the sides where :class:`Annotated` says so.
        polygons: its outline in the unit of ``box``; several are one object in parts.
        rle: its mask, where that is no outline.
        where: its place in the file, such as ``line 3``.
    """

    name: str
    box: Box
    polygons: tuple[Polygon, ...] = ()
    rle: Rle | None = None
    where: str = ""

    @property
    def outlined(self) -> bool:
        """Whether more than its box is known."""
        return bool(self.polygons or self.rle)


@dataclass(frozen=True)
class Annotated:
    """What a file states of one image.

    Attributes:
        owner: the file, as messages name it.
        objects: in its order.
        size: width and height that it states; None where it states none.
        relative: whether numbers are parts of the sides, 0 to 1.
        cleaned: kind and place of what reading left out.
        problem: why it cannot be used, as the rest of a sentence that begins with the name of the image; else empty.
    """

    owner: str
    objects: Sequence[Annotation] = ()
    size: tuple[int, int] | None = None
    relative: bool = False
    cleaned: Sequence[tuple[str, str]] = ()
    problem: str = ""


@dataclass
class Cleaned:
    """Counts what is cleaned, and keeps the first place of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, owner: str, where: str) -> None:
        """One more of a kind of ``_CLEANED``."""
        self.counts[kind] += 1
        self.first.setdefault(kind, f"{brief(owner)}{where and f', {where}'}")

    def sentences(self) -> list[str]:
        """A note on each kind."""
        return [
            f"{self.counts[kind]} {text} (the first: {self.first[kind]})"
            for kind, text in _CLEANED.items()
            if kind in self.first
        ]


def polygon_box(polygons: Sequence[Polygon]) -> Box:
    """The box around polygons."""
    xs, ys = [x for of in polygons for x in of[::2]], [y for of in polygons for y in of[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def placed(found: Annotated, size: tuple[int, int], orientation: int, cleaned: Cleaned) -> list[Annotation]:
    """The objects of an image, in pixels of the upright image, each inside it and with an area.

    Args:
        found: what its file states.
        size: width and height, upright.
        orientation: of EXIF, by which boxes that were drawn on the stored pixels are turned; 1 where they were not.
        cleaned: counts what is left out or cut.

    Raises:
        LabelError: an object cannot be used.
    """
    for kind, where in found.cleaned:
        cleaned.add(kind, found.owner, where)
    kept, seen = [], set()
    stored = size[::-1] if orientation >= 5 else size
    for one in found.objects:
        try:
            whole = _checked(_scaled(one, stored) if found.relative else one, stored)
        except LabelError as problem:
            raise LabelError(f"has {brief(found.owner)}, {one.where} of which {problem}") from None
        if whole is None:
            cleaned.add("empty", found.owner, one.where)
            continue
        key = whole.name, whole.box, *(of.tobytes() for of in whole.polygons), whole.rle and whole.rle.counts.tobytes()
        if key in seen:
            cleaned.add("twice", found.owner, one.where)
            continue
        seen.add(key)
        if _past(whole.box, stored) > _UNSAID:
            cleaned.add("cut", found.owner, one.where)
        x1, y1, x2, y2 = whole.box
        inside = whole._replace(box=(max(0.0, x1), max(0.0, y1), min(stored[0], x2), min(stored[1], y2)))
        kept.append(_turned(inside, stored, orientation))
    return kept


def _scaled(one: Annotation, size: tuple[int, int]) -> Annotation:
    """``one`` in pixels, of parts of the sides."""
    width, height = size
    x1, y1, x2, y2 = one.box
    return one._replace(
        box=(x1 * width, y1 * height, x2 * width, y2 * height),
        polygons=tuple(array("d", [v * size[n % 2] for n, v in enumerate(of)]) for of in one.polygons),
    )


def _checked(one: Annotation, size: tuple[int, int]) -> Annotation | None:
    """``one`` as it is; None where it has no area.

    Raises:
        LabelError: it cannot be used; the message follows the name of its place.
    """
    width, height = size
    box = x1, y1, x2, y2 = one.box
    if not all(map(math.isfinite, box)) or not all(math.isfinite(value) for of in one.polygons for value in of):
        raise LabelError("holds a number that is not finite")
    for name, low, high in (("x", x1, x2), ("y", y1, y2)):
        if high < low:
            raise LabelError(f"has a box whose {name} runs from {low:g} to {high:g}; the smaller number comes first")
    if x1 == x2 or y1 == y2:
        return None
    outline = [("an outline in", polygon_box(one.polygons))] if one.polygons else []
    for what, (left, top, right, low) in (("a box", box), *outline):
        if right <= 0 or low <= 0 or left >= width or top >= height or _too_far((left, top, right, low), size):
            said = f"{left:g} {top:g} {right:g} {low:g}"
            raise LabelError(f"has {what} {said} (x1 y1 x2 y2), outside its image of {width}×{height} pixels")
    if one.rle is not None and (one.rle.width, one.rle.height) != size:
        raise LabelError(f"has a mask of {one.rle.width}×{one.rle.height} pixels; its image is {width}×{height}")
    return one


def _past(box: Box, size: tuple[int, int]) -> float:
    """By how many pixels a box reaches past the image."""
    return max(-box[0], -box[1], box[2] - size[0], box[3] - size[1])


def _too_far(box: Box, size: tuple[int, int]) -> bool:
    allowed = [max(_PAST_PIXELS, _PAST * side) for side in size]
    return any(
        value < -limit or value > side + limit
        for value, side, limit in zip(box, (*size, *size), (*allowed, *allowed), strict=True)
    )


def _turned(one: Annotation, stored: tuple[int, int], orientation: int) -> Annotation:
    """``one``, which lies on the stored pixels, on the upright image."""
    if orientation < 5:
        return one
    (x1, y1), (x2, y2) = (_upright(x, y, stored, orientation) for x, y in (one.box[:2], one.box[2:]))
    return one._replace(
        box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
        polygons=tuple(
            array("d", [v for x, y in zip(of[::2], of[1::2], strict=True) for v in _upright(x, y, stored, orientation)])
            for of in one.polygons
        ),
        rle=one.rle and one.rle._replace(orientation=orientation),
    )


def _upright(x: float, y: float, stored: tuple[int, int], orientation: int) -> tuple[float, float]:
    """A point of the stored pixels on the upright image, where the two lie across (orientation 5 to 8)."""
    width, height = stored
    return height - y if orientation in (6, 7) else y, width - x if orientation in (7, 8) else x
