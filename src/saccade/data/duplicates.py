"""Files that hold the same bytes, under two names: images that are trained on and tested on, images with two labels."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from saccade.escaping import brief

__all__ = ["Duplicates", "find_duplicates"]


@dataclass(frozen=True)
class Duplicates:
    """What files with the same bytes do to a score.

    Attributes:
        leaked: a training image and the test image with its bytes, one pair for each such test image.
        relabelled: an image and one with its bytes in another class, one pair for each image but the first of its bytes
            that has another label than that.
        tested: number of test images.
    """

    leaked: list[tuple[Path, Path]] = field(default_factory=list)
    relabelled: list[tuple[Path, Path]] = field(default_factory=list)
    tested: int = 0

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {"test_images_trained_on": len(self.leaked), "images_of_two_classes": len(self.relabelled)}

    def sentences(self, root: Path) -> list[str]:
        """One sentence for each kind that was found, with two pairs as examples, named from ``root``."""
        found = []
        if self.leaked:
            found.append(
                f"{len(self.leaked)} of {self.tested} test images are trained on too, byte for byte: "
                f"{_examples(self.leaked, root)}. The score counts what was memorised; remove them from one part."
            )
        if self.relabelled:
            found.append(
                f"{len(self.relabelled)} images have the bytes of an image of another class: "
                f"{_examples(self.relabelled, root)}. At most one label is right."
            )
        return found


class _Member(NamedTuple):
    part: str
    label: int
    path: Path


def find_duplicates(
    parts: Mapping[str, Sequence[Sequence[Path]]], contents: Mapping[Path, tuple[int, int]]
) -> Duplicates:
    """Find files with the same bytes among those of a selection.

    Only files that agree in length and CRC-32 are read again, for a SHA-256: among very many files of one length two
    different ones share a CRC-32 by chance.

    Args:
        parts: ``train`` and ``test`` to the files of each class.
        contents: length in bytes and CRC-32 of each file; a file that is not in it is passed over.
    """
    members = [
        _Member(part, label, path)
        for part, classes in parts.items()
        for label, files in enumerate(classes)
        for path in files
        if path in contents
    ]
    often = Counter(contents[member.path] for member in members)
    leaked, relabelled = [], []
    for group in _same_bytes(member for member in members if often[contents[member.path]] > 1):
        first = group[0]
        trained = next((member for member in group if member.part == "train"), None)
        leaked += [(trained.path, member.path) for member in group if trained and member.part == "test"]
        relabelled += [(first.path, member.path) for member in group if member.label != first.label]
    return Duplicates(leaked, relabelled, sum(member.part == "test" for member in members))


def _same_bytes(members: Iterable[_Member]) -> list[list[_Member]]:
    groups = defaultdict[bytes, list[_Member]](list)
    for member in members:
        try:
            with member.path.open("rb") as file:
                groups[hashlib.file_digest(file, "sha256").digest()].append(member)
        except OSError:  # gone since it was looked at
            continue
    return list(groups.values())


def _examples(pairs: Sequence[tuple[Path, Path]], root: Path) -> str:
    return "; ".join(" and ".join(brief(path.relative_to(root), 120) for path in pair) for pair in pairs[:2])
