"""What a source holds and what of it would be refused, as plain facts for a page or a script."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from saccade.data.augment import check_names
from saccade.data.digits import CLASSES, open_digits, source_digits
from saccade.data.files import Notify, check
from saccade.data.folder import SIZE, select, survey
from saccade.errors import UserError
from saccade.recipe import Data

__all__ = ["describe"]


def describe(spec: Data, notify: Notify | None = None) -> dict[str, Any]:
    """The facts of a source, every image of a folder opened.

    Returns:
        ``source``; ``parts``, a list of {"name", "classes": {class: images}}; ``sizes``, a list of {"size": [width,
        height], "images"}, the most frequent first; ``used``, {"train", "test"} images the recipe takes, None where it
        would be refused; ``side`` and ``channels`` of what a network sees; ``notes``, ``left_out`` and ``refused``,
        sentences.

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
        "notes": [
            f"targets come from {len(source_digits('train'))} handwritten digits for training and "
            f"{len(source_digits('test'))} others for testing",
        ],
        "left_out": [],
        "refused": [],
    }


def _folder(spec: Data, notify: Notify | None) -> dict[str, Any]:
    seen = survey(Path(spec.source).expanduser())
    paths = [path for part in seen.parts.values() for files in part.values() for path in files]
    sizes: Counter[tuple[int, int]] = Counter()
    bad: dict[Path, str] = {}
    for path, look in zip(paths, check(paths, 8, notify), strict=True):
        if look.pixels is None:
            bad[path] = f"{path} {look.problem}"
        elif look.size is not None:
            sizes[look.size] += 1
    refused = [*seen.problems, *(() if spec.skip_bad else bad.values())]
    used, notes = None, []
    if seen.others:
        endings = ", ".join(f"{ending or 'no ending'} ({n})" for ending, n in seen.others.most_common(5))
        notes.append(f"{seen.others.total()} files do not end like an image and are not read: {endings}")
    if not seen.problems:
        try:
            chosen = select(spec, seen).without(bad if spec.skip_bad else ())
        except UserError as error:
            refused.append(str(error))
        else:
            used = {"train": sum(map(len, chosen.train)), "test": sum(map(len, chosen.test))}
            notes.insert(0, chosen.how)
    (width, height), *others = sizes or [(0, 1)]
    return {
        "source": spec.source,
        "parts": [
            {"name": name, "classes": {label: len(files) for label, files in sorted(part.items())}}
            for name, part in seen.parts.items()
        ],
        "sizes": [{"size": list(size), "images": images} for size, images in sizes.most_common()],
        "used": used if not refused else None,
        "side": spec.size or (width if width == height and not others else SIZE),
        "channels": 3,
        "notes": notes,
        "left_out": list(bad.values()) if spec.skip_bad else [],
        "refused": refused,
    }
