"""Read YOLO label files: one box or polygon per line, in fractions of image width and height."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

from saccade.data.annotations import Annotation, ImageAnnotations, LabelError, polygon_box
from saccade.escaping import brief

__all__ = ["MAX_CLASSES", "highest_class", "read_objects"]

MAX_CLASSES = 10_000
"""Maximum number of classes if no file names them."""
_TOLERANCE = 0.05
"""Largest accepted distance of a coordinate from the range 0 to 1."""


def read_objects(path: Path, file_name: str, names: Sequence[str], has_keypoints: bool = False) -> ImageAnnotations:
    """Return the objects in a label file, or the reason why the file cannot be used.

    Args:
        path: the file; a missing file has no objects.
        file_name: name of the file in messages.
        names: class names, in index order.
        has_keypoints: True if lines hold keypoints after the box; they are not read.
    """
    try:
        text_lines = _read_lines(path)
    except LabelError as problem:
        return ImageAnnotations(file_name, problem=f"has {brief(file_name)}, which {problem}")
    objects = []
    for number, line in enumerate(text_lines, 1):
        if line.strip():
            try:
                objects.append(_parse_object(line.split(), names, has_keypoints)._replace(where=f"line {number}"))
            except LabelError as problem:
                return ImageAnnotations(
                    file_name, problem=f"has a faulty annotation: line {number} of {brief(file_name)} {problem}"
                )
    return ImageAnnotations(file_name, objects, relative=True)


def highest_class(path: Path) -> int:
    """Return the highest class index in a label file, at most ``MAX_CLASSES``; -1 if it has no object."""
    try:
        indices = [line.split()[0] for line in _read_lines(path) if line.strip()]
    except LabelError:  # reported when the file is read
        return -1
    return max((min(int(word[:9]), MAX_CLASSES) for word in indices if word.isdecimal()), default=-1)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LabelError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LabelError("cannot be read: it is not UTF-8") from None


def _parse_object(words: Sequence[str], names: Sequence[str], has_keypoints: bool) -> Annotation:
    """Return the object on a line; raise LabelError for a wrong count of numbers or an invalid one."""
    name = names[_parse_index(words[0], len(names))]
    values = [_parse_fraction(word) for word in (words[1:5] if has_keypoints else words[1:])]
    if len(values) == 4:
        x, y, width, height = values
        if width < 0 or height < 0:
            raise LabelError(f"has a box {width:g} wide and {height:g} high; both must be at least 0")
        return Annotation(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) == 5:
        raise LabelError("has 5 numbers after its class; a box has 4. A fifth is the confidence of a prediction")
    if len(values) < 4 or len(values) % 2:
        raise LabelError(
            f"has {len(values)} numbers after its class; a box has 4, a polygon an even count of at least 6"
        )
    outline = array("d", values)
    return Annotation(name, polygon_box([outline]), (outline,))


def _parse_index(word: str, n_classes: int) -> int:
    try:
        value = float(word)
    except ValueError:
        raise LabelError(f"begins with {brief(word, 40)!r}; a class index is needed") from None
    if not math.isfinite(value) or value != int(value):
        raise LabelError(f"has the class {brief(word, 40)}; a whole number is needed")
    if not 0 <= value < n_classes:
        raise LabelError(f"has the class {brief(word, 40)}; the {n_classes} classes are 0 to {n_classes - 1}")
    return int(value)


def _parse_fraction(word: str) -> float:
    """Return a coordinate as a fraction of width or height; raise LabelError outside 0 to 1 ± ``_TOLERANCE``."""
    try:
        value = float(word)
    except ValueError:
        raise LabelError(f"has {brief(word, 40)!r} where a number is needed") from None
    if not math.isfinite(value):
        raise LabelError(f"has {brief(word, 40)} where a finite number is needed")
    if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
        hint = "; divide pixels by the image's width and height" if value > 2 else ""
        raise LabelError(f"has the number {value:g}; a fraction of width or height, 0 to 1, is needed{hint}")
    return value
