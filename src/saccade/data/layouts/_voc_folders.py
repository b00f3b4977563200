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

__all__ = ["FolderPair", "files_by_relative_stem", "find_subfolder", "label_map", "read_splits"]

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
    """Return the subfolder of ``root`` with the first available name, ignoring case, or None."""
    folders = {path.name.lower(): path for path in subfolders(root)}
    return next((folders[name] for name in names if name in folders), None)


def files_by_relative_stem(folder: Path, suffix: str = "", hidden: Counter[str] | None = None) -> dict[str, Path]:
    """Return the files below ``folder``; keys are paths relative to ``folder`` without suffix.

    Args:
        folder: folder to search.
        suffix: suffix of the files in lower case; "" for all images.
        hidden: counter of ignored files by name, updated if given.

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
    """Return (list name, image stems) by split, from ``ImageSets/KIND``; {} without a training list.

    ``trainval`` is used for training if there is no ``train``. A list whose name is not a split is ignored.

    Raises:
        UserError: a list cannot be read, repeats a name or has a path outside the folder.
    """
    files = {path.stem.lower(): path for path in sorted((root / "ImageSets" / kind).glob("*.txt"))}
    if "train" not in files and "trainval" in files:
        files = {"train": files["trainval"], **{name: path for name, path in files.items() if name == "test"}}
    split_names = assign_splits(files)
    if "train" not in split_names:
        return {}
    splits = {}
    for split, list_name in split_names.items():
        names = [_stem_of_line(line, images) for line in read_lines(files[list_name])]
        duplicate = next((name for name, count in Counter(names).items() if count > 1), None)
        if duplicate is not None:
            raise UserError(f"{brief(files[list_name].relative_to(root))} lists {brief(duplicate)!r} twice")
        check_inside(root, names, files[list_name].relative_to(root).as_posix())
        splits[split] = files[list_name].stem, names
    return splits


def _stem_of_line(line: str, images: dict[str, Path]) -> str:
    """Return the image stem on a line, without the flag -1, 0 or 1 of VOC's class lists."""
    if line in images:
        return line
    stem, _, flag = line.rpartition(" ")
    return stem.strip() if stem and flag in ("-1", "0", "1") else line


def label_map(root: Path) -> ClassMap:
    """Return the classes in CVAT's ``labelmap.txt``, else VOC's classes if the folder is VOC's, else an empty map.

    Raises:
        UserError: see :func:`saccade.data.colour_maps.read_class_map`.
    """
    path = root / "labelmap.txt"
    if path.is_file():
        return read_class_map(path)
    is_voc = (root / "ImageSets" / "Main" / f"{_VOC_CLASSES[0]}_train.txt").is_file()
    return ClassMap(("background", *_VOC_CLASSES) if is_voc else ())
