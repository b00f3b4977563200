"""Images and COCO JSON: boxes, polygons and RLE masks.

Supported structures:

* ``annotations/instances_train2017.json`` beside ``train2017`` or ``images/train2017``, as COCO and CVAT
  (``instances_default.json``) store them. The word ``train``, ``val`` or ``test`` in the file name is the split;
* ``train/_annotations.coco.json`` among its images, as Roboflow writes it, and the same for ``valid`` and ``test``.
  Roboflow's supercategory without objects is left out;
* one JSON file beside ``images``, such as ``result.json`` of Label Studio.

Without a test split, ``test_part`` is held back for testing. Categories are matched by name and ordered by id; ids may
have gaps and may differ between splits. ``iscrowd`` objects are left out and counted. JSON of keypoints, captions and
panoptic masks is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, final

from saccade.data.annotations import ImageAnnotations
from saccade.data.layouts._coco_json import CocoFile, read_coco
from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts._list_paths import check_inside
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.survey import SplitFiles, Survey, assign_splits, keep_images, make_survey, read_header, subfolders
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify

if TYPE_CHECKING:
    from saccade.data.objects import Objects

__all__ = ["Coco"]

_ROBOFLOW = "_annotations.coco.json"
_JSON_START = re.compile(rb'^(\xef\xbb\xbf)?\s*\{.*?"(images|annotations)"\s*:\s*\[', re.DOTALL)
_HEADER_BYTES = 2**18
_LISTS = (b'"images"', b'"annotations"', b'"categories"')
_OTHER_PREFIXES = ("person_keypoints", "captions", "panoptic", "stuff", "image_info")
"""Name prefixes of COCO's files that hold no instances; they are skipped."""
_MAX_FILES = 50
"""Maximum number of JSON files inspected per folder. Some programs write one file per image."""
_N_PROBES = 20
"""Number of listed images searched for to locate the image folder."""


@final
class Coco(FolderLayout):
    """Images, and one JSON file per split with all objects."""

    name = "coco"
    rank = 10
    targets = ("objects",)
    task_recipes = MappingProxyType({"auto": "boxes", "detect": "boxes"})
    full_resolution = True

    def check_folder(self, root: Path) -> str | None:
        """Return None if there is COCO JSON, else the reason.

        Beside class folders, a file must hold two of COCO's lists.
        """
        files = _json_files(root)
        if files and (any(map(_may_have_two_lists, files)) or ClassFolders().check_folder(root) is not None):
            return None
        return (
            f"it has no COCO JSON (images, annotations, categories) in itself, in annotations or as "
            f"{_ROBOFLOW} in its folders"
        )

    def survey(self, root: Path) -> Survey:
        """Return the listed images."""
        notes, splits = list[str](), dict[str, SplitFiles]()
        files = _files_by_split(root, notes)
        for split, file in files.items():
            coco = file.read(root)
            notes += coco.notes
            splits[split] = SplitFiles(file.name, {"": sorted(_annotated_images(root, file, coco))})
        classes = {split: set(file.read(root).classes) for split, file in files.items()}
        notes += [
            f"the class {name!r} is in {file.name} and not in {files['train'].name}"
            for split, file in files.items()
            for name in sorted(classes[split] - classes["train"])
        ]
        survey = make_survey(root, *keep_images(splits), notes=notes)
        return replace(survey, definition_files=[file.path for file in files.values()])

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Objects:
        """Return the objects of each image."""
        from saccade.data.objects import Objects

        annotations, classes = dict[Path, ImageAnnotations](), dict[str, None]()
        for file in _files_by_split(survey.root, []).values():
            coco = file.read(survey.root)
            classes |= dict.fromkeys(coco.classes)
            annotations |= _annotated_images(survey.root, file, coco)
        return Objects(annotations, sizes, list(classes))


class _SplitFile(NamedTuple):
    """COCO JSON file of one split; ``name`` is the split's name, "" if the file is the only one."""

    name: str
    path: Path

    def read(self, root: Path) -> CocoFile:
        return read_coco(self.path, self.path.relative_to(root).as_posix())


