"""Text files of YOLO: one object a line, a box or a polygon, in parts of the image's sides."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

from saccade.data.annotations import Annotation, ImageAnnotations, LabelError, polygon_box
from saccade.escaping import brief

__all__ = ["MOST_CLASSES", "highest_class", "read_labels"]

MOST_CLASSES = 10_000
"""Of a set whose classes nothing names."""
_NEAR = 0.05
"""Past 0 and 1: what is further out is no part of a side."""


def read_labels(path: Path, owner: str, names: Sequence[str], keypoints: bool = False) -> ImageAnnotations:
    """The objects that a text file states.

    Args:
        path: of the file; one that is not there states no objects.
        owner: how messages name it.
        names: of the classes, in the order of their indices.
        keypoints: a line ends with keypoints after its box, which are not read.
    """
    try:
        lines = _lines(path)
    except LabelError as problem:
        return ImageAnnotations(owner, problem=f"has {brief(owner)}, which {problem}")
    objects = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                objects.append(_object(line.split(), names, keypoints)._replace(where=f"line {number}"))
            except LabelError as problem:
                return ImageAnnotations(owner, problem=f"has {brief(owner)}, line {number} of which {problem}")
    return ImageAnnotations(owner, objects, relative=True)


def highest_class(path: Path) -> int:
    """The highest index of a class in a text file, at most ``MOST_CLASSES``; -1 where it states none."""
    try:
        first = [line.split()[0] for line in _lines(path) if line.strip()]
    except LabelError:  # refused by name where it is read
        return -1
    return max((min(int(word[:9]), MOST_CLASSES) for word in first if word.isdecimal()), default=-1)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LabelError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LabelError("cannot be read: it is not UTF-8") from None


def _object(words: Sequence[str], names: Sequence[str], keypoints: bool) -> Annotation:
    name = names[_index(words[0], len(names))]
    values = [_part(word) for word in (words[1:5] if keypoints else words[1:])]
    if len(values) == 4:
        x, y, width, height = values
        if width < 0 or height < 0:
            raise LabelError(f"has a box {width:g} wide and {height:g} high; neither is negative")
        return Annotation(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) == 5:
        raise LabelError("has 5 numbers after its class; a box has 4. A fifth is the confidence of a prediction")
    if len(values) < 4 or len(values) % 2:
        raise LabelError(
            f"has {len(values)} numbers after its class; a box has 4, a polygon an even count of at least 6"
        )
    outline = array("d", values)
    return Annotation(name, polygon_box([outline]), (outline,))


def _index(word: str, classes: int) -> int:
    try:
        value = float(word)
    except ValueError:
        raise LabelError(f"begins with {brief(word, 40)!r}; the index of a class is needed") from None
    if not math.isfinite(value) or value != int(value):
        raise LabelError(f"has the class {brief(word, 40)}; a whole number is needed")
    if not 0 <= value < classes:
        raise LabelError(f"has the class {brief(word, 40)}; {classes} classes are 0 to {classes - 1}")
    return int(value)


def _part(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise LabelError(f"has {brief(word, 40)!r} where a number is needed") from None
    if not math.isfinite(value):
        raise LabelError(f"has {brief(word, 40)} where a finite number is needed")
    if not -_NEAR <= value <= 1 + _NEAR:
        pixels = "; pixels are to be divided by the image's width and height" if value > 2 else ""
        raise LabelError(f"has the number {value:g}; parts of a side, 0 to 1, are needed{pixels}")
    return value
