"""What lies in a folder of images, seen without opening one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.imagefiles import (
    expand_home,
    file_id,
    is_folder,
    is_image,
    is_unicode,
    raise_unreadable_folder,
    visible_names,
)

__all__ = [
    "ROLES",
    "Part",
    "Survey",
    "assigned",
    "class_names",
    "files_in",
    "folder_of",
    "images_of",
    "lines",
    "missing",
    "subfolders",
    "surveyed",
]

ROLES = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
"""The words for each part."""


def assigned(names: Iterable[str]) -> dict[str, str]:
    """Which of the ``names`` are the parts ``train``, ``test`` and ``val``: role -> name.

    Where there is no test part the validation part is it.
    """
    by_lower = {name.lower(): name for name in names}
    found = {role: next((by_lower[word] for word in words if word in by_lower), "") for role, words in ROLES.items()}
    if not found["test"]:
        found |= {"test": found["val"], "val": ""}
    return {role: name for role, name in found.items() if name}


@dataclass(frozen=True)
class Part:
    """Images that lie together.

    Attributes:
        name: of their folder or list; empty where all images of a source lie together.
        classes: class to files, each of them once, however many names it has there. Of images in no class folders, one
            class without a name.
    """

    name: str
    classes: dict[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return [path for files in self.classes.values() for path in files]


@dataclass(frozen=True)
class Survey:
    """What lies in a folder, seen without opening an image.

    Attributes:
        root: the folder.
        classes: the names of the classes of the training part, in the order of their labels.
        parts: ``train``, ``test`` and ``val`` as far as there are any; ``train`` alone is divided later.
        others: files among the images that do not end like one, so that nothing reads them: ending to number.
        hidden: folders and files that a system or a program keeps among the images, not entered and not read: name to
            number.
        again: further names, within their class, of files in ``parts``: links, for the most part.
        notes: sentences on names that look alike.
        problems: sentences on what would be refused.
        masks: image to mask.
        deciding: files that are neither image nor mask and yet decide what is taken: lists, names of classes.
        unused: clauses on parts that lie in the folder and are not used.
        missing: images that are named and cannot be found, and why, as the rest of a sentence that begins with the
            path.
        groups: image to its group (patient, scene), of every image or of none: groups stay whole where a part is held
            back.
        options: what the recipe says of this source, ``data.options``.
    """

    root: Path
    classes: list[str]
    parts: dict[str, Part]
    others: Counter[str]
    hidden: Counter[str]
    again: int
    notes: list[str]
    problems: list[str]
    masks: dict[Path, Path] = field(default_factory=dict)
    deciding: list[Path] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: dict[Path, str] = field(default_factory=dict)
    groups: dict[Path, str] = field(default_factory=dict)
    options: Mapping[str, int | float | bool | str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All images."""
        return [path for part in self.parts.values() for path in part.files]

    def named_parts(self) -> str:
        """The parts in words, and which of two is the test part where its name does not say so."""
        *names, last = [repr(part.name) for part in self.parts.values()]
        test = self.parts["test"].name
        said = "" if "test" in test.lower() else f", {test!r} is the test part"
        return f"the parts {', '.join(names)} and {last}{said}"


def images_of(parts: dict[str, Part]) -> tuple[dict[str, Part], Counter[str]]:
    """The parts with the files that end like an image, and the endings of the others."""
    kept = {
        role: Part(part.name, {name: list(filter(is_image, files)) for name, files in part.classes.items()})
        for role, part in parts.items()
    }
    return kept, Counter(path.suffix.lower() for part in parts.values() for path in part.files if not is_image(path))


def surveyed(
    root: Path,
    parts: dict[str, Part],
    others: Counter[str] | None = None,
    hidden: Counter[str] | None = None,
    notes: Sequence[str] = (),
) -> Survey:
    """The survey of ``parts``, each file kept under its first name, with what is wrong with names and classes."""
    found, again, problems = _once(parts)
    classes, notes = sorted(found["train"].classes), list(notes)
    if classes != [""]:
        problems += _class_problems(root, found)
        val = found.get("val")
        filled = val and Part(val.name, {name: files for name, files in val.classes.items() if files})
        unlike = _unlike(root, found["train"], filled)
        notes += [f"{sentence} A phase that chooses on val would miss it." for sentence in unlike]
    return Survey(root, classes, found, others or Counter(), hidden or Counter(), again, notes, sorted(problems))


def _class_problems(root: Path, parts: dict[str, Part]) -> list[str]:
    """What is wrong with classes: too few, empty, not named in UTF-8, or in one part only."""
    problems = []
    for role, part in parts.items():
        place = brief(root / part.name)
        if role != "val":
            if len(part.classes) < 2:
                problems.append(f"{place} has {len(part.classes)} class(es), at least 2 are needed")
            problems += [f"class {label!r} in {place} is empty" for label, files in part.classes.items() if not files]
        problems += [
            f"the class {brief(label)} in {place} is not named in UTF-8, as results must be; rename it"
            for label in part.classes
            if not is_unicode(label)
        ]
    return problems + _unlike(root, parts["train"], parts.get("test"))


