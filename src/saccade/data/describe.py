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
        would be refused; ``side`` and ``channels`` of what a network sees; ``notes`` and ``refused``, sentences.

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
        "refused": [],
    }


def _folder(spec: Data, notify: Notify | None) -> dict[str, Any]:
    seen = survey(Path(spec.source).expanduser())
    paths = [path for part in seen.parts.values() for files in part.values() for path in files]
    sizes: Counter[tuple[int, int]] = Counter()
    refused = list(seen.problems)
    for path, look in zip(paths, check(paths, 8, notify), strict=True):
        if look.size is not None:
            sizes[look.size] += 1
        if look.pixels is None:
            refused.append(f"{path} {look.problem}")
    used, notes = None, []
    if not seen.problems:
        try:
            chosen = select(spec, seen)
        except UserError as error:
            refused.append(str(error))
        else:
            used = {"train": sum(map(len, chosen.train)), "test": sum(map(len, chosen.test))}
            notes.append(chosen.how)
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
        "refused": refused,
    }
