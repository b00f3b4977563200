"""Images with any number of labels each: a 0/1 vector."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from saccade.data.labels import Labels
from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import Part
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Vectors"]


@final
class Vectors(Labels):
    """The labels of each file.

    Args:
        classes: the names of all labels, in the order of the vector.
        shown: image to the labels that it has.
        notes: sentences on them.
    """

    def __init__(self, classes: Sequence[str], shown: Mapping[Path, Sequence[str]], notes: Sequence[str]) -> None:
        self.classes, self.problems, self.notes = list(classes), {}, list(notes)
        numbers = {name: number for number, name in enumerate(classes)}
        self._numbers = {path: sorted(numbers[name] for name in names) for path, names in shown.items()}

    def targets(self, files: Sequence[Path], frame: Frame) -> list[Tensor]:
        """The vector (K,) of each file, float32, 1 where it has the label."""
        import torch

        found = torch.zeros(len(files), len(self.classes))
        for row, path in enumerate(files):
            found[row, self._numbers[path]] = 1
        return list(found)

    def fact(self, path: Path) -> list[int]:
        """The indices of its labels."""
        return self._numbers[path]

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """Label -> how many ``good`` images have it."""
        counts = [0] * len(self.classes)
        for path in part.files:
            for number in self._numbers[path] if path in good else ():
                counts[number] += 1
        return dict(zip(self.classes, counts, strict=True))

    def cell(self, picture: Tensor, target: Tensor) -> Cell:
        """The picture above the names of its labels."""
        return Cell(picture, brief(", ".join(self.classes[number] for number in target.nonzero()[:, 0].tolist())))
