"""Images and JSON of COCO: boxes, polygons and runs (RLE).

Understood are

* ``annotations/instances_train2017.json`` beside ``train2017`` or ``images/train2017``, as COCO itself and CVAT
  (``instances_default.json``) lie. The word ``train``, ``val`` or ``test`` in its name is the part;
* ``train/_annotations.coco.json`` among its images, as Roboflow writes it, and the same for ``valid`` and ``test``. Its
  category without objects, which stands above the others, is left out;
* one JSON file beside ``images``, such as ``result.json`` of Label Studio.

Where no part is to be tested on, ``test_part`` is held back. Categories are named and ordered by id; ids with gaps, and
other ids in another part, are understood. ``iscrowd`` objects are left out and counted. JSON of keypoints, captions and
panoptic masks is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from saccade.data.annotations import ImageAnnotations
from saccade.data.layouts._coco_json import CocoFile, read_coco
from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._listed import check_inside
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.survey import SplitFiles, Survey, assign_splits, keep_images, make_survey, subfolders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify

if TYPE_CHECKING:
    from saccade.data.objects import Objects

__all__ = ["Coco"]

_ROBOFLOW = "_annotations.coco.json"
_HEAD = re.compile(rb'^(\xef\xbb\xbf)?\s*\{.*?"(images|annotations)"\s*:\s*\[', re.DOTALL)
_HEAD_BYTES = 2**18
_LISTS = (b'"images"', b'"annotations"', b'"categories"')
_OTHERS = ("person_keypoints", "captions", "panoptic", "stuff", "image_info")
"""What COCO publishes beside its instances."""
_AT_MOST = 50
"""Of so many JSON files in a folder the heads are read; where there are more, they are of single images."""
_TRIED = 20
"""Images by which the folder of a file's images is found."""


@final
class Coco(FolderLayout):
    """Images, and a JSON file of all objects of a part."""

    name = "coco"
    rank = 10
    targets = ("objects",)
    exact = True

    def reason(self, root: Path) -> str | None:
        """Look for JSON that begins like COCO's; beside class folders it names two lists at least."""
        files = _json_files(root)
        if files and (any(map(_names_two_lists, files)) or ClassFolders().reason(root) is not None):
            return None
        return (
            f"it has no JSON of COCO (images, annotations, categories) in itself, in annotations or as "
            f"{_ROBOFLOW} in its folders"
        )

    def survey(self, root: Path) -> Survey:
        """The images that each file lists."""
        notes, parts = list[str](), dict[str, SplitFiles]()
        files = _parts(root, notes)
        for role, file in files.items():
            found = file.read(root)
            notes += found.notes
            parts[role] = SplitFiles(file.name, {"": sorted(_images(root, file, found))})
        classes = {role: set(file.read(root).classes) for role, file in files.items()}
        notes += [
            f"the class {name!r} is in {one.name} and not in {files['train'].name}"
            for role, one in files.items()
            for name in sorted(classes[role] - classes["train"])
        ]
        seen = make_survey(root, *keep_images(parts), notes=notes)
        return replace(seen, definition_files=[file.path for file in files.values()])

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """The objects of each image."""
        from saccade.data.objects import Objects

        annotated, classes = dict[Path, ImageAnnotations](), dict[str, None]()
        for file in _parts(seen.root, []).values():
            found = file.read(seen.root)
            classes |= dict.fromkeys(found.classes)
            annotated |= _images(seen.root, file, found)
        return Objects(annotated, sizes, list(classes))


class _File(NamedTuple):
    name: str
    path: Path

    def read(self, root: Path) -> CocoFile:
        return read_coco(self.path, self.path.relative_to(root).as_posix())


def _json_files(root: Path) -> list[Path]:
    """The files that begin like COCO's JSON, those of Roboflow alone where it wrote any."""
    folders = {path.name: path for path in subfolders(root)}
    roboflow = [path for place in folders.values() if (path := place / _ROBOFLOW).is_file()]
    if roboflow and assign_splits(path.parent.name for path in roboflow):
        return roboflow
    places = [root, *(folders[name] for name in ("annotations",) if name in folders)]
    files = (path for place in places for path in islice(sorted(place.glob("*.json")), _AT_MOST))
    return [path for path in files if path.is_file() and _is_coco(path)]


def _is_coco(path: Path) -> bool:
    return _HEAD.match(_head(path)) is not None


def _names_two_lists(path: Path) -> bool:
    """Whether a file names two of COCO's three lists, or is longer than what is looked at."""
    head = _head(path)
    return len(head) == _HEAD_BYTES or sum(name in head for name in _LISTS) > 1


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _parts(root: Path, notes: list[str]) -> dict[str, _File]:
    """Role to file; a single file is ``train``, whatever its name.

    Raises:
        UserError: two files are of one part, or none is of a part to train on.
    """
    found = _json_files(root)
    if all(path.name == _ROBOFLOW and path.parent != root for path in found):
        named = {path.parent.name: path for path in found}
    else:
        taken = [path for path in found if not path.stem.startswith(_OTHERS)] or found
        left = [path.name for path in found if path not in taken]
        if left:
            notes.append(f"{', '.join(map(brief, left))} are not read")
        if len(taken) == 1:
            return {"train": _File("", taken[0])}
        named = {}
        for path in taken:
            word = _part_word(path.stem)
            if word in named:
                said = f"the part {word!r}" if word else "no part that their names say"
                raise UserError(
                    f"{brief(named[word].relative_to(root))} and {brief(path.relative_to(root))} are both of {said}; "
                    "name one file for each of train, val and test"
                )
            named[word] = path
    roles = assign_splits(named)
    if "train" not in roles:
        raise UserError(f"none of {', '.join(brief(path.relative_to(root)) for path in found)} is of a part train")
    if unused := [path.name for word, path in named.items() if word not in roles.values()]:
        notes.append(f"{', '.join(map(brief, unused))} are not read: their names say no part")
    return {role: _File(name, named[name]) for role, name in roles.items()}


def _part_word(stem: str) -> str:
    """The part that a name such as ``instances_train2017`` says; empty where it says none."""
    return next((word for word in re.findall("[a-z]+", stem.lower()) if assign_splits([word])), "")


def _images(root: Path, file: _File, found: CocoFile) -> dict[Path, ImageAnnotations]:
    """Path of an image to what is stated of it.

    Raises:
        UserError: a name leaves the folder, or no folder holds the images.
    """
    owner = file.path.relative_to(root).as_posix()
    places = list(_places(root, file))
    names = list(found.images)
    check_inside(root, names, owner)
    if not names:
        raise UserError(f"{brief(owner)} lists no images")
    tried = names[:: max(1, len(names) // _TRIED)]
    place = next((place for place in places if any((place / name).is_file() for name in tried)), None)
    if place is None:
        where = ", ".join(brief(path.relative_to(root).as_posix()) for path in places)
        raise UserError(
            f"{brief(owner)} lists {len(names)} images, such as {brief(tried[0])}; looked for in "
            f"{where}, none of them is there"
        )
    return {place / name: one for name, one in found.images.items()}


def _places(root: Path, file: _File) -> Iterator[Path]:
    """Where the images of a file may lie."""
    stem = file.path.stem.removeprefix("instances_")
    beside = [root / stem, root / "images" / stem]
    words = [root / name / part for part in (file.name, _part_word(stem)) if part for name in ("", "images")]
    places = [file.path.parent, file.path.parent / "images", *beside, *words, root / "images", root]
    return (place for place in dict.fromkeys(places) if place.is_dir())
