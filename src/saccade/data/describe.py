"""What a source holds and what of it would be refused, as plain facts for a page or a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.augment import check_names
from saccade.data.digits import CLASSES, open_digits, source_digits
from saccade.data.duplicates import Duplicates, find_duplicates
from saccade.data.files import Notify, check
from saccade.data.folder import common_side, select
from saccade.data.survey import survey
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import UnreadableError, located, opened
from saccade.recipe import Data

__all__ = ["describe"]

_LOOK = 64
"""Side at which images are looked at."""
_FLAT = 16
"""Levels of 256: a picture that uses fewer in every channel is as good as of one colour. Values of 12 bits in a file
that says 16 come out as 0 to 15."""


def describe(spec: Data, notify: Notify | None = None) -> dict[str, Any]:
    """The facts of a source, every image of a folder opened.

    What is said of sizes, of the side, and of files that are left out or refused is said of what the recipe takes
    (``train_images``, ``test_images``); bad files beside that are a note.

    Returns:
        ``source``; ``parts``, a list of {"name", "classes": {class: images that can be read}}; ``sizes``, a list of
        {"size": [width, height], "images"}, the most frequent first; ``used``, {"train", "test"} images the recipe
        takes, None where it would be refused; ``side`` and ``channels`` of what a network sees; ``same_bytes``,
        {"test_images_trained_on", "images_of_two_classes"} of these, by their bytes; ``notes``, ``left_out`` and
        ``refused``, sentences.

    Raises:
        UserError: there is no such source, or nothing in it can be described.
    """
    check_names(spec.augment)
    return _digits(spec) if spec.source == "digits" else _folder(spec, notify)


def _digits(spec: Data) -> dict[str, Any]:
    split = open_digits(spec)
    sets = {"train": split.train, "test": split.test}
    return {
        "source": "digits",
        "parts": [
            {"name": name, "classes": {CLASSES[k]: n for k, n in sorted(Counter(images.labels).items())}}
            for name, images in sets.items()
        ],
        "sizes": [{"size": [split.size, split.size], "images": len(split.train) + len(split.test)}],
        "used": {name: len(images) for name, images in sets.items()},
        "side": split.size,
        "channels": split.channels,
        "same_bytes": _numbers(Duplicates()),
        "notes": [
            f"targets come from {len(source_digits('train'))} handwritten digits for training and "
            f"{len(source_digits('test'))} others for testing",
        ],
        "left_out": [],
        "refused": [],
    }


def _folder(spec: Data, notify: Notify | None) -> dict[str, Any]:
    seen = survey(located(spec.source))
    paths = [path for part in seen.parts.values() for files in part.values() for path in files]
    good: dict[Path, tuple[int, int]] = {}
    contents: dict[Path, tuple[int, int]] = {}
    bad: dict[Path, str] = {}
    flat: list[Path] = []
    for path, look in zip(paths, check(paths, _LOOK, notify), strict=True):
        if look.pixels is None or look.size is None or look.content is None:
            bad[path] = f"{brief(path)} {look.problem}"
            continue
        good[path] = look.size
        contents[path] = look.content
        if np.ptp(look.pixels, axis=(1, 2)).max() < _FLAT:
            flat.append(path)
    refused, notes = list(seen.problems), list(seen.notes)
    taken, used, twice = set(paths), None, Duplicates()
    if not seen.problems:
        try:
            chosen = select(spec, seen)
            taken = {path for part in chosen.parts.values() for files in part for path in files}
            twice = find_duplicates(chosen.parts, contents)
            rest = chosen.without(bad if spec.skip_bad else ())
        except UserError as error:
            refused.append(str(error))
        else:
            used = {part: sum(map(len, classes)) for part, classes in rest.parts.items()}
            notes.append(chosen.how)
    notes += twice.sentences(seen.root)
    met = [sentence for path, sentence in bad.items() if path in taken]
    if not spec.skip_bad:
        refused += met
    if beside := [sentence for path, sentence in bad.items() if path not in taken]:
        notes.append(f"{len(beside)} bad files are not among the images that are taken: {_listed(beside)}")
    if seen.hidden:
        notes.append(
            f"passed over {seen.hidden.total()} of what systems and programs leave or what begins with a dot: "
            f"{_counted(seen.hidden)}"
        )
    if seen.others:
        notes.append(f"{seen.others.total()} files do not end like an image and are not read: {_counted(seen.others)}")
    if seen.again:
        notes.append(f"{seen.again} files are links to others of their class, which are taken once")
    if flat := [path for path in flat if path in taken]:
        notes.append(_of_one_colour(flat, sum(path in taken for path in good)))
    sizes = Counter(size for path, size in good.items() if path in taken)
    return {
        "source": spec.source,
        "parts": [
            {
                "name": name,
                "classes": {label: sum(path in good for path in files) for label, files in sorted(part.items())},
            }
            for name, part in seen.parts.items()
        ],
        "sizes": [{"size": list(size), "images": images} for size, images in sizes.most_common()],
        "used": used if not refused else None,
        "side": spec.size or common_side(sizes),
        "channels": 3,
        "same_bytes": _numbers(twice),
        "notes": notes,
        "left_out": met if spec.skip_bad else [],
        "refused": refused,
    }


def _numbers(twice: Duplicates) -> dict[str, int]:
    return {"test_images_trained_on": len(twice.leaked), "images_of_two_classes": len(twice.relabelled)}


def _of_one_colour(flat: list[Path], of: int) -> str:
    """A note on pictures that show nothing, and why 16-bit grey may."""
    note = f"{len(flat)} of {of} images are of one colour or nearly so: {_listed(flat)}"
    deep = sum(map(_is_deep, flat))
    return note + (
        f". {deep} of them hold 16-bit grey, of which the upper byte is kept: were their values of fewer bits, write "
        "the files anew with values that reach 65535"
        if deep
        else ""
    )


def _is_deep(path: Path) -> bool:
    try:
        with opened(path) as image:
            return image.mode.startswith("I")
    except UnreadableError:  # gone meanwhile
        return False


def _counted(names: Counter[str], shown: int = 5) -> str:
    return _listed([f"{name or 'no ending'} ({n})" for name, n in names.most_common()], shown)


def _listed(things: Sequence[object], shown: int = 3) -> str:
    return ", ".join(map(brief, things[:shown])) + (f" and {len(things) - shown} more" if len(things) > shown else "")
