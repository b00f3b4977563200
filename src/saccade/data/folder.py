"""Folders of images: one folder for each class, every image opened before anything is trained.

Understood are

* ``train/CLASS/…`` beside ``test/CLASS/…`` (``training`` for the first; ``val``, ``valid`` or ``validation`` for the
  second; where a test and a validation part both exist the test part is scored, and the other is not touched);
* ``CLASS/…`` alone, of which ``test_part`` is held back from every class, drawn by ``split_seed``.

Images lie at any depth below their class, with the endings of torchvision's ``ImageFolder``. They are turned as their
EXIF says, made RGB (grey ones too), resized so that the short side fits, and cut to the square in the middle.
Transparency is dropped. Nothing is unpickled.

16-bit grey is taken for what it says, numbers from 0 to 65535, and keeps its upper byte. No image is stretched to its
own range, which would make brightness mean something else in each; so values of 12 bits in such a file come out nearly
black, and are to be written times 16 instead. ``saccade data`` names images that come out like that.

What a system or a program leaves in a folder (``@eaDir``, ``$RECYCLE.BIN``, ``Thumbs.db`` and their like, all names
with a dot first) is no data. Class names that differ only in how their accents are stored are one class, named in
composed letters; its files are opened where they lie.

A file that is broken, no image or larger than ``imagefiles.LARGEST`` is refused by name; ``skip_bad`` leaves such files
out instead. The parts are drawn before, so that the others stay where they are. A file that links put into both parts,
or into two classes, is refused by both its names; within a class it is taken once. Copies, files with the same bytes in
both parts or in two classes, are taken and counted in ``Split.cautions``: published sets hold some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from saccade.data.augment import generator
from saccade.data.duplicates import find_duplicates
from saccade.data.files import Files, Notify, check, look
from saccade.data.split import CACHE, ImageSet, Split, colours, digest
from saccade.data.survey import Survey, survey
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import left_out, located
from saccade.recipe import Data

__all__ = ["SIZE", "Selection", "common_side", "open_folder", "select"]

SIZE = 224
"""Side of the images where neither the recipe nor the images themselves say one."""


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

    @property
    def parts(self) -> dict[str, list[list[Path]]]:
        """``train`` and ``test`` by these names."""
        return {"train": self.train, "test": self.test}

    def counts(self, of: Container[Path]) -> dict[str, dict[str, int]]:
        """Part -> class -> how many of the files ``of`` are taken, where there are any."""
        counts = {
            part: Counter(n for n, files in zip(self.classes, classes, strict=True) for path in files if path in of)
            for part, classes in self.parts.items()
        }
        return {part: dict(found) for part, found in counts.items() if found}

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
        raise UserError(_several(f"{brief(seen.root)} cannot be used", seen.problems))
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
    root = located(spec.source)
    chosen = select(spec, survey(root))
    paths = [path for files in (*chosen.train, *chosen.test) for path in files]
    size, pictures, contents, bad = _open(paths, spec.size, notify)
    if bad and not spec.skip_bad:
        sentences = [f"{brief(path)} {problem}" for path, problem in bad.items()]
        raise UserError(
            _several(f"{len(bad)} of {len(paths)} images cannot be used", sentences)
            + ". Mend them, or leave them out: --skip-bad (data.skip_bad = true)."
        )
    gone = chosen.counts(bad)
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
            f"folder {brief(root)}: {count} training and {len(test)} test images of {len(chosen.classes)} classes, "
            f"{size}×{size} pixels, {chosen.how}{f', {left_out(gone)}' if gone else ''}"
        ),
        fingerprint=digest(
            [part, label, path.relative_to(root).as_posix(), contents[path][1]]
            for part, classes in chosen.parts.items()
            for label, files in enumerate(classes)
            for path in files
        ),
        left_out=gone,
        cautions=find_duplicates(chosen.parts, contents).sentences(root),
    )


def _open(
    paths: list[Path], size: int | None, notify: Notify | None
) -> tuple[int, Tensor | Files, dict[Path, tuple[int, int]], dict[Path, str]]:
    """The side, the pictures that can be read, in order, what is in their files, and what is wrong with the others.

    The pictures are a tensor (N, 3, side, side) where that fits, else their files.
    """
    first = next((seen.size for path in paths if (seen := look(path, SIZE)).size is not None), None)
    side = size or common_side({first} if first else ())
    fits = len(paths) * 3 * side * side <= CACHE
    kept = torch.empty(len(paths) if fits else 0, 3, side, side, dtype=torch.uint8)
    good, bad = dict[Path, tuple[int, int]](), dict[Path, str]()
    for path, seen in zip(paths, check(paths, side, notify), strict=True):
        if seen.pixels is None or seen.content is None:
            bad[path] = seen.problem
            continue
        if size is None and side != SIZE and seen.size != (side, side):
            return _open(paths, SIZE, notify)  # the first did not speak for all
        if fits:
            kept[len(good)] = torch.from_numpy(seen.pixels)
        good[path] = seen.content
    return side, kept[: len(good)] if fits else Files(list(good), side), good, bad


def common_side(sizes: Collection[tuple[int, int]]) -> int:
    """Where no recipe says one: the side of images that are all squares of one size, else ``SIZE``."""
    found = list(sizes)
    return found[0][0] if len(found) == 1 and found[0][0] == found[0][1] else SIZE


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
    order = torch.randperm(
        len(files), generator=generator(seed, crc32(name.encode("utf-8", "surrogatepass")), crc32(purpose.encode()))
    )
    drawn = set(order[:count].tolist())
    return [f for i, f in enumerate(files) if i in drawn], [f for i, f in enumerate(files) if i not in drawn]


def _labels(part: list[list[Path]]) -> list[int]:
    return [label for label, files in enumerate(part) for _ in files]


def _several(what: str, sentences: Sequence[str], shown: int = 5) -> str:
    more = f"; and {len(sentences) - shown} more" if len(sentences) > shown else ""
    return f"{what}: {'; '.join(sentences[:shown])}{more}"
