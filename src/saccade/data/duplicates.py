"""Find byte-identical files: training images among the test images, and images with two labels."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from saccade.escaping import brief

__all__ = ["Duplicates", "find_duplicates"]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of byte-identical files among the images to train and test on.

    Attributes:
        leaked: (training image, test image) pairs, one per test image of this kind.
        conflicting: (first file, other file) pairs whose labels differ, one per other file.
        n_test: number of test images.
        are_vectors: True if images have several labels, False if one class.
    """

    leaked: list[tuple[Path, Path]] = field(default_factory=list)
    conflicting: list[tuple[Path, Path]] = field(default_factory=list)
    n_test: int = 0
    are_vectors: bool = False

    def counts(self) -> dict[str, int]:
        """Return the number of pairs of each kind."""
        return {"test_images_trained_on": len(self.leaked), "images_of_two_classes": len(self.conflicting)}

    def sentences(self, root: Path) -> list[str]:
        """Return one sentence per kind of pair that occurs, with two examples as paths relative to ``root``."""
        sentences = []
        if self.leaked:
            sentences.append(
                f"{len(self.leaked)} of {self.n_test} test images are trained on too, byte for byte: "
                f"{_examples(self.leaked, root)}. The score counts what was memorised; remove them from one split."
            )
        if self.conflicting:
            of_another = "with other labels" if self.are_vectors else "of another class"
            are_right = "set of labels is" if self.are_vectors else "label is"
            sentences.append(
                f"{len(self.conflicting)} images have the bytes of an image {of_another}: "
                f"{_examples(self.conflicting, root)}. At most one {are_right} right."
            )
        return sentences


class _LabelledFile(NamedTuple):
    split: str
    label: Any
    path: Path


def find_duplicates(
    splits: Mapping[str, Sequence[Sequence[Path]]],
    contents: Mapping[Path, tuple[int, int]],
    labels_of: Callable[[Path], Any] | None = None,
) -> Duplicates:
    """Find byte-identical files in ``splits``.

    Only files of equal length and CRC-32 are read again, for their SHA-256, because CRC-32 values can collide.

    Args:
        splits: Maps ``train`` and ``test`` to the files of each class.
        contents: Maps each file to its length in bytes and its CRC-32; other files are skipped.
        labels_of: returns the labels of a file with several; None if the class is the label.
    """
    files = [
        _LabelledFile(split, label if labels_of is None else labels_of(path), path)
        for split, classes in splits.items()
        for label, paths in enumerate(classes)
        for path in paths
        if path in contents
    ]
    counts = Counter(contents[file.path] for file in files)
    leaked, conflicting = [], []
    for identical_files in _group_by_bytes(file for file in files if counts[contents[file.path]] > 1):
        first = identical_files[0]
        train_file = next((file for file in identical_files if file.split == "train"), None)
        leaked += [(train_file.path, file.path) for file in identical_files if train_file and file.split == "test"]
        conflicting += [(first.path, file.path) for file in identical_files if file.label != first.label]
    return Duplicates(leaked, conflicting, sum(file.split == "test" for file in files), labels_of is not None)


def _group_by_bytes(files: Iterable[_LabelledFile]) -> list[list[_LabelledFile]]:
    groups = defaultdict[bytes, list[_LabelledFile]](list)
    for file in files:
        try:
            with file.path.open("rb") as stream:
                groups[hashlib.file_digest(stream, "sha256").digest()].append(file)
        except OSError:  # removed since it was read
            continue
    return list(groups.values())


def _examples(pairs: Sequence[tuple[Path, Path]], root: Path) -> str:
    return "; ".join(" and ".join(brief(path.relative_to(root), 120) for path in pair) for pair in pairs[:2])
