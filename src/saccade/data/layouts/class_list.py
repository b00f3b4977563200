"""Class folders with list files that assign images to train, val and test.

The folder, or its folder ``meta`` or ``splits``, holds ``train.txt`` and optionally ``test.txt`` and ``val.txt``. If
both are missing, ``test_part`` of the images is held back for testing. Each line names one image:

* ``class/name.jpg``, or ``class/name`` without the suffix: the class is the first folder that differs between the
  lines of ``train.txt``;
* ``path label`` or ``path,label``, in every line or in none; the path has its suffix. The label is a name, or an
  index into ``classes.txt`` if that file is beside the lists.

Paths are relative to the folder or its folder ``images``; one outside the folder is refused. Images in no list are not
read. This layout is tried before ``class_folders``, which would also accept the folder.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import final

from saccade.data.labels import ClassLabels
from saccade.data.layouts._folder import FolderLayout
from saccade.data.survey import SplitFiles, Survey, assign_splits, make_survey, read_class_names, read_lines
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import SUFFIXES, is_image, resolve_inside

__all__ = ["ClassList"]

_LABELLED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, SUFFIXES))}))\s*[\s,;]\s*(.+)", re.IGNORECASE)
_LIST_FOLDERS = ("", "meta", "splits")


@final
class ClassList(FolderLayout):
    """Images and list files; a line gives the class by its folder or by a label."""

    name = "class_list"
    rank = 50
    targets = ("label",)

    def check_folder(self, root: Path) -> str | None:
        """Return None if a training list names at least two classes, else the reason."""
        lists = _find_lists(root)
        if "train" not in lists:
            return f"it has no train.txt, nor have its folders {' and '.join(filter(None, _LIST_FOLDERS))}"
        classes = {label for _, label in _read_entries(root, lists)["train"]} - {""}
        if len(classes) < 2:
            return f"{brief(lists['train'].relative_to(root))} names {len(classes)} class(es), at least 2 are needed"
        return None

    def survey(self, root: Path) -> Survey:
        """Return the listed files; raise UserError for a path in no class folder."""
        lists = _find_lists(root)
        entries = _read_entries(root, lists)
        prefix = _path_prefix(root, entries["train"][0][0])
        names_file = lists["train"].parent / "classes.txt"
        names = read_class_names(names_file) if names_file.is_file() else []
        known_names, lookup = dict.fromkeys(names), _ImageLookup()
        splits = {}
        for split, path in lists.items():
            file_name = path.relative_to(root).as_posix()
            classes = defaultdict[str, list[Path]](list)
            for text, label in entries[split]:
                if not label:
                    raise UserError(f"{brief(file_name)} names {brief(text)!r}, which is in no class folder")
                name = label if label in known_names or not names else _name_at_index(label, names, file_name)
                classes[name].append(lookup.find(resolve_inside(root, f"{prefix}{text}", file_name)))
            splits[split] = SplitFiles(file_name, {name: sorted(paths) for name, paths in classes.items()})
        survey = make_survey(root, splits)
        order = [name for name in names if name in survey.classes] or sorted(survey.classes, key=_by_number)
        return replace(survey, classes=order, definition_files=[*lists.values(), *[names_file] * bool(names)])

    def load_targets(self, survey: Survey, sizes: object, notify: Notify | None) -> ClassLabels:
        """Return the class of each file."""
        return ClassLabels(survey)


def _find_lists(root: Path) -> dict[str, Path]:
    """Return list files by split (train, test, val), from the first folder with a training list."""
    for folder in _LIST_FOLDERS:
        files = {path.stem: path for path in sorted((root / folder).glob("*.txt")) if path.is_file()}
        lists = {split: files[stem] for split, stem in assign_splits(files).items()}
        if "train" in lists:
            return lists
    return {}


def _read_entries(root: Path, lists: dict[str, Path]) -> dict[str, list[tuple[str, str]]]:
    """Return the (path, label) of each line by split; the label is "" for a path in no class folder.

    Raises:
        UserError: a list is unreadable or not UTF-8, or only some lines have a label.
    """
    entries = {
        split: [_split_label(line.replace("\\", "/")) for line in read_lines(path)] for split, path in lists.items()
    }
    every_entry = [(split, text, label) for split, listed in entries.items() for text, label in listed]
    is_labelled = 2 * sum(label != "" for *_, label in every_entry) > len(every_entry)
    outlier = next(((split, text) for split, text, label in every_entry if (label != "") is not is_labelled), None)
    if outlier:
        file_name = brief(lists[outlier[0]].relative_to(root))
        problem = "no label, but other lines have one" if is_labelled else "a label, but other lines have none"
        raise UserError(f"{file_name}: the line of {brief(outlier[1])!r} has {problem}")
    if is_labelled:
        return entries
    depth = _class_depth([text for text, _ in entries["train"]])
    return {
        split: [(text, "".join(_folders(text)[depth : depth + 1])) for text, _ in listed]
        for split, listed in entries.items()
    }


def _split_label(line: str) -> tuple[str, str]:
    """Return path and label of a line; the label is the text after the image suffix, possibly ""."""
    match = None if is_image(Path(line)) else _LABELLED.fullmatch(line)
    return (match[1], match[2]) if match else (line, "")


def _class_depth(paths: list[str]) -> int:
    """Return the index of the first folder that differs between ``paths``; it is the class."""
    folder_lists, depth = [_folders(path) for path in paths], 0
    while all(len(folders) > depth + 1 for folders in folder_lists) and len({f[depth] for f in folder_lists}) == 1:
        depth += 1
    return depth


def _folders(line: str) -> list[str]:
    """Return the folders of a listed path."""
    return [component for component in line.split("/")[:-1] if component not in ("", ".")]


def _path_prefix(root: Path, first_path: str) -> str:
    """Return the prefix to add to listed paths: "" or "images/"."""
    top = next((component for component in first_path.split("/") if component not in ("", ".")), "")
    return "images/" if not (root / top).exists() and (root / "images" / top).exists() else ""


def _name_at_index(label: str, names: list[str], file_name: str) -> str:
    """Return the class name at the index ``label``; raise UserError if there is no such index."""
    if label.isdecimal() and int(label) < len(names):
        return names[int(label)]
    raise UserError(
        f"{brief(file_name)} has the label {brief(label)!r}; classes.txt has {len(names)} names, "
        f"with the indices 0 to {len(names) - 1}"
    )


def _by_number(name: str) -> tuple[int, str]:
    """Return a sort key: numeric names by value, after the others."""
    return (int(name) if name.isdecimal() else -1, name)


class _ImageLookup:
    """Finds images that are named without their suffix; each folder is read once."""

    def __init__(self) -> None:
        self._stems: dict[Path, dict[str, Path]] = {}

    def find(self, path: Path) -> Path:
        """Return the image at ``path``, its suffix added if it is missing; ``path`` itself if no image matches."""
        if is_image(path):
            return path
        if path.parent not in self._stems:
            try:
                names = sorted(os.listdir(path.parent))
            except OSError:
                names = []
            self._stems[path.parent] = {
                name.rpartition(".")[0]: path.parent / name for name in names if name.lower().endswith(SUFFIXES)
            }
        return self._stems[path.parent].get(path.name, path)
