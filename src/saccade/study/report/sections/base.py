"""Abstract class of a report section, and the data that sections read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from saccade.study.arms import BASELINE
from saccade.study.report.charts import ArmStyle
from saccade.tasks.base import Task
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.gate_costs import ArmGates
    from saccade.study.results import StudyResults

__all__ = ["ReportContext", "Section"]


@dataclass(frozen=True)
class ReportContext:
    """Data that all sections read.

    Attributes:
        results: results of a study or of given scores; at least one run is finished.
        styles: maps an arm's name to its style.
        rows_by_run: maps the folder of a finished run, as in ``results.runs``, to the rows of its metrics.jsonl.
        task: the task with its images; None if they could not be opened again.
        open_error: reason why the images could not be opened; None if they were opened, and for given scores.
        trust: True, or names such as ``my.module:Class`` that saved networks may import.
        gates: costs of constant gates, by arm; empty without gates or images.
        gates_error: reason why they could not be measured.
    """

    results: StudyResults
    styles: Mapping[str, ArmStyle]
    rows_by_run: Mapping[str, Sequence[Mapping[str, Any]]]
    task: Task | None
    open_error: str | None
    trust: Trust
    gates: tuple[ArmGates, ...] = ()
    gates_error: str | None = None

    @property
    def compares_attention_only(self) -> bool:
        """True if the arms of a study differ only in their attention."""
        return self.results.study is not None and all(
            arm.mechanism != BASELINE and all(key.startswith("attention.") for key in arm.settings)
            for arm in self.results.study.arms[1:]
        )

    @property
    def last_epoch(self) -> int:
        """Largest epoch planned or recorded; 0 if none is known."""
        study = self.results.study
        planned = [arm.recipe(study.base, 0).training.epochs for arm in study.arms] if study else [0]
        return max(planned + [rows[-1]["epoch"] for rows in self.rows_by_run.values() if rows])

    def epochs_by_seed(self, arm: str) -> dict[int, Sequence[Mapping[str, Any]]]:
        """Return the metrics.jsonl rows of each finished run of ``arm``, by seed."""
        runs = self.results.of(arm)
        return {run.seed: self.rows_by_run[run.folder] for run in runs if self.rows_by_run.get(run.folder)}


class Section(ABC):
    """One section of the report. A module with the section's name defines one final subclass.

    Attributes:
        title: heading, also listed in the table of contents; "" for the verdicts, which come first.
        order: position on the page; sections are sorted by it.
        template: Jinja template, rendered with the mapping that ``content`` returns and the function
            ``arm_label(style)``, which returns marker and name of an arm.
    """

    title: ClassVar[str]
    order: ClassVar[int]
    template: ClassVar[str]

    @abstractmethod
    def content(self, context: ReportContext) -> Mapping[str, Any] | None:
        """Return the variables of the template; None leaves the section out."""
