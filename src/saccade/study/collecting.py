"""Read the run folders of a study and judge them.

The run folders are the only truth; everything here can be made again from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saccade import tasks
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images
from saccade.runfiles import Failed, read, read_epochs, read_rows
from saccade.study import pseudovalues
from saccade.study.advice import on_unlearnt
from saccade.study.arms import BASELINE, Arm
from saccade.study.costs import ArmCost, read_costs
from saccade.study.plan import Run, Study
from saccade.study.results import ArmResult, OtherMetric, StudyResults
from saccade.study.run_notes import Note, RunResult, on_study
from saccade.study.stats import analyse, intervals
from saccade.study.tuning import tuned
from saccade.tasks.base import Task

__all__ = ["collect"]


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
        notes += [Note("tuning", text) for text in (tuning.budget(), *tuning.diverged(), *tuning.edges())]
    not_learnt = analysis is not None and analysis.not_learnt is not None
    return StudyResults(
        name=study.folder.resolve().name,
        study=study,
        baseline=BASELINE,
        seeds=study.seeds,
        margin=metric.margin if study.margin is None else study.margin,
        task=task,
        metric=metric,
        trivial=trivial,
        arms=arms,
        analysis=analysis,
        others=tuple(others),
        notes=tuple(notes),
        runs=runs,
        scored=_scored(runs),
        advice=on_unlearnt(study) if not_learnt else "",
        tuned=tuning,
    )


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
        constant=done.get("constant", {}), chosen=_chose(run), **known,
    )  # fmt: skip


def _chose(run: Run) -> bool:
    """Whether the last phase of ``run`` chose its epoch on validation images."""
    rows = read_epochs(run.folder / "metrics.jsonl")
    return bool(rows) and rows[-1].get("val") is not None


def _scored(runs: Sequence[RunResult]) -> str:
    """Which epoch the finished ``runs`` were scored at."""
    kinds = {run.chosen for run in runs if run.status == "done"}
    chosen = "chosen on validation images"
    return {(True,): f"the epoch {chosen}", (False, True): f"the last epoch, or the one {chosen}"}.get(
        tuple(sorted(kinds)), "the last epoch"
    )


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
    name = tasks.choose_task(study.base)
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
        for key in kind.truth_keys:
            if key not in rows:
                raise _damaged(run, f"hold {', '.join(sorted(rows))}; {key!r} is needed")
        first = first or (run, rows)
        counts = count_images(first[1]), count_images(rows)
        if counts[0] != counts[1]:
            raise _other_images(first[0], run, f"they have {counts[0]} and {counts[1]} test images")
        if ("group" in first[1]) != ("group" in rows):
            raise _other_images(first[0], run, "the groups of their test images differ")
        for key in (*kind.truth_keys, *(["group"] if "group" in rows else [])):
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
