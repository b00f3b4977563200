"""Objects read from annotation files, checked against the size of their image.

Objects without area and exact duplicates are left out; boxes that extend beyond the image by up to 5 % of a side or
2 pixels are clipped; notes count both. Any other fault of an object or of its image refuses the image; ``docs/data.md``
has a table.

Coordinates are pixels of the upright image from its top-left corner: a box around all W×H pixels is (0, 0, W, H). If a
file gives the stored size and an EXIF orientation swaps width and height, its boxes are rotated too; in a square image,
after half a turn, and in YOLO they count as upright. The first VOC sets count pixels from 1, so their boxes lie up to a
pixel to the right and below.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from saccade.escaping import brief

__all__ = [
    "Annotation", "Box", "CleaningCounts", "ImageAnnotations", "LabelError", "Polygon", "Rle", "clean_objects",
    "polygon_box",
]  # fmt: skip

Box = tuple[float, float, float, float]
"""Box as x1, y1, x2, y2."""
Polygon: TypeAlias = "array[float]"
"""Polygon as x1, y1, x2, y2, …, in an array of type code ``d``."""

_OVERHANG_FRACTION = 0.05
"""Fraction of a side by which a box may extend beyond the image."""
_OVERHANG_PIXELS = 2.0
_ROUNDING_PIXELS = 0.05
"""Overhang in pixels that is attributed to rounding: clipped without a note."""

_MAX_PLACES = 3
"""Number of places that a note names."""

_CLEANING_NOTES = {
    "crowd": "crowds (iscrowd = 1) are left out",
    "empty": "objects without area are left out",
    "clipped": "boxes extend a little beyond their image and are clipped to it",
    "duplicate": "objects are exact duplicates and are counted once",
    "rotated": "images have an EXIF rotation; their boxes were given for the stored pixels and are rotated too",
    "difficult": "objects are marked difficult and are used like the others",
}


class LabelError(Exception):
    """Error in an annotation file; the message is a predicate, such as "has no box", of the image or object."""


class Rle(NamedTuple):
    """Mask as the lengths of alternating runs of 0 and 1, column by column.

    Attributes:
        height: height in stored pixels.
        width: width in stored pixels.
        counts: length of each run; the first is of 0.
        orientation: EXIF orientation to apply; 1 for none.
    """

    height: int
    width: int
    counts: array[int]
    orientation: int = 1


class Annotation(NamedTuple):
    """One annotated object.

    Attributes:
        name: class name.
        box: box in pixels, or fractions of the image size if ``ImageAnnotations.relative``.
        polygons: outline in the unit of ``box``, in one or more polygons.
        rle: mask as run lengths instead of polygons.
        where: place in the file, such as ``line 3``.
    """

    name: str
    box: Box
    polygons: tuple[Polygon, ...] = ()
    rle: Rle | None = None
    where: str = ""

    @property
    def has_mask(self) -> bool:
        """True if the object has polygons or run lengths."""
        return bool(self.polygons or self.rle)


@dataclass(frozen=True)
class ImageAnnotations:
    """Objects of one image in an annotation file.

    Attributes:
        file_name: name of the file.
        objects: objects in the order of the file.
        size: (width, height) of the image in the file; None if not given.
        relative: True if coordinates are fractions of the image size.
        remarks: (kind, place) of each object left out or marked difficult; kinds are keys of ``_CLEANING_NOTES``.
        problem: message of a :class:`LabelError`; empty for valid annotations.
    """

    file_name: str
    objects: Sequence[Annotation] = ()
    size: tuple[int, int] | None = None
    relative: bool = False
    remarks: Sequence[tuple[str, str]] = ()
    problem: str = ""


@dataclass
class CleaningCounts:
    """Number and first places of each kind of remark in ``_CLEANING_NOTES``."""

    counts: Counter[str] = field(default_factory=Counter)
    first_places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, file_name: str, where: str) -> None:
        """Count one more remark of ``kind``."""
        self.counts[kind] += 1
        places = self.first_places.setdefault(kind, [])
        if len(places) < _MAX_PLACES:
            places.append(f"{brief(file_name)}{where and f', {where}'}")

    def sentences(self) -> list[str]:
        """Return one note per kind of remark."""
        return [
            f"{self.counts[kind]} {text} ({'the first: ' * (self.counts[kind] > len(places))}{'; '.join(places)})"
            for kind, text in _CLEANING_NOTES.items()
            if (places := self.first_places.get(kind))
        ]


def polygon_box(polygons: Sequence[Polygon]) -> Box:
    """Return the smallest box around ``polygons``."""
    xs, ys = [x for polygon in polygons for x in polygon[::2]], [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def clean_objects(
    annotations: ImageAnnotations, size: tuple[int, int], orientation: int, counts: CleaningCounts
) -> list[Annotation]:
    """Return the clipped objects in pixels of the upright image, without empty objects and duplicates.

    Args:
        annotations: objects in the file.
        size: (width, height) of the upright image.
        orientation: EXIF orientation to apply to boxes; 1 if they are upright.
        counts: count of remarks, which is updated.

    Raises:
        LabelError: an object cannot be used.
    """
    for kind, where in annotations.remarks:
        counts.add(kind, annotations.file_name, where)
    _check_unit(annotations)
    objects, keys = [], set()
    stored_size = size[::-1] if orientation >= 5 else size
    for annotation in annotations.objects:
        try:
            in_pixels = _to_pixels(annotation, stored_size) if annotations.relative else annotation
            _validate(in_pixels, stored_size)
        except LabelError as problem:
            place = f"{annotation.where} of {brief(annotations.file_name)}"
            raise LabelError(f"has a faulty annotation: {place} {problem}") from None
        x1, y1, x2, y2 = in_pixels.box
        if x1 == x2 or y1 == y2:
            counts.add("empty", annotations.file_name, annotation.where)
            continue
        polygon_bytes = [polygon.tobytes() for polygon in in_pixels.polygons]
        key = in_pixels.name, in_pixels.box, *polygon_bytes, in_pixels.rle and in_pixels.rle.counts.tobytes()
        if key in keys:
            counts.add("duplicate", annotations.file_name, annotation.where)
            continue
        keys.add(key)
        if _overhang(in_pixels.box, stored_size) > _ROUNDING_PIXELS:
            counts.add("clipped", annotations.file_name, annotation.where)
        clipped_box = max(0.0, x1), max(0.0, y1), min(stored_size[0], x2), min(stored_size[1], y2)
        objects.append(_rotate(in_pixels._replace(box=clipped_box), stored_size, orientation))
    return objects


def _check_unit(annotations: ImageAnnotations) -> None:
    """Raise LabelError if boxes in pixels look like fractions: all lie within the first pixel, not all whole."""
    boxes = [annotation.box for annotation in annotations.objects]
    if annotations.relative or not boxes or not all(0 <= value <= 1 for box in boxes for value in box):
        return
    if (broken := next((box for box in boxes if any(value % 1 for value in box)), None)) is not None:
        numbers = " ".join(f"{value:g}" for value in broken)
        raise LabelError(
            f"has the box {numbers} (x1 y1 x2 y2) in {brief(annotations.file_name)}; pixels are needed: multiply "
            "fractions by the image's width and height"
        )


def _to_pixels(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    width, height = size
    x1, y1, x2, y2 = annotation.box
    return annotation._replace(
        box=(x1 * width, y1 * height, x2 * width, y2 * height),
        polygons=tuple(
            array("d", [value * size[n % 2] for n, value in enumerate(polygon)]) for polygon in annotation.polygons
        ),
    )


def _validate(annotation: Annotation, size: tuple[int, int]) -> None:
    """Raise LabelError if ``annotation`` cannot be used; a box without area is accepted."""
    width, height = size
    box = x1, y1, x2, y2 = annotation.box
    if not all(map(math.isfinite, (*box, *(value for polygon in annotation.polygons for value in polygon)))):
        raise LabelError("holds a number that is not finite")
    for axis, low, high in (("x", x1, x2), ("y", y1, y2)):
        if high < low:
            raise LabelError(f"has a box whose {axis} runs from {low:g} to {high:g}; the smaller number comes first")
    if x1 == x2 or y1 == y2:
        return
    outline = [("an outline in", polygon_box(annotation.polygons))] if annotation.polygons else []
    for description, corners in (("a box", box), *outline):
        left, top, right, bottom = corners
        if right <= 0 or bottom <= 0 or left >= width or top >= height or _is_too_far_outside(corners, size):
            numbers = f"{left:g} {top:g} {right:g} {bottom:g}"
            raise LabelError(f"has {description} {numbers} (x1 y1 x2 y2), outside its image of {width}×{height} pixels")
    if annotation.rle is not None and (annotation.rle.width, annotation.rle.height) != size:
        mask_size = f"{annotation.rle.width}×{annotation.rle.height}"
        raise LabelError(f"has a mask of {mask_size} pixels; its image is {width}×{height}")


def _overhang(box: Box, size: tuple[int, int]) -> float:
    return max(-box[0], -box[1], box[2] - size[0], box[3] - size[1])


def _is_too_far_outside(box: Box, size: tuple[int, int]) -> bool:
    limits = [max(_OVERHANG_PIXELS, _OVERHANG_FRACTION * side) for side in size]
    return any(
        value < -limit or value > side + limit
        for value, side, limit in zip(box, (*size, *size), (*limits, *limits), strict=True)
    )


def _rotate(annotation: Annotation, stored_size: tuple[int, int], orientation: int) -> Annotation:
    """Rotate ``annotation`` for an EXIF orientation of 5 to 8; return others unchanged."""
    if orientation < 5:
        return annotation
    (x1, y1), (x2, y2) = (
        _rotate_point(x, y, stored_size, orientation) for x, y in (annotation.box[:2], annotation.box[2:])
    )
    polygons = []
    for polygon in annotation.polygons:
        points = zip(polygon[::2], polygon[1::2], strict=True)
        polygons.append(
            array("d", [value for x, y in points for value in _rotate_point(x, y, stored_size, orientation)])
        )
    return annotation._replace(
        box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
        polygons=tuple(polygons),
        rle=annotation.rle and annotation.rle._replace(orientation=orientation),
    )


def _rotate_point(x: float, y: float, stored_size: tuple[int, int], orientation: int) -> tuple[float, float]:
    """Map a point from stored to upright pixels for orientations 5 to 8."""
    width, height = stored_size
    return height - y if orientation in (6, 7) else y, width - x if orientation in (7, 8) else x
