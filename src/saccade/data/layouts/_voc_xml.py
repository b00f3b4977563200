"""One XML file of Pascal VOC."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from saccade.data.annotations import Annotation, ImageAnnotations, LabelError
from saccade.escaping import brief

__all__ = ["begins_like_voc", "read_annotation"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Tree(ElementTree.TreeBuilder):
    """Stops at a DOCTYPE, before an entity of it can unfold."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise LabelError("has a DOCTYPE, whose entities are not read; remove it")


def begins_like_voc(path: Path) -> bool:
    """Whether the first element of an XML file is ``annotation``; CVAT's own is ``annotations``."""
    try:
        with path.open("rb") as file:
            head = file.read(2**12)
    except OSError:
        return False
    return b"<annotation>" in head or b"<annotation " in head


def read_annotation(path: Path, owner: str) -> ImageAnnotations:
    """The objects that an XML file states; ``owner`` is how messages name it."""
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Tree()))
        if root.tag != "annotation":
            raise LabelError(f"begins with <{brief(root.tag, 40)}>; VOC's begins with <annotation>")
    except FileNotFoundError:
        return ImageAnnotations(
            owner, problem=f"has no {brief(owner)}; an image without objects has one without <object>"
        )
    except LabelError as problem:
        return ImageAnnotations(owner, problem=f"has {brief(owner)}, which {problem}")
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        return ImageAnnotations(owner, problem=f"has {brief(owner)}, which cannot be read: {brief(said)}")
    objects, cleaned = [], []
    for number, element in enumerate(root.iterfind("object"), 1):
        where = f"object {number}"
        try:
            objects.append(_object(element, where))
        except LabelError as problem:
            return ImageAnnotations(owner, problem=f"has {brief(owner)}, {where} of which {problem}")
        if (element.findtext("difficult") or "").strip() == "1":
            cleaned.append(("difficult", where))
    sides = [_side(root.findtext(f"size/{side}")) for side in ("width", "height")]
    return ImageAnnotations(owner, tuple(objects), (sides[0], sides[1]) if all(sides) else None, cleaned=cleaned)


def _object(element: ElementTree.Element, where: str) -> Annotation:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise LabelError("has no name of a class")
    box = element.find("bndbox")
    if box is None:
        raise LabelError("has no bndbox")
    values = [_number(box.findtext(corner), corner) for corner in _CORNERS]
    return Annotation(name, (values[0], values[1], values[2], values[3]), where=where)


def _number(text: str | None, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise LabelError(f"has the {name} {brief(text or '', 40)!r}; a number is needed") from None
    if not math.isfinite(value):
        raise LabelError(f"has the {name} {value}; a finite number is needed")
    return value


def _side(text: str | None) -> int:
    """A side in pixels; 0 where none is stated, as some programs leave it."""
    try:
        return max(0, int(float(text or 0)))
    except (ValueError, OverflowError):
        return 0
