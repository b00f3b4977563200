"""Class folders with list files that say which image is in which part.

``train.txt`` with ``test.txt`` and ``val.txt`` (at least one of these two, or the part is held back), in the folder
itself or in ``meta`` or ``splits``, one image a line:

* ``class/name.jpg``, or ``class/name`` without the ending: the first folder in which lines to train on differ is the
  class;
* ``path label``: the label is a name, or an index into ``classes.txt`` where that lies beside the lists.

Paths begin at the folder itself, or at its folder ``images``; none leads out of it. What the lists do not name is not
read.

Class folders lie here too, so this layout is asked before ``class_folders``: who wrote lists meant them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import final

from saccade.data.labels import Classes
from saccade.data.layouts._folder import FolderLayout
from saccade.data.survey import Part, Survey, assigned, class_names, lines, surveyed
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import ENDINGS, inside, is_image

__all__ = ["ClassList"]

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
        classes = {label for _, label in _entries(lists["train"], _depth(lists["train"]))} - {""}
        if len(classes) < 2:
            return f"{brief(lists['train'].relative_to(root))} names {len(classes)} class(es), at least 2 are needed"
        return None

    def survey(self, root: Path) -> Survey:
        """The files that the lists name."""
        lists = _lists(root)
        depth = _depth(lists["train"])
        base = _base(root, _entries(lists["train"], depth)[0][0])
        names_file = lists["train"].parent / "classes.txt"
        names = class_names(names_file) if names_file.is_file() else []
        known, files = dict.fromkeys(names), _Folder()
        parts = {}
        for role, path in lists.items():
            owner = path.relative_to(root).as_posix()
            classes = defaultdict[str, list[Path]](list)
            for text, label in _entries(path, depth):
                if not label:
                    raise UserError(f"{brief(owner)} names {brief(text)!r}, which is in no class folder")
                name = label if label in known or not names else _indexed(label, names, owner)
                classes[name].append(files.found(inside(root, f"{base}{text}", owner)))
            parts[role] = Part(owner, {name: sorted(of) for name, of in classes.items()})
        seen = surveyed(root, parts)
        order = [name for name in names if name in seen.classes] or sorted(seen.classes, key=_by_number)
        return replace(seen, classes=order, deciding=[*lists.values(), *[names_file] * bool(names)])

    def label(self, seen: Survey, sizes: object, notify: Notify | None) -> Classes:
        """The class of each file."""
        return Classes(seen)


def _lists(root: Path) -> dict[str, Path]:
    """Role to list file, of the first place that has a list to train on."""
    for place in _PLACES:
        files = {path.stem: path for path in sorted((root / place).glob("*.txt")) if path.is_file()}
        found = {role: files[stem] for role, stem in assigned(files).items()}
        if "train" in found:
            return found
    return {}


def _lines(path: Path) -> list[str]:
    return [line.replace("\\", "/") for line in lines(path)]


def _depth(path: Path) -> int:
    """How many folders all lines of a list have in common before those that differ: the first of these is the class.

    Raises:
        UserError: the list cannot be read or is not UTF-8.
    """
    folders, depth = [_folders(line) for line in _lines(path)], 0
    while all(len(parts) > depth + 1 for parts in folders) and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    return depth


def _entries(path: Path, depth: int) -> list[tuple[str, str]]:
    """The (path, label) of each line; where no label is written it is the folder at ``depth``, or empty without one.

    Raises:
        UserError: the list cannot be read or is not UTF-8.
    """
    split = [line.rsplit(None, 1) for line in _lines(path)]
    if all(len(words) == 2 and is_image(Path(words[0])) for words in split):
        return [(name, label) for name, label in split]
    return [(line, "".join(_folders(line)[depth : depth + 1])) for line in _lines(path)]


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
