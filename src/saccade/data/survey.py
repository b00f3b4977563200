"""What lies in a folder of images, seen without opening one."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torchvision

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.imagefiles import ENDINGS, closed, identity, is_hidden, is_image, is_unicode, visible, walk

__all__ = ["Survey", "survey"]

_TRAIN = ("train", "training")
_TEST = ("test", "val", "valid", "validation")
_PACKED = (".pkl", ".pickle", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".pt", ".tar", ".gz", ".zip")


@dataclass(frozen=True)
class Survey:
    """What lies in a folder, seen without opening an image.

    Attributes:
        root: the folder.
        parts: name of a part (its folder's; ``""`` where there are only class folders) to class to files, each of them
            once, however many names it has there. A class is named in composed letters (NFC), however its folders are.
        others: files among the images that do not end like one, so that nothing reads them: ending to number.
        hidden: folders and files that a system or a program keeps among the images, not entered and not read: name to
            number.
        again: further names, within their class, of files in ``parts``: links, for the most part.
        notes: sentences on names that look alike.
        problems: sentences on what would be refused.
    """

    root: Path
    parts: dict[str, dict[str, list[Path]]]
    others: Counter[str]
    hidden: Counter[str]
    again: int
    notes: list[str]
    problems: list[str]


def survey(root: Path) -> Survey:
    """The parts, classes and files of a folder.

    Raises:
        UserError: there is no such folder, a folder in it cannot be read, or nothing in it is a folder of images.
    """
    try:
        exists = root.is_dir()
    except OSError as error:  # a folder above it is closed
        closed(error)
    if not exists:
        raise UserError(_missing(root))
    hidden = Counter[str]()
    folders = {path.name: path for path in _subfolders(root, hidden)}
    parts = {
        kind: next((folders[n] for name in names for n in folders if n.lower() == name), None)
        for kind, names in (("train", _TRAIN), ("test", _TEST))
    }
    train, test = parts["train"], parts["test"]
    if train and test:
        sources = {path.name: _classes(_subfolders(path, hidden)) for path in (train, test)}
    elif (only := train or test) and (test or len(folders) > 1):
        wanted = _TEST if train else _TRAIN
        others = [name for name in folders if name != only.name]
        near = next(filter(None, (did_you_mean(name, wanted) for name in others)), "")
        beside = f"; beside it are {', '.join(map(brief, others[:5]))}.{near}" if others else "."
        raise UserError(
            f"{brief(root)} has a part {only.name!r} and none called {' or '.join(wanted)}{beside} "
            "Give both parts, or class folders alone."
        )
    else:
        sources = {train.name: _classes(_subfolders(train, hidden))} if train else {"": _classes(folders.values())}
    every = {
        part: {name: sorted(path for folder in of for path in walk(folder, hidden)) for name, of in classes.items()}
        for part, classes in sources.items()
    }
    found, again, problems = _once({part: {name: list(filter(is_image, files)) for name, files in classes.items()}
                                    for part, classes in every.items()})  # fmt: skip
    unread = Counter(path.suffix.lower() for classes in every.values() for files in classes.values() for path in files
                     if not is_image(path))  # fmt: skip
    if not any(files for classes in found.values() for files in classes.values()):
        raise UserError(_no_images(root))
    for name, classes in found.items():
        place = brief(root / name)
        if len(classes) < 2:
            only_folder = next((of[0] for of in sources[name].values()), None)
            inside = _subfolders(only_folder) if only_folder else []
            hint = f" Did you mean {brief(only_folder)}?" if len(inside) > 1 else ""
            problems.append(f"{place} has {len(classes)} class folder(s), at least 2 are needed.{hint}")
        problems += [f"class {label!r} in {place} is empty" for label, files in classes.items() if not files]
        problems += [
            f"the class folder {brief(label)} in {place} is not named in UTF-8, as results must be; rename it"
            for label in classes
            if not is_unicode(label)
        ]
    if len(found) == 2:
        for here, there in (tuple(found), tuple(found)[::-1]):
            for name in found[here].keys() - found[there].keys():
                problems.append(
                    f"class {name!r} is in {brief(root / here)} but not in {brief(root / there)}."
                    f"{did_you_mean(name, found[there])}"
                )
    return Survey(root, found, unread, hidden, again, _alike(sources), sorted(problems))


def _subfolders(folder: Path, hidden: Counter[str] | None = None) -> list[Path]:
    """The folders in ``folder``, in order; ``hidden`` counts what is passed over, files too."""
    try:
        paths = {path.name: path for path in sorted(folder.iterdir())}
        return [paths[name] for name in visible(paths, hidden) if paths[name].is_dir()]
    except OSError as error:
        closed(error)


def _classes(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Class to those of the ``folders`` that are its own.

    One and the same name is written in composed letters by Linux and Windows and in decomposed ones by macOS. Folders
    whose names differ by that alone are one class: nobody can see which is which, so nobody meant two.
    """
    classes = defaultdict[str, list[Path]](list)
    for folder in folders:
        classes[unicodedata.normalize("NFC", folder.name)].append(folder)
    return dict(classes)


def _alike(sources: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Notes on folders that are one class, and on classes that may be meant as one."""
    notes = []
    for part, classes in sources.items():
        where = f" in {part}" if part else ""
        notes += [
            f"{len(folders)} folders{where} are the class {name!r}: their names differ in how accents are stored"
            for name, folders in classes.items()
            if len(folders) > 1
        ]
        by_letters = defaultdict[str, list[str]](list)
        for name in classes:
            by_letters[name.casefold()].append(name)
        notes += [
            f"the classes {' and '.join(map(repr, names))}{where} differ in capital letters only and are kept apart"
            for names in by_letters.values()
            if len(names) > 1
        ]
    return notes


def _once(found: dict[str, dict[str, list[Path]]]) -> tuple[dict[str, dict[str, list[Path]]], int, list[str]]:
    """Each file of a class under its first name, how many other names were dropped, and what else is wrong with names.

    A file that has names in both parts or in two classes, by links or as one folder reached by two ways, would be
    judged by what was learnt from it, or be right and wrong at once.
    """
    first: dict[object, tuple[str, str, Path]] = {}
    kept: dict[str, dict[str, list[Path]]] = {part: {label: [] for label in classes} for part, classes in found.items()}
    again, parts, labels = 0, [], []
    for part, classes in found.items():
        for label, files in classes.items():
            for path in files:
                before = first.setdefault(identity(path), (part, label, path))
                if before[2] is path:
                    kept[part][label].append(path)
                elif before[0] != part:
                    parts.append((before[2], path))
                elif before[1] != label:
                    labels.append((before[2], path))
                else:
                    again += 1
    problems = [
        f"{brief(one)} and {brief(other)} are one file in {where}"
        + (f", as are {len(pairs) - 1} other pairs" if pairs[1:] else "")
        for pairs, where in ((parts, "both parts"), (labels, "two classes"))
        for one, other in pairs[:1]
    ]
    return kept, again, problems


def _missing(root: Path) -> str:
    """Why ``root`` is no folder, and what may have been meant."""
    if root.exists():
        return f"{brief(root)} is a file; a folder with one folder of images for each class is needed"

    name = next((n for n in torchvision.datasets.__all__ if n.lower() == root.name.lower()), None)
    if name:
        return (
            f"there is no folder {brief(root)}. {name} is a data set of torchvision: nothing is downloaded or "
            f"unpickled here; {_CONVERT}"
        )
    siblings = [path.name for path in _subfolders(root.parent)] if root.parent.is_dir() else []
    near = did_you_mean(root.name, [*siblings, "digits"])
    return f"there is no folder {brief(root)}.{near} data.source is digits or a folder."


_CONVERT = (
    "write its images as FOLDER/train/CLASS/NAME.png and FOLDER/test/CLASS/NAME.png, in Python: "
    "for i, (image, label) in enumerate(dataset): image.save(folder / dataset.classes[label] / f'{i}.png')"
)


def _no_images(root: Path) -> str:
    """Why ``root`` holds nothing to learn from, and what to do about it."""
    for path in sorted(root.glob("*")) + sorted(root.glob("*/*")):
        packed = path.suffix.lower() in _PACKED or path.name.endswith("-ubyte")
        if path.is_file() and (packed or path.name.startswith(("data_batch", "test_batch", "batches.meta"))):
            inside = path.relative_to(root)
            return (
                f"{brief(root)} holds {brief(inside)}, a packed set: nothing is unpacked or unpickled here; {_CONVERT}"
            )
    loose = sum(is_image(path) and not is_hidden(path.name) for path in root.glob("*"))
    found = f"{loose} images lie in it without a class" if loose else f"no image ends in {', '.join(ENDINGS)}"
    return f"{brief(root)} has no class folders with images in them: {found}. One folder for each class is needed."
