"""The answer of a study as data, and how it shows itself.

It may be of runs that saccade trained (``collecting``) or of scores that another trainer made (``judging``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saccade.controls import CONTROLS
from saccade.errors import UserError
from saccade.metrics.metric import Metric
from saccade.study.arms import Arm
from saccade.study.costs import ArmCost
from saccade.study.findings import Analysis, Difference, Interval
from saccade.study.plan import Study
from saccade.study.run_notes import Note, RunResult
from saccade.study.tuning import Tuned
from saccade.trust import Trust

__all__ = ["ArmResult", "OtherMetric", "StudyResults"]


@dataclass(frozen=True)
class ArmResult:
    """One arm over all seeds.

    Attributes:
        arm: what it is; of judged scores its name, and whether it is a control.
        shares_host: whether its runs start from the host weights of the baseline; None where that is unknown.
        scores: one per seed, by the metric of the verdicts; None where a run has none.
        mean: of the scores.
        sd: of the scores, over seeds; None below two.
        parameters: of the network; None where they are unknown.
        cost: None where it is not measured.
    """

    arm: Arm
    shares_host: bool | None
    scores: tuple[float | None, ...]
    mean: float | None
    sd: float | None
    parameters: int | None
    cost: ArmCost | None


@dataclass(frozen=True)
class OtherMetric:
    """A metric that is reported beside that of the verdicts."""

    metric: Metric
    scores: Mapping[str, list[float | None]]
    """Arm -> one score per seed."""
    differences: tuple[Interval, ...]


@dataclass(frozen=True, repr=False, kw_only=True)
class StudyResults:
    """The answer of a study.

    It shows itself: ``print`` gives the verdicts, a notebook a page, ``table()`` Markdown, ``report()`` the report.

    Attributes:
        name: that of the study's folder, or of the file of scores.
        study: the plan behind the runs; None for scores that another trainer made.
        origin: what is known of such scores, term -> words; {} for a study.
        baseline: the arm that all others are compared with; the first of ``arms``.
        seeds: in the order of the scores.
        margin: half-width of "equal", in the metric's unit.
        task: its name; None where it is unknown.
        metric: that of the verdicts.
        trivial: the answer that needs no image, in words, and its score; None where no run tells.
        arms: in the order of the study.
        analysis: None before any run of the baseline is done.
        others: metrics that are reported with intervals only: scores by arm and seed, and the differences.
        notes: what belongs beside the verdicts.
        runs: in the order of the study.
        scored: which epoch was scored, as "the last epoch"; "" where that is unknown.
        advice: what to try where the host has not learnt the task; else "".
        tuned: what tuning chose for it; None where it is not tuned.
        trust: what saved networks may name besides the catalogue: what the caller of ``compare`` named.
    """

    name: str
    study: Study | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    baseline: str
    seeds: tuple[int, ...]
    margin: float
    task: str | None
    metric: Metric
    trivial: tuple[str, float | None] | None
    arms: tuple[ArmResult, ...]
    analysis: Analysis | None
    others: tuple[OtherMetric, ...] = ()
    notes: tuple[Note, ...]
    runs: tuple[RunResult, ...]
    scored: str = ""
    advice: str = ""
    tuned: Tuned | None = None
    trust: Trust = False

    @property
    def verdicts(self) -> dict[str, Difference]:
        """Arm -> its difference to the baseline: ``results.verdicts["das"].verdict``; {} without an analysis."""
        return {row.name: row for row in self.analysis.differences} if self.analysis else {}

    @property
    def alarm(self) -> str | None:
        """The first sentence of every output where the host has not learnt the task, with what to try."""
        if self.analysis is None or self.analysis.not_learnt is None:
            return None
        return f"{self.analysis.not_learnt} {self.advice}".rstrip()

    @property
    def complete(self) -> bool:
        """Whether every run has ended."""
        return all(run.status in ("done", "diverged") for run in self.runs)

    @property
    def controls(self) -> dict[str, str]:
        """The kinds of control in the study, and what each tells."""
        kinds = {row.arm.control for row in self.arms}
        return {kind: control.shows for kind, control in CONTROLS.items() if kind in kinds}

    def of(self, arm: str) -> list[RunResult]:
        """The runs of an arm, in the order of the seeds."""
        return [run for run in self.runs if run.arm == arm]

    def table(self) -> str:
        """A Markdown table: a row an arm with its score, difference, verdict and cost; then the notes."""
        from saccade.study.report.table import to_markdown

        return to_markdown(self)

    def report(self, path: str | Path | None = None, trust: Trust = False) -> Path:
        """Write the report as one HTML page; return its path.

        Args:
            path: the file; None is ``report.html`` in the study's folder.
            trust: what saved networks may name besides what the caller of ``compare`` named; see ``saccade.load``.

        Raises:
            UserError: there is no score yet, ``path`` is None for judged scores, or it cannot be written.
        """
        from saccade.study.report.writing import write_page

        if path is not None:
            place = Path(path)
        elif self.study is not None:
            place = self.study.folder / "report.html"
        else:
            raise UserError("judged scores lie in no study folder: name the file, as in report('report.html')")
        write_page(self, place, trust or self.trust)
        return place

    def scores(self, path: str | Path) -> Path:
        """Write the scores of the runs as the CSV that ``saccade.judge`` reads; return its path.

        Columns are arm, seed, image, the metric, and group where the data has groups: a row an arm, seed and test
        image. Where the score is no mean of per-image values, as mIoU, there is a row an arm and seed, without image.

        Raises:
            UserError: these are judged scores, there is no score, or ``path`` cannot be written.
        """
        from saccade.study.scores.exporting import write_scores

        return write_scores(self, Path(path))

    def cases(self, folder: str | Path) -> list[Path]:
        """Write a CSV a seed in the form that Claims Reloaded reads: a row an image, a column an arm; return the paths.

        Raises:
            UserError: as ``study.scores.exporting.write_cases``.
        """
        from saccade.study.scores.exporting import write_cases

        return write_cases(self, Path(folder))

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings, numbers and None."""
        metric = {
            key: getattr(self.metric, key)
            for key in ("name", "unit", "low", "high", "higher_is_better", "digits", "margin")
        }
        trivial = None if self.trivial is None else {"answer": self.trivial[0], "score": self.trivial[1]}
        return {
            "study": {
                **({"seeds": list(self.seeds)} if self.study is None else self.study.to_dict()),
                "name": self.name,
                "baseline": self.baseline,
                "margin": self.margin,
                "complete": self.complete,
                "controls": self.controls,
                "origin": dict(self.origin),
            },
            "alarm": self.alarm,
            "task": self.task,
            "metric": metric,
            "trivial": trivial,
            "arms": {row.arm.name: self._arm(row) for row in self.arms},
            "analysis": None if self.analysis is None else self.analysis.to_json(),
            "others": [
                {"metric": other.metric.name, "scores": other.scores, "differences": [
                    {**asdict(row), "raw": list(row.raw), "sentence": row.sentence()} for row in other.differences
                ]}
                for other in self.others
            ],
            "notes": [note.text for note in self.notes],
            "runs": [asdict(run) for run in self.runs],
            **({} if self.tuned is None else {"tuning": self.tuned.to_json()}),
        }  # fmt: skip

    def _arm(self, row: ArmResult) -> dict[str, Any]:
        """An arm for JSON; what judged scores do not tell is None."""
        known = self.study is not None
        return {
            "mechanism": row.arm.mechanism if known else None,
            "control": row.arm.control,
            "settings": dict(row.arm.settings) if known else None,
            "shares_host": row.shares_host,
            "slug": row.arm.slug if known else None,
            "scores": list(row.scores),
            "mean": row.mean,
            "sd": row.sd,
            "parameters": row.parameters,
            "cost": None if row.cost is None else asdict(row.cost),
        }

    def __repr__(self) -> str:
        """One line: the name and the verdicts."""
        said = [f"{row.name} {row.word}" for row in self.verdicts.values()]
        return f"<StudyResults {self.name}: {', '.join(said) or 'no verdict yet'}>"

    def __str__(self) -> str:
        """The alarm, if any, and a sentence an arm."""
        said = [row.sentence() for row in self.verdicts.values()]
        return "\n".join(filter(None, (self.alarm, *said))) or "No verdict yet."

    def _repr_html_(self) -> str:
        from saccade.study.report.notebook import render_fragment

        return render_fragment(self)
