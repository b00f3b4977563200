"""Folders and split lists of Pascal VOC."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from saccade.data.colour_maps import ClassMap, read_class_map
from saccade.data.layouts._list_paths import check_inside
from saccade.data.survey import assign_splits, read_lines, subfolders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import is_image, walk

__all__ = ["FolderPair", "files_by_stem", "find_subfolder", "label_map", "read_splits"]

IMAGES = ("jpegimages", "images", "imgs")
"""Names of the image folder, in lower case."""
_VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of VOC2007 to VOC2012."""


class FolderPair(NamedTuple):
    """Image folder and its annotation or mask folder."""

    images: Path
    annotations: Path


def find_subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the folder in ``root`` of the first of ``names``, in any case; None if there is none."""
    folders = {path.name.lower(): path for path in subfolders(root)}
    return next((folders[name] for name in names if name in folders), None)


def files_by_stem(folder: Path, suffix: str = "", hidden: Counter[str] | None = None) -> dict[str, Path]:
    """Return files below ``folder`` by their path in it without suffix.

    Args:
        folder: folder to search.
        suffix: suffix of the files in lower case; "" for all images.
        hidden: counts ignored files by name, if given.

    Raises:
        UserError: two files differ only in their suffix.
    """
    files = dict[str, Path]()
    for path in walk(folder, hidden):
        if path.suffix.lower() == suffix if suffix else is_image(path):
            first = files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if first is not path:
                raise UserError(f"{brief(first)} and {brief(path)} differ only in their suffix; rename one")
    return files


def read_splits(root: Path, kind: str, images: dict[str, Path]) -> dict[str, tuple[str, list[str]]]:
    """Return (split name, image stems) by role, from ``ImageSets/kind``; {} without lists.

    ``trainval`` is used for training if there is no ``train``. A list whose name is not a split is ignored.

    Raises:
        UserError: a list cannot be read, repeats a name or leaves the folder.
    """
    files = {path.stem.lower(): path for path in sorted((root / "ImageSets" / kind).glob("*.txt"))}
    if "train" not in files and "trainval" in files:
        files = {"train": files["trainval"], **{word: path for word, path in files.items() if word == "test"}}
    roles = assign_splits(files)
    if "train" not in roles:
        return {}
    splits = {}
    for role, word in roles.items():
        names = [_stem_of_line(line, images) for line in read_lines(files[word])]
        duplicate = next((name for name, count in Counter(names).items() if count > 1), None)
        if duplicate is not None:
            raise UserError(f"{brief(files[word].relative_to(root))} lists {brief(duplicate)!r} twice")
        check_inside(root, names, files[word].relative_to(root).as_posix())
        splits[role] = files[word].stem, names
    return splits


def _stem_of_line(line: str, images: dict[str, Path]) -> str:
    """Return the image stem on a line, without the flag -1, 0 or 1 of VOC's class lists."""
    if line in images:
        return line
    stem, _, flag = line.rpartition(" ")
    return stem.strip() if stem and flag in ("-1", "0", "1") else line


def label_map(root: Path) -> ClassMap:
    """Return the classes in CVAT's ``labelmap.txt``, else VOC's own classes if the folder is VOC's, else none.

    Raises:
        UserError: see :func:`saccade.data.colour_maps.class_map`.
    """
    path = root / "labelmap.txt"
    if path.is_file():
        return read_class_map(path)
    is_voc = (root / "ImageSets" / "Main" / f"{_VOC_CLASSES[0]}_train.txt").is_file()
    return ClassMap(("background", *_VOC_CLASSES) if is_voc else ())
