"""Read and check one COCO JSON file: images, categories and annotations. Results are cached."""

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

_TOO_LARGE = 1e9
"""Exclusive upper bound on coordinates and run lengths, in pixels."""


class CocoFile(NamedTuple):
    """Contents of a COCO JSON file.

    Attributes:
        classes: category names, ordered by id.
        images: maps each ``file_name`` (with ``/`` between folders) to its annotations.
        notes: sentences on entries that are left out or repeated.
    """

    classes: list[str]
    images: dict[str, ImageAnnotations]
    notes: list[str]


def read_coco(path: Path, file_name: str) -> CocoFile:
    """Return the contents of a COCO JSON file.

    Args:
        path: the file.
        file_name: name of the file in messages.

    Raises:
        UserError: the file cannot be read or is not COCO JSON, or an image or category id occurs twice.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {brief(file_name)}: {error.strerror}") from None
    return _read_cached(path, file_name, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # more than the train, val and test files of one source
def _read_cached(path: Path, file_name: str, size: int, mtime_ns: int) -> CocoFile:
    images, categories, annotations = _load_lists(path, file_name)
    category_names = _category_names(categories, file_name)
    entries = _images_by_id(images, file_name)
    notes = list[str]()
    by_image = defaultdict[Any, list[dict[str, Any]]](list)
    for annotation in annotations:
        by_image[annotation.get("image_id") if _is_id(annotation.get("image_id")) else None].append(annotation)
    orphans = [annotation for image_id, group in by_image.items() if image_id not in entries for annotation in group]
    if orphans:
        notes.append(
            f"{len(orphans)} annotations of {file_name} belong to images that it does not list; they are left out "
            f"(first: annotation {_short(orphans[0].get('id'))} of image {_short(orphans[0].get('image_id'))})"
        )
    id_counts = Counter(_short(annotation.get("id")) for annotation in annotations if "id" in annotation)
    repeated_ids = [annotation_id for annotation_id, count in id_counts.items() if count > 1]
    if repeated_ids:
        notes.append(
            f"{len(repeated_ids)} annotation ids occur more than once in {file_name} (first: {repeated_ids[0]}); "
            "all annotations are used"
        )
    category_ids = (annotation.get("category_id") for annotation in annotations)
    supercategory_id = _empty_supercategory(categories, set(filter(_is_id, category_ids)))
    if supercategory_id is not None:
        notes.append(
            f"the category {brief(category_names.pop(supercategory_id))!r} of {file_name} is the "
            "supercategory of all others and has no objects; it is left out"
        )
    annotations_by_name = dict[str, ImageAnnotations]()
    ids_by_name = defaultdict[str, list[Any]](list)
    for image_id, entry in entries.items():
        name = PurePosixPath(entry["file_name"].replace("\\", "/")).as_posix()
        ids_by_name[name].append(image_id)
        annotations_by_name[name] = _parse_image(entry, by_image[image_id], category_names, file_name)
    for name, image_ids in ids_by_name.items():
        if image_ids[1:]:
            ids_text = " and ".join(map(_short, image_ids[:2]))
            annotations_by_name[name] = ImageAnnotations(
                file_name, problem=f"is listed twice in {brief(file_name)}, with the ids {ids_text}"
            )
    return CocoFile([category_names[category_id] for category_id in sorted(category_names)], annotations_by_name, notes)


def _load_lists(path: Path, file_name: str) -> list[list[dict[str, Any]]]:
    """Return the lists ``images``, ``categories`` and ``annotations``; raise UserError if the file lacks one."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            values = json.load(file)
    except json.JSONDecodeError as error:
        raise UserError(
            f"cannot read {brief(file_name)}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read {brief(file_name)}: it is not UTF-8") from None
    except RecursionError:
        raise UserError(f"cannot read {brief(file_name)}: it is nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise UserError(f"cannot read {brief(file_name)}: {brief(getattr(error, 'strerror', None) or error)}") from None
    lists = []
    for key in ("images", "categories", "annotations"):
        value = values.get(key) if isinstance(values, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise UserError(f"{brief(file_name)} has no list {key!r} of JSON objects; COCO JSON needs one")
        lists.append(value)
    return lists


def _category_names(categories: Sequence[Mapping[str, Any]], file_name: str) -> dict[int, str]:
    """Return category names by id; raise UserError unless ids and names are unique."""
    names = dict[int, str]()
    for category in categories:
        category_id, name = category.get("id"), category.get("name")
        if not isinstance(category_id, int) or isinstance(category_id, bool) or not _is_name(name):
            raise UserError(
                f"{brief(file_name)} has the category {brief(dict(category), 80)}; an integer id and a name are needed"
            )
        if category_id in names:
            raise UserError(
                f"{brief(file_name)} has the id {category_id} for the categories {names[category_id]!r} and {name!r}"
            )
        names[category_id] = name
    duplicate = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if duplicate is not None:
        category_ids = [str(category_id) for category_id, name in names.items() if name == duplicate]
        raise UserError(
            f"{brief(file_name)} has the name {brief(duplicate)!r} for the categories {' and '.join(category_ids)}"
        )
    return names


def _empty_supercategory(categories: Sequence[Mapping[str, Any]], used: set[Any]) -> int | None:
    """Return the id of Roboflow's supercategory of all categories if it has no objects, else None."""
    first, *others = categories or [{}]
    is_supercategory = others and all(category.get("supercategory") == first.get("name") for category in others)
    if is_supercategory and first.get("supercategory") in ("none", None) and first["id"] not in used:
        return int(first["id"])
    return None


def _images_by_id(images: Sequence[dict[str, Any]], file_name: str) -> dict[Any, dict[str, Any]]:
    """Return image entries by id; raise UserError unless each has a unique id and a file name."""
    entries = dict[Any, dict[str, Any]]()
    for entry in images:
        image_id, name = entry.get("id"), entry.get("file_name")
        if not _is_id(image_id) or not _is_name(name):
            raise UserError(f"{brief(file_name)} has the image {brief(entry, 80)}; an id and a file_name are needed")
        if image_id in entries:
            names = f"{brief(entries[image_id]['file_name'])} and {brief(name)}"
            raise UserError(f"{brief(file_name)} has the id {_short(image_id)} for the images {names}")
        entries[image_id] = entry
    return entries


def _parse_image(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], file_name: str
) -> ImageAnnotations:
    """Return the objects of one image, with the reason why the image cannot be used, if any."""
    width, height = (_parse_side(image.get(name)) for name in ("width", "height"))
    size = (width, height) if width and height else None
    objects, left_out = list[Annotation](), list[tuple[str, str]]()
    for annotation in annotations:
        location = f"annotation {_short(annotation.get('id'))}"
        try:
            result = _parse_annotation(annotation, names, location)
        except LabelError as problem:
            return ImageAnnotations(
                file_name, problem=f"has a faulty annotation: {location} of {brief(file_name)} {problem}"
            )
        if isinstance(result, str):
            left_out.append((result, location))
        else:
            objects.append(result)
    return ImageAnnotations(file_name, tuple(objects), size, remarks=left_out)


def _parse_annotation(annotation: Mapping[str, Any], names: Mapping[int, str], location: str) -> Annotation | str:
    """Return the object of an annotation, or "crowd" if it is left out.

    Raises:
        LabelError: it cannot be used; the message is a predicate of the annotation.
    """
    category_id = annotation.get("category_id")
    if not isinstance(category_id, int) or isinstance(category_id, bool) or category_id not in names:
        ids = sorted(names)
        known_ids = f"{ids[0]} to {ids[-1]}" if len(ids) > 8 else ", ".join(map(str, ids))
        raise LabelError(
            f"has the category_id {_short(category_id)}; the categories have the ids {known_ids or 'none'}"
        )
    if annotation.get("iscrowd") == 1:
        return "crowd"
    polygons, rle = _parse_segmentation(annotation.get("segmentation"))
    box = annotation.get("bbox")
    if box is None or box == []:
        if not polygons:
            raise LabelError("has neither a bbox nor polygons")
        return Annotation(names[category_id], polygon_box(polygons), polygons, None, location)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise LabelError(f"has the bbox {brief(box, 60)}; four numbers [x, y, width, height] are needed")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise LabelError(f"has a bbox {width:g} wide and {height:g} high; both must be at least 0")
    return Annotation(names[category_id], (x, y, x + width, y + height), polygons, rle, location)


def _parse_segmentation(segmentation: Any) -> tuple[tuple[array[float], ...], Rle | None]:
    """Return the polygons and the RLE of a segmentation; at most one of the two is present."""
    if not segmentation:
        return (), None
    if isinstance(segmentation, dict):
        return (), _parse_rle(segmentation)
    if not isinstance(segmentation, list):
        raise LabelError(f"has the segmentation {brief(segmentation, 60)}; polygons or an RLE are needed")
    if all(map(_is_number, segmentation)):  # some programs write a single polygon without the outer list
        segmentation = [segmentation]
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
            raise LabelError(f"has the polygon {brief(polygon, 60)}; a list of numbers x1, y1, x2, y2, … is needed")
        if len(polygon) % 2 or len(polygon) < 6:
            raise LabelError(f"has a polygon of {len(polygon)} numbers; an even count of at least 6 is needed")
        polygons.append(array("d", polygon))
    return tuple(polygons), None


def _parse_rle(segmentation: Mapping[str, Any]) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(isinstance(side, int) and 0 < side < _TOO_LARGE for side in size)
    ):
        raise LabelError(f"has an RLE of the size {brief(size, 40)}; [height, width] is needed")
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and 0 <= run < _TOO_LARGE for run in runs):
        raise LabelError("has an RLE whose counts are not run lengths")
    if sum(runs) != size[0] * size[1]:
        raise LabelError(f"has an RLE of {sum(runs)} pixels; {size[0]}×{size[1]} are {size[0] * size[1]}")
    return Rle(size[0], size[1], array("q", runs))


def run_lengths(text: str) -> list[int]:
    """Return the run lengths in pixels that COCO's compressed RLE string encodes.

    Each number is written in characters of 5 bits, lowest first; the sixth bit is set if another character follows.
    From the fourth number on, the difference to the number two positions before is stored (``rleFrString`` of
    pycocotools).

    Raises:
        LabelError: the text is truncated or holds an invalid character.
    """
    runs = list[int]()
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise LabelError(f"has a compressed RLE with an invalid character, {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise LabelError("has a compressed RLE that is cut short")
    return runs


def _parse_side(value: Any) -> int:
    """Return a stated width or height in pixels, at most ``_TOO_LARGE``; 0 if missing or invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, _TOO_LARGE))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and is_unicode(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE


def _short(value: Any) -> str:
    return brief(value, 40)
