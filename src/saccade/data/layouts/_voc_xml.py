"""Read one Pascal VOC XML file."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from saccade.data.annotations import Annotation, ImageAnnotations, LabelError
from saccade.data.survey import read_header
from saccade.escaping import brief

__all__ = ["read_annotation", "starts_like_voc"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _NoDoctypeBuilder(ElementTree.TreeBuilder):
    """XML tree builder that refuses a DOCTYPE, so that no entity is expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise LabelError("has a DOCTYPE, which is not read; remove it")


def starts_like_voc(path: Path) -> bool:
    """Return True if the header holds an ``annotation`` element; CVAT's own XML has ``annotations``."""
    header = read_header(path, 2**12)
    return b"<annotation>" in header or b"<annotation " in header


def read_annotation(path: Path, file_name: str) -> ImageAnnotations:
    """Return the objects in an XML file, or the reason why the file cannot be used.

    Args:
        path: the file.
        file_name: name of the file in messages.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctypeBuilder()))
        if root.tag != "annotation":
            raise LabelError(f"begins with <{brief(root.tag, 40)}>; <annotation> is needed")
    except FileNotFoundError:
        return ImageAnnotations(
            file_name, problem=f"has no {brief(file_name)}; for an image without objects, write one without <object>"
        )
    except LabelError as problem:
        return ImageAnnotations(file_name, problem=f"has {brief(file_name)}, which {problem}")
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return ImageAnnotations(file_name, problem=f"has {brief(file_name)}, which cannot be read: {brief(reason)}")
    objects, difficult_objects = [], []
    for number, element in enumerate(root.iterfind("object"), 1):
        location = f"object {number}"
        try:
            objects.append(_parse_object(element, location))
        except LabelError as problem:
            return ImageAnnotations(
                file_name, problem=f"has a faulty annotation: {location} of {brief(file_name)} {problem}"
            )
        if (element.findtext("difficult") or "").strip() == "1":
            difficult_objects.append(("difficult", location))
    sides = [_parse_side(root.findtext(f"size/{side}")) for side in ("width", "height")]
    return ImageAnnotations(
        file_name, tuple(objects), (sides[0], sides[1]) if all(sides) else None, remarks=difficult_objects
    )


def _parse_object(element: ElementTree.Element, location: str) -> Annotation:
    """Return the object of one XML element; raise LabelError for a missing or invalid name or number."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise LabelError("has no class name")
    box = element.find("bndbox")
    if box is None:
        raise LabelError("has no bndbox")
    values = [_parse_number(box.findtext(corner), corner) for corner in _CORNERS]
    return Annotation(name, (values[0], values[1], values[2], values[3]), where=location)


def _parse_number(text: str | None, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise LabelError(f"has the {name} {brief(text or '', 40)!r}; a number is needed") from None
    if not math.isfinite(value):
        raise LabelError(f"has the {name} {value}; a finite number is needed")
    return value


def _parse_side(text: str | None) -> int:
    """Return a stated width or height in pixels; 0 if missing or invalid."""
    try:
        return max(0, int(float(text or 0)))
    except (ValueError, OverflowError):
        return 0
