"""A section of the report: its data, its charts, its piece of the page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from saccade.study.arms import BASELINE
from saccade.study.report.charts import Style
from saccade.tasks.base import Task
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["Context", "Section"]


@dataclass(frozen=True)
class Context:
    """What the sections draw from.

    Attributes:
        results: of the study; at least one run is finished.
        styles: arm -> how it is drawn.
        epochs: folder of a finished run, as in ``results.runs`` -> the lines of its metrics.jsonl.
        task: the task with its images; None where they could not be opened again.
        missing: why not; None for judged scores, which have no images.
        trust: what the saved networks may name besides the catalogue.
    """

    results: StudyResults
    styles: Mapping[str, Style]
    epochs: Mapping[str, Sequence[Mapping[str, Any]]]
    task: Task | None
    missing: str | None
    trust: Trust

    @property
    def attends(self) -> bool:
        """Whether the arms are known to differ by their attention alone."""
        return self.results.study is not None and all(
            arm.mechanism != BASELINE and all(key.startswith("attention.") for key in arm.settings)
            for arm in self.results.study.arms[1:]
        )

    @property
    def last_epoch(self) -> int:
        """The last epoch of the longest run; 0 where no epochs are known."""
        study = self.results.study
        asked = [arm.recipe(study.base, 0).training.epochs for arm in study.arms] if study else [0]
        return max(asked + [rows[-1]["epoch"] for rows in self.epochs.values() if rows])

    def by_seed(self, arm: str) -> dict[int, Sequence[Mapping[str, Any]]]:
        """The epochs of the finished runs of ``arm``, by seed."""
        return {run.seed: self.epochs[run.folder] for run in self.results.of(arm) if self.epochs.get(run.folder)}


class Section(ABC):
    """One section. Its file holds one final subclass, and gives it its name.

    Attributes:
        title: its heading, and its entry in the table of contents; "" for the answer above all sections.
        order: sections stand in rising order.
        template: Jinja. It sees what ``content`` returns, and ``named(style)``, an arm's mark and name.
    """

    title: ClassVar[str]
    order: ClassVar[int]
    template: ClassVar[str]

    @abstractmethod
    def content(self, context: Context) -> Mapping[str, Any] | None:
        """What the template asks for; None leaves the section out."""
