"""One JSON file of COCO: images, categories and annotations, each checked; read once however often it is asked for."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeGuard

from saccade.data.annotations import Annotation, ImageAnnotations, LabelError, Rle, polygon_box
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import is_unicode

__all__ = ["CocoFile", "read_coco", "run_lengths"]

_MOST = 1e9
"""No coordinate and no run of pixels is as large."""


class CocoFile(NamedTuple):
    """What a file holds.

    Attributes:
        classes: names, in the order of their ids.
        images: ``file_name``, with ``/`` between its folders, to what is stated of it.
        notes: sentences on what it holds beside.
    """

    classes: list[str]
    images: dict[str, ImageAnnotations]
    notes: list[str]


def read_coco(path: Path, owner: str) -> CocoFile:
    """The contents of a file; ``owner`` is how messages name it.

    Raises:
        UserError: it cannot be read, is no JSON of this form, or an id of an image or a category stands twice.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {brief(owner)}: {error.strerror}") from None
    return _read(path, owner, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4)  # the parts of one source
def _read(path: Path, owner: str, size: int, changed: int) -> CocoFile:
    images, categories, annotations = _loaded(path, owner)
    names = _categories(categories, owner)
    files = _images(images, owner)
    notes = list[str]()
    by_image = defaultdict[Any, list[dict[str, Any]]](list)
    for one in annotations:
        by_image[one.get("image_id") if _is_id(one.get("image_id")) else None].append(one)
    unknown = [one for key, of in by_image.items() if key not in files for one in of]
    if unknown:
        notes.append(
            f"{len(unknown)} annotations of {owner} are of images that it does not list, and are left out (the first: "
            f"annotation {_shown(unknown[0].get('id'))} of image {_shown(unknown[0].get('image_id'))})"
        )
    repeated = [key for key, n in Counter(_shown(one.get("id")) for one in annotations if "id" in one).items() if n > 1]
    if repeated:
        said = f"the first: {repeated[0]}"
        notes.append(f"{len(repeated)} ids of annotations stand twice in {owner} ({said}); all are taken")
    dummy = _dummy(categories, {one.get("category_id") for one in annotations if _is_id(one.get("category_id"))})
    if dummy is not None:
        notes.append(f"the category {brief(names.pop(dummy))!r} of {owner} stands above the others and has no objects")
    found = dict[str, ImageAnnotations]()
    ids = defaultdict[str, list[Any]](list)
    for key, image in files.items():
        name = PurePosixPath(image["file_name"].replace("\\", "/")).as_posix()
        ids[name].append(key)
        found[name] = _annotated(image, by_image[key], names, owner)
    for name, keys in ids.items():
        if keys[1:]:
            said = " and ".join(map(_shown, keys[:2]))
            found[name] = ImageAnnotations(owner, problem=f"is listed twice in {brief(owner)}, with the ids {said}")
    return CocoFile([names[key] for key in sorted(names)], found, notes)


