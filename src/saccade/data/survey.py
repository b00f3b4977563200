"""Survey of an image folder, made without opening an image."""

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
    "EXPORT_HINT",
    "SPLIT_NAMES",
    "SplitFiles",
    "Survey",
    "assign_splits",
    "files_in",
    "find_folder",
    "keep_images",
    "make_survey",
    "no_source_error",
    "read_class_names",
    "read_header",
    "read_lines",
    "subfolders",
]

SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
"""Maps split to the lower-case names that sources use for it."""


def assign_splits(names: Iterable[str]) -> dict[str, str]:
    """Map each split to its name among ``names``; without a test split, ``test`` maps to a validation split."""
    by_lower = {name.lower(): name for name in names}
    splits = {
        split: next((by_lower[word] for word in words if word in by_lower), "") for split, words in SPLIT_NAMES.items()
    }
    if not splits["test"]:
        splits |= {"test": splits["val"], "val": ""}
    return {split: name for split, name in splits.items() if name}


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split.

    Attributes:
        name: name of the split's folder or list; empty without splits.
        classes: Maps class name to files; a single class "" if there are no classes.
    """

    name: str
    classes: dict[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        """Files of all classes."""
        return [path for files in self.classes.values() for path in files]


@dataclass(frozen=True)
class Survey:
    """Contents of an image folder, found without opening an image.

    Attributes:
        root: the folder.
        classes: class names, in the order of their indices.
        splits: Maps ``train``, ``test`` and ``val``, if present, to files.
        other_files: Maps extension to the number of ignored files.
        hidden: Maps the name of a hidden file or folder to the number skipped.
        n_links: number of skipped links and repeated paths.
        notes: sentences for the user.
        problems: faults for which the folder is refused.
        masks: Maps image to mask file.
        definition_files: files that define splits, labels or class names.
        unused: clauses on unused splits.
        missing: Maps a listed but missing path to a message, a predicate of the path.
        groups: Maps every image to its group (patient, scene), if any.
        options: ``data.options`` of the recipe.
        by: column that scores are divided by, and its value for each image, if any.
    """

    root: Path
    classes: list[str]
    splits: dict[str, SplitFiles]
    other_files: Counter[str]
    hidden: Counter[str]
    n_links: int
    notes: list[str]
    problems: list[str]
    masks: dict[Path, Path] = field(default_factory=dict)
    definition_files: list[Path] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: dict[Path, str] = field(default_factory=dict)
    groups: dict[Path, str] = field(default_factory=dict)
    options: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    by: tuple[str, dict[Path, str]] | None = None

    @property
    def files(self) -> list[Path]:
        """Images of all splits."""
        return [path for split in self.splits.values() for path in split.files]

    def describe_splits(self) -> str:
        """Return a clause that names the splits."""
        *names, last = [repr(split.name) for split in self.splits.values()]
        test = self.splits["test"].name
        explanation = "" if "test" in test.lower() else f", {test!r} is the test part"
        return f"the parts {', '.join(names)} and {last}{explanation}"


def keep_images(splits: dict[str, SplitFiles]) -> tuple[dict[str, SplitFiles], Counter[str]]:
    """Return ``splits`` with image files only, and the number of other files by extension."""
    images = {
        split: SplitFiles(
            split_files.name, {name: list(filter(is_image, files)) for name, files in split_files.classes.items()}
        )
        for split, split_files in splits.items()
    }
    others = (path for split_files in splits.values() for path in split_files.files if not is_image(path))
    return images, Counter(path.suffix.lower() for path in others)


def make_survey(
    root: Path,
    splits: dict[str, SplitFiles],
    other_files: Counter[str] | None = None,
    hidden: Counter[str] | None = None,
    notes: Sequence[str] = (),
) -> Survey:
    """Return a survey of ``splits`` without links; faults of the classes are listed in ``problems``.

    See :class:`Survey`.
    """
    unique, n_links, problems = _drop_links(splits)
    classes, notes = sorted(unique["train"].classes), list(notes)
    if classes != [""]:
        problems += _class_problems(root, unique)
        val = unique.get("val")
        nonempty_val = val and SplitFiles(val.name, {name: files for name, files in val.classes.items() if files})
        mismatches = _class_mismatches(root, unique["train"], nonempty_val)
        notes += [f"{sentence} Validation scores would ignore this class." for sentence in mismatches]
    return Survey(
        root, classes, unique, other_files or Counter(), hidden or Counter(), n_links, notes, sorted(problems)
    )


def _class_problems(root: Path, splits: dict[str, SplitFiles]) -> list[str]:
    problems = []
    for split, split_files in splits.items():
        folder = brief(root / split_files.name)
        if split != "val":
            if len(split_files.classes) < 2:
                problems.append(f"{folder} has {len(split_files.classes)} class(es); at least 2 are needed")
            empty = (name for name, files in split_files.classes.items() if not files)
            problems += [f"class {name!r} in {folder} is empty" for name in empty]
        problems += [
            f"the class {brief(name)} in {folder} has a name that is not valid UTF-8; rename it"
            for name in split_files.classes
            if not is_unicode(name)
        ]
    return problems + _class_mismatches(root, splits["train"], splits.get("test"))


def _class_mismatches(root: Path, train: SplitFiles, other: SplitFiles | None) -> list[str]:
    """Return one sentence per class that only one of the two splits has."""
    if not other:
        return []
    return [
        f"class {name!r} is in {brief(root / has_class.name)} but not in {brief(root / lacks_class.name)}."
        f"{did_you_mean(name, lacks_class.classes)}"
        for has_class, lacks_class in ((train, other), (other, train))
        for name in sorted(has_class.classes.keys() - lacks_class.classes.keys())
    ]


def _drop_links(splits: dict[str, SplitFiles]) -> tuple[dict[str, SplitFiles], int, list[str]]:
    """Return ``splits`` without repeated files, their number, and problems: files in two splits or two classes."""
    first_use: dict[object, tuple[str, str, Path]] = {}
    unique = {
        split: SplitFiles(split_files.name, {label: [] for label in split_files.classes})
        for split, split_files in splits.items()
    }
    n_links, across_splits, across_classes = 0, [], []
    for split, split_files in splits.items():
        for label, files in split_files.classes.items():
            for path in files:
                key = file_id(path)
                if key not in first_use:
                    first_use[key] = split, label, path
                    unique[split].classes[label].append(path)
                    continue
                first_split, first_label, first_path = first_use[key]
                if first_split != split:
                    across_splits.append((first_path, path))
                elif first_label != label:
                    across_classes.append((first_path, path))
                else:
                    n_links += 1
    problems = [
        f"{brief(pairs[0][0])} and {brief(pairs[0][1])} are the same file in {places}"
        + (f", as are {len(pairs) - 1} other pairs" if pairs[1:] else "")
        for pairs, places in ((across_splits, "two splits"), (across_classes, "two classes"))
        if pairs
    ]
    return unique, n_links, problems


def subfolders(folder: Path, hidden: Counter[str] | None = None) -> list[Path]:
    """Return the folders in ``folder``, sorted; ``hidden`` counts skipped entries.

    Raises:
        UserError: ``folder`` cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            entries = {entry.name: entry for entry in scan}
        return [folder / name for name in visible_names(sorted(entries), hidden) if is_folder(entries[name])]
    except OSError as error:
        raise_unreadable_folder(error)


