"""What came of a study: its run folders read and judged.

The run folders are the only truth; everything here can be made again from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saccade import tasks
from saccade.controls import CONTROLS
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.files import write_atomically
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count
from saccade.runfiles import Failed, read, read_rows
from saccade.study import pseudovalues
from saccade.study.arms import BASELINE, Arm
from saccade.study.costs import ArmCost, read_costs
from saccade.study.findings import Analysis, Interval
from saccade.study.plan import Run, Study
from saccade.study.run_notes import Note, RunResult, on_study
from saccade.study.stats import analyse, intervals
from saccade.study.tuning import Tuned, tuned
from saccade.tasks.base import Task

__all__ = ["ArmResult", "RunResult", "StudyResults", "collect", "write_results"]


@dataclass(frozen=True)
class ArmResult:
    """One arm over all seeds.

    Attributes:
        arm: what it is.
        shares_host: whether its runs start from the host weights of ``none``.
        scores: one per seed, by the metric of the verdicts; None where a run has none.
        mean: of the scores.
        sd: of the scores, over seeds; None below two.
        parameters: of the network.
        cost: None where it is not measured.
    """

    arm: Arm
    shares_host: bool
    scores: tuple[float | None, ...]
    mean: float | None
    sd: float | None
    parameters: int | None
    cost: ArmCost | None


@dataclass(frozen=True)
class StudyResults:
    """The answer of a study.

    Attributes:
        study: what was asked.
        task: its name.
        metric: that of the verdicts.
        trivial: the answer that needs no image, in words, and its score; None where no run tells.
        arms: in the order of the study.
        analysis: None before any run of ``none`` is done.
        others: metrics that are reported with intervals only: scores by arm and seed, and the differences.
        notes: what belongs beside the verdicts.
        runs: in the order of the study.
        tuned: what tuning chose for it; None where it is not tuned.
    """

    study: Study
    task: str
    metric: Metric
    trivial: tuple[str, float | None] | None
    arms: tuple[ArmResult, ...]
    analysis: Analysis | None
    others: tuple[OtherMetric, ...]
    notes: tuple[Note, ...]
    runs: tuple[RunResult, ...]
    tuned: Tuned | None = None

    @property
    def name(self) -> str:
        """That of the folder."""
        return self.study.folder.resolve().name

    @property
    def complete(self) -> bool:
        """Whether every run has ended."""
        return all(run.status in ("done", "diverged") for run in self.runs)

    @property
    def margin(self) -> float:
        """Half-width of "equal", in the metric's unit."""
        return self.metric.margin if self.study.margin is None else self.study.margin

    @property
    def controls(self) -> dict[str, str]:
        """The kinds of control in the study, and what each tells."""
        kinds = {arm.control for arm in self.study.arms}
        return {kind: control.shows for kind, control in CONTROLS.items() if kind in kinds}

    def of(self, arm: str) -> list[RunResult]:
        """The runs of an arm, in the order of the seeds."""
        return [run for run in self.runs if run.arm == arm]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings, numbers and None."""
        metric = {
            key: getattr(self.metric, key)
            for key in ("name", "unit", "low", "high", "higher_is_better", "digits", "margin")
        }
        trivial = None if self.trivial is None else {"answer": self.trivial[0], "score": self.trivial[1]}
        return {
            "study": {
                **self.study.to_dict(),
                "name": self.name,
                "baseline": BASELINE,
                "margin": self.margin,
                "complete": self.complete,
                "controls": self.controls,
            },
            "task": self.task,
            "metric": metric,
            "trivial": trivial,
            "arms": {
                row.arm.name: {
                    "mechanism": row.arm.mechanism,
                    "control": row.arm.control,
                    "settings": dict(row.arm.settings),
                    "shares_host": row.shares_host,
                    "slug": row.arm.slug,
                    "scores": list(row.scores),
                    "mean": row.mean,
                    "sd": row.sd,
                    "parameters": row.parameters,
                    "cost": None if row.cost is None else asdict(row.cost),
                }
                for row in self.arms
            },
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


@dataclass(frozen=True)
class OtherMetric:
    """A metric that is reported beside that of the verdicts."""

    metric: Metric
    scores: Mapping[str, list[float | None]]
    """Arm -> one score per seed."""
    differences: tuple[Interval, ...]


def collect(folder: str | Path) -> StudyResults:
    """The results of the study in ``folder``.

    A run that diverged has no score: the score at which a training broke says nothing of the mechanism when it works.
    It is left out of the mean and named in the notes, because leaving it out flatters its arm.

    Raises:
        UserError: ``folder`` holds no study, a file of it is damaged, or its runs were not made with the same images.
    """
    study = Study.open(folder)
    finished = {(run.arm.name, run.seed): done for run in study.runs() if (done := run.finished)}
    _check_images(study, finished)
    runs = tuple(_run(study, run, finished.get((run.arm.name, run.seed))) for run in study.runs())
    task, metric_name = _asked(study, finished)
    kind = tasks.get(task)
    metric = next(each for each in kind.metrics if each.name.lower() == metric_name.lower())
    scores = _scores(study, runs, metric)
    costs = read_costs(study.folder)
    arms = tuple(_arm(study, arm, scores[arm.name], runs, costs.get(arm.name)) for arm in study.arms)
    trivial = next(
        ((done["trivial"]["answer"], done["trivial"]["scores"].get(metric.name)) for done in finished.values()
         if done.get("trivial")), None,
    )  # fmt: skip
    analysis, others = None, []
    if arms[0].mean is not None:
        rows = _rows(study, runs, kind)
        analysis = analyse(
            scores,
            metric=metric,
            values=_values(study, rows, metric),
            baseline=BASELINE,
            controls=frozenset(arm.name for arm in study.arms if arm.control),
            reference=None if trivial is None or trivial[1] is None else (trivial[0], trivial[1]),
            margin=study.margin,
            seeds=study.seeds,
            sizes=_sizes(rows, metric),
        )
        there = {name for run in runs for name in run.scores}
        for other in kind.metrics:
            if other is metric or other.name not in there:
                continue
            own = _scores(study, runs, other)
            if any(score is not None for score in own[BASELINE]):
                try:
                    values = _values(study, rows, other)
                except UserError:  # earlier versions kept less
                    values = None
                found = intervals(own, metric=other, values=values, baseline=BASELINE, sizes=_sizes(rows, other))
                others.append(OtherMetric(other, own, found))
    notes = on_study(study, {row.arm.name: row.parameters for row in arms}, runs, finished)
    if analysis is not None:
        notes += [Note("analysis", text) for text in analysis.notes]
    if (tuning := tuned(study)) is not None:
        notes += [Note("tuning", text) for text in (tuning.budget(), *tuning.edges())]
    return StudyResults(study, task, metric, trivial, arms, analysis, tuple(others), tuple(notes), runs, tuning)


def write_results(folder: str | Path) -> StudyResults:
    """:func:`collect` and write it as ``results.json`` of the study folder.

    Raises:
        UserError: as :func:`collect`.
    """
    results = collect(folder)
    text = json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(Path(folder) / "results.json", text)
    return results


Finished = Mapping[tuple[str, int], Mapping[str, Any]]


def _run(study: Study, run: Run, done: Mapping[str, Any] | None) -> RunResult:
    place = run.folder.relative_to(study.folder).as_posix()
    if done is None:
        failed = read(run.folder / "failed.json", Failed)
        if failed is None:
            return RunResult(run.arm.name, run.seed, "missing", place)
        return RunResult(run.arm.name, run.seed, "failed", place, reason=failed.get("reason"))
    known: dict[str, Any] = {"seconds": done["seconds"], "parameters": done["parameters"]}
    if done["diverged"]:
        reason = str(done["diverged"].get("message", done["diverged"]))
        return RunResult(run.arm.name, run.seed, "diverged", place, reason=reason, **known)
    return RunResult(
        run.arm.name, run.seed, "done", place, done["scores"], done.get("by_class", {}),
        constant=done.get("constant", {}), **known,
    )  # fmt: skip


def _asked(study: Study, finished: Finished) -> tuple[str, str]:
    """Task and metric of the verdicts, as the runs say.

    Raises:
        UserError: runs disagree, or none is finished.
    """
    found = {(done["task"], done["metric"]) for done in finished.values()}
    wanted = study.base.task
    for name, metric in found:
        asked = wanted.name not in ("auto", name) or (wanted.metric or metric).lower() != metric.lower()
        if asked or name not in tasks.names() or metric not in [each.name for each in tasks.get(name).metrics]:
            raise UserError(
                f"{study.folder}: a run says that it was of the task {brief(name)!r} by {brief(metric)!r}, which this "
                "study cannot be. Delete the folder of that run and give the same command again: it is done anew."
            )
    if len(found) > 1:
        words = " and ".join(f"{task} by {metric}" for task, metric in sorted(found))
        raise UserError(f"{study.folder}: the runs cannot be compared, they are of {words}")
    if found:
        return found.pop()
    name = tasks.choose(study.base)
    return name, study.base.task.metric or tasks.get(name).metrics[0].name


def _scores(study: Study, runs: tuple[RunResult, ...], metric: Metric) -> dict[str, list[float | None]]:
    by_run = {(run.arm, run.seed): run.scores.get(metric.name) for run in runs}
    return {arm.name: [by_run[arm.name, seed] for seed in study.seeds] for arm in study.arms}


def _arm(
    study: Study, arm: Arm, scores: list[float | None], runs: tuple[RunResult, ...], cost: ArmCost | None
) -> ArmResult:
    known = [score for score in scores if score is not None]
    return ArmResult(
        arm,
        arm.shares_host(study.base),
        tuple(scores),
        float(np.mean(known)) if known else None,
        float(np.std(known, ddof=1)) if len(known) > 1 else None,
        next((run.parameters for run in runs if run.arm == arm.name and run.parameters is not None), None),
        cost,
    )


def _check_images(study: Study, finished: Finished) -> None:
    """Raise UserError where runs of one description of the data had other images than each other.

    Arms that describe the data differently, as by another size, are compared by the truth in their rows alone.
    """
    known: dict[str, tuple[Run, str]] = {}
    for run in study.runs():
        fingerprint = finished.get((run.arm.name, run.seed), {}).get("fingerprint")
        if not fingerprint:
            continue
        # A network that chooses its epoch on val has the images of val in its fingerprint.
        described = run.recipe.data.model_dump_json() + run.recipe.model.model_dump_json()
        first, expected = known.setdefault(described, (run, fingerprint))
        if fingerprint != expected:
            raise _other_images(first, run, "the images changed between them")


def _other_images(one: Run, other: Run, how: str) -> UserError:
    return UserError(
        f"{one.folder} and {other.folder} cannot be compared: {how}. Remove the run folders made with the images that "
        "no longer count, and run the study again."
    )


def _rows(study: Study, runs: tuple[RunResult, ...], kind: type[Task]) -> dict[tuple[str, int], Rows]:
    """The rows of every run that is done and has some.

    Raises:
        UserError: a file is damaged, or two runs were scored on other images.
    """
    found: dict[tuple[str, int], Rows] = {}
    first: tuple[Run, Rows] | None = None
    for run, result in zip(study.runs(), runs, strict=True):
        rows = read_rows(run.folder) if result.status == "done" else None
        if rows is None:
            continue
        for key in kind.truth:
            if key not in rows:
                raise _damaged(run, f"hold {', '.join(sorted(rows))}; {key!r} is needed")
        first = first or (run, rows)
        counts = count(first[1]), count(rows)
        if counts[0] != counts[1]:
            raise _other_images(first[0], run, f"they have {counts[0]} and {counts[1]} test images")
        if ("group" in first[1]) != ("group" in rows):
            raise _other_images(first[0], run, "the groups of their test images differ")
        for key in (*kind.truth, *(["group"] if "group" in rows else [])):
            if rows[key].shape != first[1][key].shape or not torch.equal(first[1][key].long(), rows[key].long()):
                raise _other_images(first[0], run, f"the {key}s of their test images differ")
        found[run.arm.name, run.seed] = rows
    return found


def _damaged(run: Run, what: str) -> UserError:
    return UserError(
        f"{run.folder}: the rows of the test images {what}. Delete the folder {run.folder} and give the same command "
        "again: that run is done anew."
    )


def _sizes(rows: Mapping[tuple[str, int], Rows], metric: Metric) -> list[int] | None:
    """Images in each unit of the pseudo-values; None where the rows do not hold what they need."""
    for each in rows.values():
        return [int(size) for size in pseudovalues.sizes_of(metric, each)]
    return None


def _values(
    study: Study, rows: Mapping[tuple[str, int], Rows], metric: Metric
) -> dict[str, NDArray[np.float64]] | None:
    """Arm -> pseudo-values (seeds, units) of ``metric``; None without rows.

    Raises:
        UserError: the rows of a run do not hold what the metric needs.
    """
    found = {}
    runs = {(run.arm.name, run.seed): run for run in study.runs()}
    for key, each in rows.items():
        try:
            needed = (len(pseudovalues.sizes_of(metric, each)),)
            found[key] = pseudovalues.of(metric, each)
        except KeyError as error:
            raise _damaged(runs[key], f"hold {', '.join(sorted(each))}; {error.args[0]!r} is needed") from None
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # tensors of shapes that do not go together
            raise _damaged(runs[key], f"give no {metric.name}: {error}") from None
        if found[key].shape != needed:
            shape = found[key].shape
            raise _damaged(runs[key], f"give {metric.name} values of shape {shape}; {needed} is needed")
    if not found:
        return None
    nothing = np.full_like(next(iter(found.values())), np.nan)
    scored = {name for name, _ in found}
    return {
        arm.name: np.stack([found.get((arm.name, seed), nothing) for seed in study.seeds])
        for arm in study.arms
        if arm.name in scored
    }
