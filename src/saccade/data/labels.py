"""What the files of a folder are labelled with: a class, a mask, or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.data.resizing import Frame
from saccade.data.sheet import Cell
from saccade.data.survey import Part, Survey
from saccade.escaping import brief

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.data.samples import Target, Targets

__all__ = ["Classes", "Labels", "Unlabelled"]


class Labels(ABC):
    """The targets of files.

    Attributes:
        classes: their names; empty where files have no class.
        problems: files whose target cannot be used, and why, as the rest of a sentence that begins with their name.
        notes: sentences on the targets.
    """

    classes: list[str]
    problems: dict[Path, str]
    notes: list[str]

    @abstractmethod
    def targets(self, files: Sequence[Path], frame: Frame) -> Targets:
        """The targets of ``files``, in the ``frame`` their images are shown in."""

    @abstractmethod
    def fact(self, path: Path) -> Any:
        """What a fingerprint knows of a file's target, as JSON can write it."""

    @abstractmethod
    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """Class -> how many of the ``good`` images of a part show it."""

    @abstractmethod
    def cell(self, picture: Tensor, target: Target) -> Cell:
        """A picture with its target, for a contact sheet."""


class Classes(Labels):
    """The class of each file of a survey."""

    def __init__(self, seen: Survey) -> None:
        self.classes, self.problems, self.notes = seen.classes, {}, []
        numbers = {name: number for number, name in enumerate(seen.classes)}
        self._label = {
            path: numbers.get(name, -1)
            for part in seen.parts.values()
            for name, files in part.classes.items()
            for path in files
        }

    def targets(self, files: Sequence[Path], frame: Frame) -> list[int]:
        """The index of each file's class."""
        return [self._label[path] for path in files]

    def fact(self, path: Path) -> int:
        """The index of its class."""
        return self._label[path]

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """Class -> how many ``good`` images it has."""
        return {name: sum(path in good for path in files) for name, files in sorted(part.classes.items())}

    def cell(self, picture: Tensor, target: int) -> Cell:
        """The picture above the name of its class."""
        return Cell(picture, brief(self.classes[target]))


class Unlabelled(Labels):
    """No targets."""

    def __init__(self) -> None:
        self.classes, self.problems, self.notes = [], {}, []

    def targets(self, files: Sequence[Path], frame: Frame) -> list[None]:
        """None for each."""
        return [None] * len(files)

    def fact(self, path: Path) -> None:
        """None."""

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """No classes."""
        return {}

    def cell(self, picture: Tensor, target: None) -> Cell:
        """The picture alone."""
        return Cell(picture, "")