def files_in(folder: Path, extensions: tuple[str, ...]) -> dict[str, Path]:
    """Map name to path, sorted, for the files in ``folder`` with one of ``extensions``, in any case.

    Raises:
        UserError: ``folder`` cannot be read.
    """
    try:
        paths = {path.name: path for path in sorted(folder.iterdir()) if path.name.lower().endswith(extensions)}
        return {name: paths[name] for name in visible_names(paths) if paths[name].is_file()}
    except OSError as error:
        raise_unreadable_folder(error)


def read_header(path: Path, n_bytes: int) -> bytes:
    """Return the first ``n_bytes`` bytes of a file; b"" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return b""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, without surrounding whitespace.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    return [line for line in _read_all_lines(path) if line]


def read_class_names(path: Path) -> list[str]:
    """Return the class names in a text file, one per line.

    Raises:
        UserError: the file cannot be read or is not UTF-8, a line is blank, or a name is repeated.
    """
    names = dict[str, int]()
    for number, name in enumerate("\n".join(_read_all_lines(path)).rstrip().splitlines(), 1):
        if not name:
            raise UserError(
                f"line {number} of {brief(path)} is blank; one class name per line is needed, in index order"
            )
        if (first := names.setdefault(name, number)) != number:
            raise UserError(f"{brief(path)} has the name {brief(name)!r} in the lines {first} and {number}")
    return list(names)


def _read_all_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {brief(path)}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None


def find_folder(source: str) -> Path | None:
    """Return the folder that ``source`` names; None if it does not exist.

    Raises:
        UserError: a parent folder cannot be read.
    """
    path = expand_home(source)
    try:
        return path if path.is_dir() else None
    except OSError as error:
        raise_unreadable_folder(error)


def no_source_error(source: str, generated_sources: Sequence[str] = ()) -> UserError:
    """Return the error for a missing ``source``; ``generated_sources`` need no folder."""
    root = expand_home(source)
    if root.exists():
        return UserError(f"{brief(root)} is a file; a folder of images is needed")
    import torchvision

    name = next((n for n in torchvision.datasets.__all__ if n.lower() == root.name.lower()), None)
    if name:
        return UserError(
            f"there is no folder {brief(root)}. {name} is a data set of torchvision: Saccade does not download "
            f"data sets; {EXPORT_HINT}"
        )
    *names, last = [*generated_sources, "a folder"]
    known = f"{', '.join(names)} or {last}" if names else last
    siblings = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    return UserError(
        f"there is no folder {brief(root)}.{did_you_mean(root.name, [*siblings, *generated_sources])} "
        f"data.source must be {known}."
    )


EXPORT_HINT = (
    "write its images as FOLDER/train/CLASS/NAME.png and FOLDER/test/CLASS/NAME.png, in Python: "
    "for i, (image, label) in enumerate(dataset): image.save(folder / dataset.classes[label] / f'{i}.png')"
)
"""Advice on exporting a torchvision data set to a folder."""