def _json_files(root: Path) -> list[Path]:
    """Return the files that start like COCO JSON; only Roboflow's if there are any."""
    folders_by_name = {path.name: path for path in subfolders(root)}
    roboflow = [path for folder in folders_by_name.values() if (path := folder / _ROBOFLOW).is_file()]
    if roboflow and assign_splits(path.parent.name for path in roboflow):
        return roboflow
    folders_to_search = [root, *(folders_by_name[name] for name in ("annotations",) if name in folders_by_name)]
    paths = (path for folder in folders_to_search for path in islice(sorted(folder.glob("*.json")), _MAX_FILES))
    return [path for path in paths if path.is_file() and _starts_like_coco(path)]


def _starts_like_coco(path: Path) -> bool:
    return _JSON_START.match(read_header(path, _HEADER_BYTES)) is not None


def _may_have_two_lists(path: Path) -> bool:
    """Return True if the header names two of COCO's three lists, or the file is longer than the header read."""
    header = read_header(path, _HEADER_BYTES)
    return len(header) == _HEADER_BYTES or sum(name in header for name in _LISTS) > 1


def _files_by_split(root: Path, notes: list[str]) -> dict[str, _SplitFile]:
    """Return the JSON file of each split (train, val, test); a single file is ``train``, whatever its name.

    Raises:
        UserError: a split has two files, or the training split none.
    """
    paths = _json_files(root)
    if all(path.name == _ROBOFLOW and path.parent != root for path in paths):
        path_of = {path.parent.name: path for path in paths}
    else:
        instance_files = [path for path in paths if not path.stem.startswith(_OTHER_PREFIXES)] or paths
        ignored = [path.name for path in paths if path not in instance_files]
        if ignored:
            notes.append(f"{', '.join(map(brief, ignored))} are not read")
        if len(instance_files) == 1:
            return {"train": _SplitFile("", instance_files[0])}
        path_of = {}
        for path in instance_files:
            split_name = _split_in_name(path.stem)
            if split_name in path_of:
                split_text = f"name the split {split_name!r}" if split_name else "name no split"
                raise UserError(
                    f"{brief(path_of[split_name].relative_to(root))} and {brief(path.relative_to(root))} both "
                    f"{split_text}; name one file for each of train, val and test"
                )
            path_of[split_name] = path
    split_names = assign_splits(path_of)
    if "train" not in split_names:
        files = ", ".join(brief(path.relative_to(root)) for path in paths)
        raise UserError(f"none of {files} is of the split train; name one after it, such as instances_train.json")
    if unused_names := [path.name for name, path in path_of.items() if name not in split_names.values()]:
        notes.append(f"{', '.join(map(brief, unused_names))} are not read: their names contain no split")
    return {split: _SplitFile(name, path_of[name]) for split, name in split_names.items()}


def _split_in_name(stem: str) -> str:
    """Return the split in a file name such as ``instances_train2017``, or ""."""
    return next((word for word in re.findall("[a-z]+", stem.lower()) if assign_splits([word])), "")


def _annotated_images(root: Path, file: _SplitFile, coco: CocoFile) -> dict[Path, ImageAnnotations]:
    """Return annotations by image path; raise UserError for a path outside the folder or without a folder of images."""
    file_name = file.path.relative_to(root).as_posix()
    folders = list(_image_folders(root, file))
    names = list(coco.images)
    check_inside(root, names, file_name)
    if not names:
        raise UserError(f"{brief(file_name)} lists no images")
    probes = names[:: max(1, len(names) // _N_PROBES)]
    folder = next((folder for folder in folders if any((folder / name).is_file() for name in probes)), None)
    if folder is None:
        searched = ", ".join(brief(path.relative_to(root).as_posix()) for path in folders)
        raise UserError(
            f"{brief(file_name)} lists {len(names)} images, such as {brief(probes[0])}; none of them was "
            f"found in {searched}"
        )
    return {folder / name: annotations for name, annotations in coco.images.items()}


def _image_folders(root: Path, file: _SplitFile) -> Iterator[Path]:
    """Return the folders that may hold the images of a file, the most likely first."""
    stem = file.path.stem.removeprefix("instances_")
    named_folders = [root / stem, root / "images" / stem]
    split_folders = [
        root / name / split for split in (file.name, _split_in_name(stem)) if split for name in ("", "images")
    ]
    folders = [file.path.parent, file.path.parent / "images", *named_folders, *split_folders, root / "images", root]
    return (folder for folder in dict.fromkeys(folders) if folder.is_dir())