def _loaded(path: Path, owner: str) -> list[list[dict[str, Any]]]:
    """The lists of images, categories and annotations.

    Raises:
        UserError: the file is no JSON, or lacks one of them.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            values = json.load(file)
    except json.JSONDecodeError as error:
        raise UserError(
            f"cannot read {brief(owner)}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {brief(owner)}: it is not UTF-8") from None
    except RecursionError:
        raise UserError(f"cannot read {brief(owner)}: nested too deep") from None
    except (OSError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise UserError(f"cannot read {brief(owner)}: {brief(getattr(error, 'strerror', None) or error)}") from None
    lists = []
    for key in ("images", "categories", "annotations"):
        found = values.get(key) if isinstance(values, dict) else None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise UserError(f"{brief(owner)} has no list {key!r} of objects, as COCO's JSON has")
        lists.append(found)
    return lists


def _categories(categories: Sequence[Mapping[str, Any]], owner: str) -> dict[int, str]:
    """Id to name."""
    names = dict[int, str]()
    for one in categories:
        key, name = one.get("id"), one.get("name")
        if not isinstance(key, int) or isinstance(key, bool) or not _is_name(name):
            raise UserError(
                f"{brief(owner)} has the category {brief(dict(one), 80)}; an id (integer) and a name are needed"
            )
        if key in names:
            raise UserError(f"{brief(owner)} has the id {key} for the categories {names[key]!r} and {name!r}")
        names[key] = name
    twice = next((name for name, n in Counter(names.values()).items() if n > 1), None)
    if twice is not None:
        keys = [str(key) for key, name in names.items() if name == twice]
        raise UserError(f"{brief(owner)} has the name {brief(twice)!r} for the categories {' and '.join(keys)}")
    return names


def _dummy(categories: Sequence[Mapping[str, Any]], used: set[Any]) -> int | None:
    """The id of the category that Roboflow puts above all others, without objects."""
    first, *others = categories or [{}]
    same = others and all(one.get("supercategory") == first.get("name") for one in others)
    if same and first.get("supercategory") in ("none", None) and first["id"] not in used:
        return int(first["id"])
    return None


def _images(images: Sequence[dict[str, Any]], owner: str) -> dict[Any, dict[str, Any]]:
    """Id to entry."""
    found = dict[Any, dict[str, Any]]()
    for one in images:
        key, name = one.get("id"), one.get("file_name")
        if not _is_id(key) or not _is_name(name):
            raise UserError(f"{brief(owner)} has the image {brief(one, 80)}; an id and a file_name are needed")
        if key in found:
            names = f"{brief(found[key]['file_name'])} and {brief(name)}"
            raise UserError(f"{brief(owner)} has the id {_shown(key)} for the images {names}")
        found[key] = one
    return found


def _annotated(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], owner: str
) -> ImageAnnotations:
    width, height = (_side(image.get(name)) for name in ("width", "height"))
    size = (width, height) if width and height else None
    objects, cleaned = list[Annotation](), list[tuple[str, str]]()
    for one in annotations:
        where = f"annotation {_shown(one.get('id'))}"
        try:
            found = _object(one, names, where)
        except LabelError as problem:
            return ImageAnnotations(owner, problem=f"has {brief(owner)}, {where} of which {problem}")
        if isinstance(found, str):
            cleaned.append((found, where))
        else:
            objects.append(found)
    return ImageAnnotations(owner, tuple(objects), size, cleaned=cleaned)


def _object(one: Mapping[str, Any], names: Mapping[int, str], where: str) -> Annotation | str:
    """The object of an annotation, or the kind of ``_CLEANED`` for which it is left out.

    Raises:
        LabelError: it cannot be used; the message follows the name of its place.
    """
    key = one.get("category_id")
    if not isinstance(key, int) or isinstance(key, bool) or key not in names:
        ids = sorted(names)
        near = f"{ids[0]} to {ids[-1]}" if len(ids) > 8 else ", ".join(map(str, ids))
        raise LabelError(f"has the category_id {_shown(key)}; the categories have the ids {near or 'none'}")
    if one.get("iscrowd") == 1:
        return "crowd"
    polygons, rle = _segmentation(one.get("segmentation"))
    box = one.get("bbox")
    if box is None or box == []:
        if not polygons:
            raise LabelError("has neither a bbox nor polygons")
        return Annotation(names[key], polygon_box(polygons), polygons, None, where)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise LabelError(f"has the bbox {brief(box, 60)}; [x, y, width, height], four numbers, is needed")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise LabelError(f"has a bbox {width:g} wide and {height:g} high; neither is negative")
    return Annotation(names[key], (x, y, x + width, y + height), polygons, rle, where)


def _segmentation(found: Any) -> tuple[tuple[array[float], ...], Rle | None]:
    """Polygons, or runs, or neither."""
    if not found:
        return (), None
    if isinstance(found, dict):
        return (), _rle(found)
    if not isinstance(found, list):
        raise LabelError(f"has the segmentation {brief(found, 60)}; polygons or runs are needed")
    if all(map(_is_number, found)):  # a single polygon without its list, as some programs write it
        found = [found]
    polygons = []
    for polygon in found:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
            raise LabelError(f"has the polygon {brief(polygon, 60)}; a list of numbers x1, y1, x2, y2, … is needed")
        if len(polygon) % 2 or len(polygon) < 6:
            raise LabelError(f"has a polygon of {len(polygon)} numbers; an even count of at least 6 is needed")
        polygons.append(array("d", polygon))
    return tuple(polygons), None


def _rle(found: Mapping[str, Any]) -> Rle:
    size, counts = found.get("size"), found.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(isinstance(side, int) and 0 < side < _MOST for side in size)
    ):
        raise LabelError(f"has an RLE of the size {brief(size, 40)}; [height, width] is needed")
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and 0 <= run < _MOST for run in runs):
        raise LabelError("has an RLE whose counts are no lengths of runs")
    if sum(runs) != size[0] * size[1]:
        raise LabelError(f"has an RLE of {sum(runs)} pixels; {size[0]}×{size[1]} are {size[0] * size[1]}")
    return Rle(size[0], size[1], array("q", runs))


def run_lengths(text: str) -> list[int]:
    """The lengths of runs that COCO's compressed RLE writes as text.

    A number is written in characters of 5 bits, the lowest first, whose sixth bit says that another follows; from the
    fourth number on it is the difference to the one two before it (``rleFrString`` of pycocotools).

    Raises:
        LabelError: the text is cut or holds another character.
    """
    runs = list[int]()
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise LabelError(f"has a compressed RLE with the character {character!r} where none belongs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise LabelError("has a compressed RLE that is cut")
    return runs


def _side(value: Any) -> int:
    """A stated width or height in pixels, at most ``_MOST``; 0 where none is stated."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, _MOST))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and is_unicode(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _shown(value: Any) -> str:
    return brief(value, 40)
