"""Interface of target sources; sources for class labels and for images without targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import SplitFiles, Survey
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.data.samples import Target, Targets

__all__ = ["ClassLabels", "NoTargets", "TargetSource"]


class TargetSource(ABC):
    """Source of the targets of image files.

    Attributes:
        classes: class names; empty if the targets have no classes.
        problems: Maps a file with an unusable target to a message, which is a predicate of the file.
        notes: sentences on the targets.
    """

    classes: list[str]
    problems: dict[Path, str]
    notes: list[str]

    @abstractmethod
    def targets(self, files: Sequence[Path], frame: Frame) -> Targets:
        """Return the targets of ``files``, transformed to ``frame`` like their images."""

    def cautions(self, files: Sequence[Path], frame: Frame) -> list[str]:
        """Return sentences on targets of the test images ``files`` that ``frame`` changes."""
        return []

    @abstractmethod
    def fingerprint_entry(self, path: Path) -> Any:
        """Return a JSON-serialisable summary of a target for the fingerprint."""

    @abstractmethod
    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return the number of ``readable`` images of ``split`` with each class."""

    @abstractmethod
    def cell(self, image: Tensor, target: Target) -> Cell:
        """Return a contact-sheet cell of ``image`` (C, H, W) with its target."""


class ClassLabels(TargetSource):
    """Target source of class indices, one per file of a survey."""

    def __init__(self, survey: Survey) -> None:
        self.classes, self.problems, self.notes = survey.classes, {}, []
        indices = {name: index for index, name in enumerate(survey.classes)}
        self._labels = {
            path: indices.get(name, -1)
            for split in survey.splits.values()
            for name, files in split.classes.items()
            for path in files
        }

    def targets(self, files: Sequence[Path], frame: Frame) -> list[int]:
        """Return the class index of each file."""
        return [self._labels[path] for path in files]

    def fingerprint_entry(self, path: Path) -> int:
        """Return the class index of ``path``."""
        return self._labels[path]

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return the number of ``readable`` images of each class."""
        return {name: sum(path in readable for path in files) for name, files in sorted(split.classes.items())}

    def cell(self, image: Tensor, target: int) -> Cell:
        """Return a cell of ``image`` (C, H, W) with its class name."""
        return Cell(image, brief(self.classes[target]))


class NoTargets(TargetSource):
    """Target source for images without targets."""

    def __init__(self) -> None:
        self.classes, self.problems, self.notes = [], {}, []

    def targets(self, files: Sequence[Path], frame: Frame) -> list[None]:
        """Return one None per file."""
        return [None] * len(files)

    def fingerprint_entry(self, path: Path) -> None:
        """Return None."""

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return an empty dict."""
        return {}

    def cell(self, image: Tensor, target: None) -> Cell:
        """Return a cell of ``image`` (C, H, W) without a caption."""
        return Cell(image, "")
