"""Multi-label targets: one 0/1 vector per image."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from saccade.data.labels import TargetSource
from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import SplitFiles
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LabelVectors"]


@final
class LabelVectors(TargetSource):
    """Target source of label vectors, with any number of labels per image.

    Args:
        classes: names of all labels, in the order of the vector.
        labels: Maps image to the names of its labels.
        notes: sentences on the labels.
    """

    def __init__(self, classes: Sequence[str], labels: Mapping[Path, Sequence[str]], notes: Sequence[str]) -> None:
        self.classes, self.problems, self.notes = list(classes), {}, list(notes)
        index_of_name = {name: index for index, name in enumerate(classes)}
        self._indices = {path: sorted(index_of_name[name] for name in names) for path, names in labels.items()}

    def targets(self, files: Sequence[Path], frame: Frame) -> list[Tensor]:
        """Return one vector (K,) per file, float32, with 1 for each label of the file."""
        import torch

        vectors = torch.zeros(len(files), len(self.classes))
        for row, path in enumerate(files):
            vectors[row, self._indices[path]] = 1
        return list(vectors)

    def fingerprint_entry(self, path: Path) -> list[int]:
        """Return the indices of the labels of ``path``."""
        return self._indices[path]

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return the number of ``readable`` images of ``split`` with each label."""
        counts = [0] * len(self.classes)
        for path in split.files:
            for index in self._indices[path] if path in readable else ():
                counts[index] += 1
        return dict(zip(self.classes, counts, strict=True))

    def cell(self, image: Tensor, target: Tensor) -> Cell:
        """Return a cell of ``image`` (C, H, W) with the names of its labels."""
        return Cell(image, brief(", ".join(self.classes[index] for index in target.nonzero()[:, 0].tolist())))
