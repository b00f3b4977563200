"""Detect annotation files of other programs and suggest a converter to a layout that is read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

from saccade.data.survey import read_header, subfolders
from saccade.escaping import brief
from saccade.imagefiles import is_image

__all__ = ["is_supervisely", "suggest_conversion"]

_HEADER_BYTES = 2**16
_MAX_FILES = 20
"""Maximum number of JSON or XML files opened per folder."""


def suggest_conversion(root: Path) -> str | None:
    """Return how to convert the folder ``root`` if a known program wrote it, else None."""
    return next(filter(None, (find_hint(root) for find_hint in _HINTS)), None)


def is_supervisely(root: Path) -> bool:
    """Return True if ``root`` is a Supervisely project."""
    return (root / "meta.json").is_file() and any((folder / "ann").is_dir() for folder in (root, *subfolders(root)))


def _supervisely(root: Path) -> str | None:
    if not is_supervisely(root):
        return None
    return (
        "it is a Supervisely project (meta.json and ann): export it as COCO with Supervisely's app "
        "'Export to COCO', or as YOLO"
    )


def _cvat(root: Path) -> str | None:
    path = _find_file(root, "xml", rb"<annotations[\s>]")
    if path is None:
        return None
    command = f"datum convert -if cvat -i {shlex.quote(str(root))} -f coco -o OUT -- --save-media"
    return (
        f"{brief(path.relative_to(root))} is CVAT XML: export the task from CVAT as COCO 1.0, or convert it with "
        f"Datumaro: pip install datumaro; {command}"
    )


def _label_studio(root: Path) -> str | None:
    path = _find_file(
        root, "json", rb'\A(\xef\xbb\xbf)?\s*\[\s*\{(?=.*"(annotations|completions)"\s*:)(?=.*"data"\s*:)'
    )
    if path is None:
        return None
    command = f"label-studio-converter export -i {shlex.quote(str(path))} -c CONFIG.xml -o OUT -f COCO"
    return (
        f"{brief(path.relative_to(root))} is a raw export of Label Studio: export the project as COCO or YOLO with "
        f"images, or convert it with its labelling configuration: pip install label-studio-converter; {command}"
    )


def _labelme(root: Path) -> str | None:
    path = _find_file(root, "json", rb'\A(\xef\xbb\xbf)?\s*\{(?=.*"shapes"\s*:\s*\[)')
    if path is None:
        return None
    command = f"labelme2coco {shlex.quote(str(path.parent))}"
    return f"{brief(path.relative_to(root))} is Labelme JSON: pip install labelme2coco; {command} writes COCO"


def _darknet(root: Path) -> str | None:
    if not (root / "obj.data").is_file():
        return None
    return "it is YOLO 1.1 from CVAT (obj.data): export the task from CVAT as Ultralytics YOLO Detection, with images"


def _labelimg(root: Path) -> str | None:
    """Detect LabelImg annotations in the folder of their images, where LabelImg saves them by default."""
    for suffix, pattern, folder_names in (
        ("txt", rb"\A\s*\d+(\s+\d*\.\d+){4}\s", "images and labels"),
        ("xml", rb"<annotation[\s>]", "JPEGImages and Annotations"),
    ):
        files = islice(sorted(root.glob(f"*.{suffix}")), _MAX_FILES)
        label_file = next(
            (path for path in files if re.search(pattern, read_header(path, _HEADER_BYTES) + b"\n")), None
        )
        image = label_file and next(
            (path for path in root.glob("*") if is_image(path) and path.stem == label_file.stem), None
        )
        if label_file and image:
            names = f"{brief(image.name)} and {brief(label_file.name)}"
            return (
                f"{names} are in one folder: move the images and the .{suffix} files into two folders, {folder_names}"
            )
    return None


_HINTS: tuple[Callable[[Path], str | None], ...] = (_supervisely, _cvat, _label_studio, _labelme, _darknet, _labelimg)


def _find_file(root: Path, suffix: str, pattern: bytes) -> Path | None:
    """Return the first of at most 100 files in ``root`` and its subfolders whose header matches ``pattern``."""
    regex = re.compile(pattern, re.DOTALL)
    files = chain.from_iterable(
        islice(sorted(folder.glob(f"*.{suffix}")), _MAX_FILES) for folder in (root, *subfolders(root))
    )
    return next(
        (path for path in islice(files, 5 * _MAX_FILES) if regex.search(read_header(path, _HEADER_BYTES))), None
    )
