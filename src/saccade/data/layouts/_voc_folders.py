"""Where Pascal VOC keeps images, annotations, masks and the lists of its parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from saccade.data.colour_maps import ClassMap, read_class_map
from saccade.data.layouts._listed import check_inside
from saccade.data.survey import assign_splits, read_lines, subfolders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import is_image, walk

__all__ = ["Place", "label_map", "named", "parts_of", "stems"]

IMAGES = ("jpegimages", "images", "imgs")
_STANDARD = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Of VOC2007 to VOC2012."""


class Place(NamedTuple):
    """The two folders of images and of what belongs to them."""

    images: Path
    beside: Path


def named(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder in ``root`` of the first of ``names``, in small or capital letters."""
    folders = {path.name.lower(): path for path in subfolders(root)}
    return next((folders[name] for name in names if name in folders), None)


def stems(folder: Path, suffix: str = "", hidden: Counter[str] | None = None) -> dict[str, Path]:
    """The images below ``folder``, or the files that end in ``suffix``, by their path in it without the ending.

    Raises:
        UserError: two have one name.
    """
    found = dict[str, Path]()
    for path in walk(folder, hidden):
        if path.suffix.lower() == suffix if suffix else is_image(path):
            before = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if before is not path:
                raise UserError(f"{brief(before)} and {brief(path)} have one name but for the ending; rename one")
    return found


def parts_of(root: Path, kind: str, known: dict[str, Path]) -> dict[str, tuple[str, list[str]]]:
    """Role to the name and the stems of each part that ``ImageSets/kind`` lists; empty where there are no lists.

    ``trainval`` is trained on where ``train`` is not listed. A single list of another name is no part.

    Raises:
        UserError: a list cannot be read, or lists a name twice.
    """
    files = {path.stem.lower(): path for path in sorted((root / "ImageSets" / kind).glob("*.txt"))}
    if "train" not in files and "trainval" in files:
        files = {"train": files["trainval"], **{word: path for word, path in files.items() if word == "test"}}
    roles = assign_splits(files)
    if "train" not in roles:
        return {}
    found = {}
    for role, word in roles.items():
        names = [_stem(line, known) for line in read_lines(files[word])]
        twice = next((name for name, n in Counter(names).items() if n > 1), None)
        if twice is not None:
            raise UserError(f"{brief(files[word].relative_to(root))} lists {brief(twice)!r} twice")
        check_inside(root, names, files[word].relative_to(root).as_posix())
        found[role] = files[word].stem, names
    return found


def _stem(line: str, known: dict[str, Path]) -> str:
    """The name on a line: all of it, or what stands before the -1, 0 or 1 of VOC's lists of classes."""
    if line in known:
        return line
    head, _, last = line.rpartition(" ")
    return head.strip() if head and last in ("-1", "0", "1") else line


def label_map(root: Path) -> ClassMap:
    """The classes that ``labelmap.txt`` of CVAT names; those of VOC where the folder is VOC's; else none.

    Raises:
        UserError: as :func:`saccade.data.colour_maps.class_map`.
    """
    path = root / "labelmap.txt"
    if path.is_file():
        return read_class_map(path)
    is_voc = (root / "ImageSets" / "Main" / f"{_STANDARD[0]}_train.txt").is_file()
    return ClassMap(("background", *_STANDARD) if is_voc else ())