def _unlike(root: Path, train: Part, other: Part | None) -> list[str]:
    """The classes that are in one of two parts only."""
    return [
        f"class {name!r} is in {brief(root / here.name)} but not in {brief(root / there.name)}."
        f"{did_you_mean(name, there.classes)}"
        for here, there in ((train, other), (other, train))
        if here and there
        for name in sorted(here.classes.keys() - there.classes.keys())
    ]


def _once(parts: dict[str, Part]) -> tuple[dict[str, Part], int, list[str]]:
    """Each file of a class under its first name, how many other names were dropped, and what else is wrong with names.

    A file that has names in two parts or in two classes, by links or as one folder reached by two ways, would be
    judged by what was learnt from it, or be right and wrong at once.
    """
    first: dict[object, tuple[str, str, Path]] = {}
    kept = {role: Part(part.name, {label: [] for label in part.classes}) for role, part in parts.items()}
    again, between_parts, between_classes = 0, [], []
    for role, part in parts.items():
        for label, files in part.classes.items():
            for path in files:
                before = first.get(key := file_id(path))
                if before is None:
                    first[key] = role, label, path
                    kept[role].classes[label].append(path)
                elif before[0] != role:
                    between_parts.append((before[2], path))
                elif before[1] != label:
                    between_classes.append((before[2], path))
                else:
                    again += 1
    problems = [
        f"{brief(one)} and {brief(other)} are one file in {where}"
        + (f", as are {len(pairs) - 1} other pairs" if pairs[1:] else "")
        for pairs, where in ((between_parts, "two parts"), (between_classes, "two classes"))
        for one, other in pairs[:1]
    ]
    return kept, again, problems


def subfolders(folder: Path, hidden: Counter[str] | None = None) -> list[Path]:
    """The folders in ``folder``, in order; ``hidden`` counts what is passed over, files too.

    Raises:
        UserError: ``folder`` cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry for entry in entries}
        return [folder / name for name in visible_names(sorted(found), hidden) if is_folder(found[name])]
    except OSError as error:
        raise_unreadable_folder(error)


def files_in(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Name to file, of the files in ``folder`` with one of the ``endings``, small or capital, in order.

    Raises:
        UserError: ``folder`` cannot be read.
    """
    try:
        paths = {path.name: path for path in sorted(folder.iterdir()) if path.name.lower().endswith(endings)}
        return {name: paths[name] for name in visible_names(paths) if paths[name].is_file()}
    except OSError as error:
        raise_unreadable_folder(error)


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without blanks around them.

    Raises:
        UserError: it cannot be read or is not UTF-8.
    """
    return [line for line in _every_line(path) if line]


def class_names(path: Path) -> list[str]:
    """The names of classes in a text file, one a line, in the order of their indices; blank lines may end it.

    Raises:
        UserError: it cannot be read or is not UTF-8; a line is blank; a name stands twice.
    """
    found = dict[str, int]()
    for number, name in enumerate("\n".join(_every_line(path)).rstrip().splitlines(), 1):
        if not name:
            raise UserError(
                f"line {number} of {brief(path)} is blank; it holds one name a line, in the order of indices"
            )
        if (first := found.setdefault(name, number)) != number:
            raise UserError(f"{brief(path)} has the name {brief(name)!r} in the lines {first} and {number}")
    return list(found)


def _every_line(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {brief(path)}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None


def folder_of(source: str) -> Path | None:
    """The folder that ``source`` names; None where there is no such folder.

    Raises:
        UserError: a folder above it cannot be read.
    """
    path = expand_home(source)
    try:
        return path if path.is_dir() else None
    except OSError as error:
        raise_unreadable_folder(error)


def missing(source: str, drawn: Sequence[str] = ()) -> UserError:
    """The error on a ``source`` that is no folder, with what may have been meant; ``drawn`` are sources without one."""
    root = expand_home(source)
    if root.exists():
        return UserError(f"{brief(root)} is a file; a folder of images is needed")
    import torchvision

    name = next((n for n in torchvision.datasets.__all__ if n.lower() == root.name.lower()), None)
    if name:
        return UserError(
            f"there is no folder {brief(root)}. {name} is a data set of torchvision: nothing is downloaded or "
            f"unpickled here; {CONVERT}"
        )
    *names, last = [*drawn, "a folder"]
    known = f"{', '.join(names)} or {last}" if names else last
    siblings = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    return UserError(
        f"there is no folder {brief(root)}.{did_you_mean(root.name, [*siblings, *drawn])} data.source is {known}."
    )


CONVERT = (
    "write its images as FOLDER/train/CLASS/NAME.png and FOLDER/test/CLASS/NAME.png, in Python: "
    "for i, (image, label) in enumerate(dataset): image.save(folder / dataset.classes[label] / f'{i}.png')"
)
"""How a packed set becomes a folder."""
