"""Annotation files of other programs that no layout reads, and the converter that writes one which a layout does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

from saccade.data.survey import subfolders
from saccade.escaping import brief
from saccade.imagefiles import is_image

__all__ = ["foreign", "is_supervisely"]

_HEAD = 2**16
_LOOKED_AT = 20
"""So many JSON or XML files are opened."""


def foreign(root: Path) -> str | None:
    """A sentence on a folder of a known program that no layout reads, with what to do; None for another."""
    return next(filter(None, (recognise(root) for recognise in _KNOWN)), None)


def is_supervisely(root: Path) -> bool:
    """Whether a folder is a project of Supervisely."""
    return (root / "meta.json").is_file() and any((folder / "ann").is_dir() for folder in (root, *subfolders(root)))


def _supervisely(root: Path) -> str | None:
    if not is_supervisely(root):
        return None
    return (
        "it is a project of Supervisely (meta.json and ann): export it as COCO by Supervisely's app "
        "'Export to COCO', or as YOLO"
    )


def _cvat(root: Path) -> str | None:
    found = _first(root, "xml", rb"<annotations[\s>]")
    if found is None:
        return None
    command = f"datum convert -if cvat -i {shlex.quote(str(root))} -f coco -o OUT -- --save-media"
    return (
        f"{brief(found.relative_to(root))} is XML of CVAT: export the task from CVAT as COCO 1.0, or convert it by "
        f"Datumaro: pip install datumaro; {command}"
    )


def _label_studio(root: Path) -> str | None:
    found = _first(root, "json", rb'\A(\xef\xbb\xbf)?\s*\[\s*\{(?=.*"(annotations|completions)"\s*:)(?=.*"data"\s*:)')
    if found is None:
        return None
    command = f"label-studio-converter export -i {shlex.quote(str(found))} -c CONFIG.xml -o OUT -f COCO"
    return (
        f"{brief(found.relative_to(root))} is a raw export of Label Studio: export the project as COCO or YOLO with "
        f"images, or convert it with its labelling config: pip install label-studio-converter; {command}"
    )


def _labelme(root: Path) -> str | None:
    found = _first(root, "json", rb'\A(\xef\xbb\xbf)?\s*\{(?=.*"shapes"\s*:\s*\[)')
    if found is None:
        return None
    command = f"labelme2coco {shlex.quote(str(found.parent))}"
    return f"{brief(found.relative_to(root))} is JSON of Labelme: pip install labelme2coco; {command} writes COCO"


def _darknet(root: Path) -> str | None:
    if not (root / "obj.data").is_file():
        return None
    return "it is YOLO 1.1 of CVAT (obj.data): export the task from CVAT as Ultralytics YOLO Detection, with images"


def _labelimg(root: Path) -> str | None:
    """Boxes of LabelImg among their images, where it saves them by default."""
    for ending, pattern, folders in (
        ("txt", rb"\A\s*\d+(\s+\d*\.\d+){4}\s", "images and labels"),
        ("xml", rb"<annotation[\s>]", "JPEGImages and Annotations"),
    ):
        files = islice(sorted(root.glob(f"*.{ending}")), _LOOKED_AT)
        found = next((path for path in files if re.search(pattern, _head(path) + b"\n")), None)
        image = found and next((path for path in root.glob("*") if is_image(path) and path.stem == found.stem), None)
        if found and image:
            both = f"{brief(image.name)} and {brief(found.name)}"
            return f"{both} lie in one folder: move the images and the .{ending} files into two folders, {folders}"
    return None


_KNOWN: tuple[Callable[[Path], str | None], ...] = (_supervisely, _cvat, _label_studio, _labelme, _darknet, _labelimg)


def _first(root: Path, ending: str, pattern: bytes) -> Path | None:
    """The first of a few files in ``root`` or in its folders that begins like ``pattern``."""
    known = re.compile(pattern, re.DOTALL)
    files = chain.from_iterable(islice(sorted(of.glob(f"*.{ending}")), _LOOKED_AT) for of in (root, *subfolders(root)))
    return next((path for path in islice(files, 5 * _LOOKED_AT) if known.search(_head(path))), None)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
