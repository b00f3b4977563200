"""Class folders with list files that say which image is in which part.

``train.txt`` with ``test.txt`` and ``val.txt`` (at least one of these two, or the part is held back), in the folder
itself or in ``meta`` or ``splits``, one image a line:

* ``class/name.jpg``, or ``class/name`` without the ending: the first folder in which lines to train on differ is the
  class;
* ``path label`` or ``path,label``, in every line or in none; the path has its ending. The label is a name, or an
  index into ``classes.txt`` where that lies beside the lists.

Paths begin at the folder itself, or at its folder ``images``; none leads out of it. What the lists do not name is not
read.

Class folders lie here too, so this layout is asked before ``class_folders``: who wrote lists meant them.
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
from saccade.imagefiles import ENDINGS, inside, is_image

__all__ = ["ClassList"]

_LABELLED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, ENDINGS))}))\s*[\s,;]\s*(.+)", re.IGNORECASE)
_PLACES = ("", "meta", "splits")


@final
class ClassList(FolderLayout):
    """Images and list files; a line gives the class by its folder or by a label."""

    name = "class_list"
    rank = 50
    targets = ("label",)

    def reason(self, root: Path) -> str | None:
        """Look for a list to train on that names at least two classes."""
        lists = _lists(root)
        if "train" not in lists:
            return f"it has no train.txt, nor have its folders {' and '.join(filter(None, _PLACES))}"
        classes = {label for _, label in _entries(root, lists)["train"]} - {""}
        if len(classes) < 2:
            return f"{brief(lists['train'].relative_to(root))} names {len(classes)} class(es), at least 2 are needed"
        return None

    def survey(self, root: Path) -> Survey:
        """The files that the lists name."""
        lists = _lists(root)
        entries = _entries(root, lists)
        base = _base(root, entries["train"][0][0])
        names_file = lists["train"].parent / "classes.txt"
        names = read_class_names(names_file) if names_file.is_file() else []
        known, files = dict.fromkeys(names), _Folder()
        parts = {}
        for role, path in lists.items():
            owner = path.relative_to(root).as_posix()
            classes = defaultdict[str, list[Path]](list)
            for text, label in entries[role]:
                if not label:
                    raise UserError(f"{brief(owner)} names {brief(text)!r}, which is in no class folder")
                name = label if label in known or not names else _indexed(label, names, owner)
                classes[name].append(files.found(inside(root, f"{base}{text}", owner)))
            parts[role] = SplitFiles(owner, {name: sorted(of) for name, of in classes.items()})
        seen = make_survey(root, parts)
        order = [name for name in names if name in seen.classes] or sorted(seen.classes, key=_by_number)
        return replace(seen, classes=order, definition_files=[*lists.values(), *[names_file] * bool(names)])

    def label(self, seen: Survey, sizes: object, notify: Notify | None) -> ClassLabels:
        """The class of each file."""
        return ClassLabels(seen)


def _lists(root: Path) -> dict[str, Path]:
    """Role to list file, of the first place that has a list to train on."""
    for place in _PLACES:
        files = {path.stem: path for path in sorted((root / place).glob("*.txt")) if path.is_file()}
        found = {role: files[stem] for role, stem in assign_splits(files).items()}
        if "train" in found:
            return found
    return {}


def _entries(root: Path, lists: dict[str, Path]) -> dict[str, list[tuple[str, str]]]:
    """Role to the (path, label) of each line; a path in no class folder has an empty label.

    Raises:
        UserError: a list cannot be read or is not UTF-8; some lines have a label, others none.
    """
    split = {role: [_split(line.replace("\\", "/")) for line in read_lines(path)] for role, path in lists.items()}
    labelled = [(bool(label), role, text) for role, of in split.items() for text, label in of]
    most = 2 * sum(has for has, _, _ in labelled) > len(labelled)
    odd = next(((role, text) for has, role, text in labelled if has is not most), None)
    if odd:
        owner = brief(lists[odd[0]].relative_to(root))
        said = "no label; other lines have one" if most else "a label; other lines have none"
        raise UserError(f"{owner} names {brief(odd[1])!r} with {said}")
    if most:
        return split
    depth = _depth([text for text, _ in split["train"]])
    return {role: [(text, "".join(_folders(text)[depth : depth + 1])) for text, _ in of] for role, of in split.items()}


def _split(line: str) -> tuple[str, str]:
    """Path and label; the label is what follows the ending of the image, empty where nothing does."""
    found = None if is_image(Path(line)) else _LABELLED.fullmatch(line)
    return (found[1], found[2]) if found else (line, "")


def _depth(paths: list[str]) -> int:
    """How many folders all paths have in common before those that differ: the first of these is the class."""
    folders, depth = [_folders(path) for path in paths], 0
    while all(len(parts) > depth + 1 for parts in folders) and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    return depth


def _folders(line: str) -> list[str]:
    return [part for part in line.split("/")[:-1] if part not in ("", ".")]


def _base(root: Path, first: str) -> str:
    """What stands before the paths of a list: nothing, or the folder of images."""
    top = next((part for part in first.split("/") if part not in ("", ".")), "")
    return "images/" if not (root / top).exists() and (root / "images" / top).exists() else ""


def _indexed(label: str, names: list[str], owner: str) -> str:
    """The class that ``label`` is the index of."""
    if label.isdecimal() and int(label) < len(names):
        return names[int(label)]
    raise UserError(
        f"{brief(owner)} has the label {brief(label)!r}; classes.txt has {len(names)} names, of the indices 0 to "
        f"{len(names) - 1}"
    )


def _by_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


class _Folder:
    """Finds the ending of files that are named without one; each folder is read once."""

    def __init__(self) -> None:
        self._stems: dict[Path, dict[str, Path]] = {}

    def found(self, path: Path) -> Path:
        """The image of that name, with or without its ending; ``path`` itself where no such file is."""
        if is_image(path):
            return path
        if path.parent not in self._stems:
            try:
                names = sorted(os.listdir(path.parent))
            except OSError:
                names = []
            self._stems[path.parent] = {
                name.rpartition(".")[0]: path.parent / name for name in names if name.lower().endswith(ENDINGS)
            }
        return self._stems[path.parent].get(path.name, path)
