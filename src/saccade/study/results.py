"""Results of a study of saccade or of another trainer's scores, with text, HTML and JSON output."""

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
from saccade.study.findings import Analysis, ConfidenceInterval, Difference
from saccade.study.plan import Study
from saccade.study.run_notes import RunResult, StudyNote
from saccade.study.tuning import TuningResult
from saccade.trust import Trust

__all__ = ["ArmResult", "OtherMetric", "StudyResults"]


@dataclass(frozen=True)
class ArmResult:
    """Results of one arm over all seeds; unknown values are None.

    Attributes:
        arm: the arm.
        shares_host: True if its host is the baseline's.
        scores: one per seed.
        mean: mean of the scores.
        sd: their standard deviation.
        parameters: number of parameters.
        cost: measured cost.
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
    """Metric reported without verdicts.

    ``scores`` maps an arm to one score per seed; ``differences`` are those to the baseline.
    """

    metric: Metric
    scores: Mapping[str, list[float | None]]
    differences: tuple[ConfidenceInterval, ...]


@dataclass(frozen=True, repr=False, kw_only=True)
class StudyResults:
    """Results of a study; ``print`` shows the verdicts, and a notebook shows HTML.

    Attributes:
        name: name of the study's folder or of the score file.
        study: plan of the runs; None for scores of another trainer.
        origin: description of the score files.
        baseline: name of the first arm.
        seeds: seeds in the order of the scores.
        margin: largest negligible difference, in the metric's unit.
        task: name of the task.
        metric: metric of the verdicts.
        trivial: description and score of a predictor that ignores the image.
        references: name of a reference prediction -> metric -> score.
        arms: results of each arm.
        analysis: statistical results; None until a run of the baseline is done.
        others: other metrics.
        notes: caveats of the verdicts.
        runs: result of each run.
        scored_epoch: phrase for the epoch whose weights were scored, such as "the last epoch".
        advice: for a host that has not learnt the task.
        tuned: result of tuning.
        trust: further code that saved networks may import.
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
    references: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    arms: tuple[ArmResult, ...]
    analysis: Analysis | None
    others: tuple[OtherMetric, ...] = ()
    notes: tuple[StudyNote, ...]
    runs: tuple[RunResult, ...]
    scored_epoch: str = ""
    advice: str = ""
    tuned: TuningResult | None = None
    trust: Trust = False

    @property
    def verdicts(self) -> dict[str, Difference]:
        """Maps arm to difference, as in ``results.verdicts["das"].verdict``; {} without an analysis."""
        return {row.name: row for row in self.analysis.differences} if self.analysis else {}

    @property
    def alarm(self) -> str | None:
        """Warning with advice if the host has not learnt the task, else None."""
        if self.analysis is None or self.analysis.not_learnt is None:
            return None
        return f"{self.analysis.not_learnt} {self.advice}".rstrip()

    @property
    def complete(self) -> bool:
        """True if every run is done or diverged."""
        return all(run.status in ("done", "diverged") for run in self.runs)

    @property
    def controls(self) -> dict[str, str]:
        """Maps each kind of control in the study to a sentence on its purpose."""
        kinds = {row.arm.control for row in self.arms}
        return {kind: control.description for kind, control in CONTROLS.items() if kind in kinds}

    def reference_scores(self, metric: Metric) -> dict[str, float]:
        """Return the score of each reference prediction by ``metric``, by name."""
        scores = {name: by_metric.get(metric.name) for name, by_metric in self.references.items()}
        return {name: score for name, score in scores.items() if score is not None}

    def of(self, arm: str) -> list[RunResult]:
        """Return the runs of an arm, in the order of the seeds."""
        return [run for run in self.runs if run.arm == arm]

    def table(self) -> str:
        """Return a Markdown table, one row per arm, followed by the notes."""
        from saccade.study.report.table import to_markdown

        return to_markdown(self)

    def report(self, path: str | Path | None = None, trust: Trust = False) -> Path:
        """Write the report as one HTML page; return its path.

        Args:
            path: output file; default: ``report.html`` in the study's folder.
            trust: further code that saved networks may import; see ``saccade.load``.

        Raises:
            UserError: there are no scores, ``path`` is None without a study folder, or the file cannot be written.
        """
        from saccade.study.report.writing import write_page

        if path is not None:
            file = Path(path)
        elif self.study is not None:
            file = self.study.folder / "report.html"
        else:
            raise UserError("judged scores have no study folder: name the file, as in report('report.html')")
        write_page(self, file, trust or self.trust)
        return file

    def scores(self, path: str | Path) -> Path:
        """Write the scores of the runs as a CSV that ``saccade.judge`` reads; return its path.

        It has one row per arm, seed and test image, or per arm and seed if the score is no mean over images.

        Raises:
            UserError: there are no scores or no study folder, or ``path`` cannot be written.
        """
        from saccade.study.scores.exporting import write_scores

        return write_scores(self, Path(path))

    def cases(self, folder: str | Path) -> list[Path]:
        """Write one CSV per seed for Claims Reloaded (arXiv:2505.04720); return the paths.

        Raises:
            UserError: the scores cannot be written in this form; see ``study.scores.exporting.write_cases``.
        """
        from saccade.study.scores.exporting import write_cases

        return write_cases(self, Path(folder))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
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
            **({"references": {name: dict(scores) for name, scores in self.references.items()}}
               if self.references else {}),
            "arms": {row.arm.name: self._arm_to_json(row) for row in self.arms},
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

    def _arm_to_json(self, row: ArmResult) -> dict[str, Any]:
        """Return an arm for JSON; values unknown for judged scores are None."""
        is_study = self.study is not None
        return {
            "mechanism": row.arm.mechanism if is_study else None,
            "control": row.arm.control,
            "settings": dict(row.arm.settings) if is_study else None,
            "shares_host": row.shares_host,
            "slug": row.arm.slug if is_study else None,
            "scores": list(row.scores),
            "mean": row.mean,
            "sd": row.sd,
            "parameters": row.parameters,
            "cost": None if row.cost is None else asdict(row.cost),
        }

    def __repr__(self) -> str:
        """Return one line with the name and the verdicts."""
        verdicts = [f"{row.name} {row.verdict_text}" for row in self.verdicts.values()]
        return f"<StudyResults {self.name}: {', '.join(verdicts) or 'no verdict yet'}>"

    def __str__(self) -> str:
        """Return the warning, if any, and one sentence per arm."""
        sentences = [row.sentence() for row in self.verdicts.values()]
        return "\n".join(filter(None, (self.alarm, *sentences))) or "No verdict yet."

    def _repr_html_(self) -> str:
        from saccade.study.report.notebook import render_fragment

        return render_fragment(self)
