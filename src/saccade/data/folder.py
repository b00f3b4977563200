"""Folders of images: one folder for each class, every image opened before anything is trained.

Understood are

* ``train/CLASS/…`` beside ``test/CLASS/…`` (``training`` for the first; ``val``, ``valid`` or ``validation`` for the
  second; where a test and a validation part both exist the test part is scored, and the other is not touched);
* ``CLASS/…`` alone, of which ``test_part`` is held back from every class, drawn by ``split_seed``.

Images lie at any depth below their class, with the endings of torchvision's ``ImageFolder``. They are turned as their
EXIF says, made RGB (grey ones too; 16-bit grey keeps its upper byte), resized so that the short side fits, and cut to
the square in the middle. Transparency is dropped. Nothing is unpickled.

A file that is broken, no image or larger than ``files.LARGEST`` is refused by name; ``skip_bad`` leaves such files out
instead. The parts are drawn before, so that the others stay where they are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from zlib import crc32

import torch
import torchvision
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from saccade.data.augment import generator
from saccade.data.files import Files, Notify, check, look
from saccade.data.split import CACHE, ImageSet, Split, colours, digest
from saccade.errors import UserError, did_you_mean
from saccade.recipe import Data

__all__ = ["SIZE", "Selection", "Survey", "open_folder", "select", "survey"]

SIZE = 224
"""Side of the images where neither the recipe nor the images themselves say one."""

_TRAIN = ("train", "training")
_TEST = ("test", "val", "valid", "validation")
_PACKED = (".pkl", ".pickle", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".pt", ".tar", ".gz", ".zip")


@dataclass(frozen=True)
class Survey:
    """What lies in a folder, seen without opening an image.

    Attributes:
        root: the folder.
        parts: name of a part (its folder's; ``""`` where there are only class folders) to class to files.
        others: files among the images that do not end like one, so that nothing reads them: ending to number.
        problems: sentences on what would be refused.
    """

    root: Path
    parts: dict[str, dict[str, list[Path]]]
    others: Counter[str]
    problems: list[str]


def survey(root: Path) -> Survey:
    """The parts, classes and files of a folder.

    Raises:
        UserError: there is no such folder, a folder in it cannot be read, or nothing in it is a folder of images.
    """
    try:
        exists = root.is_dir()
    except OSError as error:  # a folder above it is closed
        _refuse(error)
    if not exists:
        raise UserError(_missing(root))
    folders = {path.name: path for path in _subfolders(root)}
    parts = {
        kind: next((folders[n] for name in names for n in folders if n.lower() == name), None)
        for kind, names in (("train", _TRAIN), ("test", _TEST))
    }
    train, test = parts["train"], parts["test"]
    problems = []
    if train and test:
        every = {path.name: _classes(path) for path in (train, test)}
    elif (only := train or test) and (test or len(folders) > 1):
        wanted = _TEST if train else _TRAIN
        others = [name for name in folders if name != only.name]
        near = next(filter(None, (did_you_mean(name, wanted) for name in others)), "")
        beside = f"; beside it are {', '.join(others[:5])}.{near}" if others else "."
        raise UserError(
            f"{root} has a part {only.name!r} and none called {' or '.join(wanted)}{beside} "
            "Give both parts, or class folders alone."
        )
    else:
        every = {train.name if train else "": _classes(train or root)}
    found = {part: {name: list(filter(_is_image, files)) for name, files in classes.items()}
             for part, classes in every.items()}  # fmt: skip
    unread = Counter(path.suffix.lower() for classes in every.values() for files in classes.values() for path in files
                     if not _is_image(path))  # fmt: skip
    if not any(files for classes in found.values() for files in classes.values()):
        raise UserError(_no_images(root))
    for name, classes in found.items():
        place = root / name
        if len(classes) < 2:
            inside = [path.name for path in _subfolders(place / next(iter(classes)))] if classes else []
            hint = f" Did you mean {place / next(iter(classes))}?" if len(inside) > 1 else ""
            problems.append(f"{place} has {len(classes)} class folder(s), at least 2 are needed.{hint}")
        problems += [f"class {name!r} in {place} is empty" for name, files in classes.items() if not files]
    if len(found) == 2:
        for here, there in (tuple(found), tuple(found)[::-1]):
            for name in found[here].keys() - found[there].keys():
                problems.append(
                    f"class {name!r} is in {root / here} but not in {root / there}.{did_you_mean(name, found[there])}"
                )
    return Survey(root, found, unread, sorted(problems))


@dataclass(frozen=True)
class Selection:
    """The files a recipe takes.

    Attributes:
        classes: their names, sorted.
        train: files of each class, to learn from.
        test: files of each class, to be judged by.
        how: where the line between the two comes from.
    """

    classes: list[str]
    train: list[list[Path]]
    test: list[list[Path]]
    how: str

    def without(self, bad: Container[Path]) -> Selection:
        """The same but for the files ``bad``.

        Raises:
            UserError: nothing is left of a class.
        """
        train, test = ([[p for p in files if p not in bad] for files in part] for part in (self.train, self.test))
        for part, what in ((train, "train on"), (test, "test on")):
            for name, files in zip(self.classes, part, strict=True):
                if not files:
                    raise UserError(f"class {name!r} has no image to {what} that can be read")
        return Selection(self.classes, train, test, self.how)


def select(spec: Data, seen: Survey) -> Selection:
    """What is trained on and what is tested on, of all that was ``seen``.

    Raises:
        UserError: the folder or its classes cannot be used; the message names each.
    """
    if spec.options:
        raise UserError(f"data.options: a folder understands none, got {', '.join(spec.options)}")
    if seen.problems:
        raise UserError(_several(f"{seen.root} cannot be used", seen.problems))
    classes = sorted(next(iter(seen.parts.values())))
    if len(seen.parts) == 2:
        train, test = ([part[name] for name in classes] for part in seen.parts.values())
        how = f"the parts {' and '.join(map(repr, seen.parts))}"
    else:
        (part,) = seen.parts.values()
        train, test = _hold_back({name: part[name] for name in classes}, spec.test_part, spec.split_seed)
        how = f"{spec.test_part:.0%} of each class held back with seed {spec.split_seed}"
    return Selection(
        classes,
        _subset(train, classes, spec.train_images, spec.split_seed, "train_images"),
        _subset(test, classes, spec.test_images, spec.split_seed, "test_images"),
        how,
    )


def open_folder(spec: Data, notify: Notify | None = None) -> Split:
    """Training and test images out of the folder ``spec.source``; see the top of this file.

    Args:
        spec: what to open.
        notify: receives ``{"event": "check", "done": n, "total": N}`` while images are opened.

    Raises:
        UserError: the folder, its classes or an image cannot be used; the message names each.
    """
    root = Path(spec.source).expanduser()
    chosen = select(spec, survey(root))
    paths = [path for files in (*chosen.train, *chosen.test) for path in files]
    size, pictures, bad = _open(paths, spec.size, notify)
    if bad and not spec.skip_bad:
        sentences = [f"{path} {problem}" for path, problem in bad.items()]
        raise UserError(
            _several(f"{len(bad)} of {len(paths)} images cannot be used", sentences)
            + ". Mend them, or leave them out: --skip-bad (data.skip_bad = true)."
        )
    chosen = chosen.without(bad)
    count = sum(map(len, chosen.train))
    train, test = pictures[:count], pictures[count:]
    mean, std = colours(train)
    return Split(
        train=ImageSet(train, _labels(chosen.train), mean, std, spec.augment),
        test=ImageSet(test, _labels(chosen.test), mean, std),
        classes=chosen.classes,
        channels=3,
        size=size,
        mean=mean,
        std=std,
        description=(
            f"folder {root}: {count} training and {len(test)} test images of {len(chosen.classes)} classes, "
            f"{size}×{size} pixels, {chosen.how}{f', {len(bad)} bad files left out' if bad else ''}"
        ),
        fingerprint=digest(
            [part, label, path.relative_to(root).as_posix(), path.stat().st_size]
            for part, classes in (("train", chosen.train), ("test", chosen.test))
            for label, files in enumerate(classes)
            for path in files
        ),
    )


def _open(paths: list[Path], size: int | None, notify: Notify | None) -> tuple[int, Tensor | Files, dict[Path, str]]:
    """The side, the pictures that can be read, in order, and what is wrong with each of the others.

    The pictures are a tensor (N, 3, side, side) where that fits, else their files. Without ``size`` the side is that of
    the images, where all are squares of one size, else 224.
    """
    first = next((seen.size for path in paths if (seen := look(path, SIZE)).pixels is not None), None)
    side = size or (first[0] if first and first[0] == first[1] else SIZE)
    fits = len(paths) * 3 * side * side <= CACHE
    kept = torch.empty(len(paths) if fits else 0, 3, side, side, dtype=torch.uint8)
    good, bad = list[Path](), dict[Path, str]()
    for path, seen in zip(paths, check(paths, side, notify), strict=True):
        if seen.pixels is None:
            bad[path] = seen.problem
            continue
        if size is None and side != SIZE and seen.size != (side, side):
            return _open(paths, SIZE, notify)  # the first did not speak for all
        if fits:
            kept[len(good)] = torch.from_numpy(seen.pixels)
        good.append(path)
    return side, kept[: len(good)] if fits else Files(good, side), bad


def _hold_back(part: dict[str, list[Path]], test_part: float, seed: int) -> tuple[list[list[Path]], list[list[Path]]]:
    """Training and test files of each class; every class keeps at least one on either side.

    Raises:
        UserError: a class has a single image.
    """
    train, test = [], []
    for name, files in part.items():
        if len(files) < 2:
            raise UserError(f"class {name!r} has 1 image; at least one to train on and one to test on are needed")
        count = min(max(1, round(test_part * len(files))), len(files) - 1)
        held_back, kept = _draw(files, count, seed, name, "hold back")
        train.append(kept)
        test.append(held_back)
    return train, test


def _subset(
    part: list[list[Path]], classes: list[str], at_most: int | None, seed: int, option: str
) -> list[list[Path]]:
    """At most so many files, the same number for each class as far as they reach.

    Raises:
        UserError: there are more classes than images are asked for.
    """
    if at_most is None or sum(map(len, part)) <= at_most:
        return part
    if at_most < len(part):
        raise UserError(f"data.{option} = {at_most} is less than one image for each of {len(part)} classes")
    left, shares = at_most, [0] * len(part)
    by_size = sorted(range(len(part)), key=lambda n: (len(part[n]), n))
    for done, n in enumerate(by_size):  # the small classes first: what they lack goes to the others
        shares[n] = min(len(part[n]), left // (len(part) - done))
        left -= shares[n]
    return [
        _draw(files, share, seed, name, option)[0] for files, share, name in zip(part, shares, classes, strict=True)
    ]


def _draw(files: list[Path], count: int, seed: int, name: str, purpose: str) -> tuple[list[Path], list[Path]]:
    """``count`` of the files and the rest, each in the order of names; more holds fewer."""
    order = torch.randperm(len(files), generator=generator(seed, crc32(name.encode()), crc32(purpose.encode())))
    drawn = set(order[:count].tolist())
    return [f for i, f in enumerate(files) if i in drawn], [f for i, f in enumerate(files) if i not in drawn]


def _labels(part: list[list[Path]]) -> list[int]:
    return [label for label, files in enumerate(part) for _ in files]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _classes(part: Path) -> dict[str, list[Path]]:
    """Class to its files, images or not, at any depth below it, in the order of their paths."""
    return {
        folder.name: sorted(
            Path(where, name)
            for where, _, names in os.walk(folder, onerror=_refuse, followlinks=True)
            for name in names
            if not name.startswith(".")
        )
        for folder in _subfolders(part)
    }


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMG_EXTENSIONS)


def _missing(root: Path) -> str:
    """Why ``root`` is no folder, and what may have been meant."""
    if root.exists():
        return f"{root} is a file; a folder with one folder of images for each class is needed"

    name = next((n for n in torchvision.datasets.__all__ if n.lower() == root.name.lower()), None)
    if name:
        return (
            f"there is no folder {root}. {name} is a data set of torchvision: nothing is downloaded or unpickled here; "
            f"{_CONVERT}"
        )
    siblings = [path.name for path in _subfolders(root.parent)] if root.parent.is_dir() else []
    return (
        f"there is no folder {root}.{did_you_mean(root.name, [*siblings, 'digits'])} data.source is digits or a folder."
    )


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
            return f"{root} holds {inside}, a packed set: nothing is unpacked or unpickled here; {_CONVERT}"
    loose = sum(path.suffix.lower() in IMG_EXTENSIONS for path in root.glob("*"))
    found = f"{loose} images lie in it without a class" if loose else f"no image ends in {', '.join(IMG_EXTENSIONS)}"
    return f"{root} has no class folders with images in them: {found}. One folder for each class is needed."


def _several(what: str, sentences: Sequence[str], shown: int = 5) -> str:
    more = f"; and {len(sentences) - shown} more" if len(sentences) > shown else ""
    return f"{what}: {'; '.join(sentences[:shown])}{more}"
