"""Read the run folders of a study and analyse them.

All results can be recomputed from the run folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade import tasks
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images
from saccade.runfiles import Failed, read, read_epochs, read_rows
from saccade.study import pseudovalues
from saccade.study.advice import advice_if_not_learnt
from saccade.study.arms import BASELINE, Arm
from saccade.study.costs import ArmCost, read_costs
from saccade.study.plan import Run, Study
from saccade.study.results import ArmResult, OtherMetric, StudyResults
from saccade.study.run_notes import RunResult, StudyNote, study_notes
from saccade.study.stats import analyse, intervals
from saccade.study.tuning import read_tuning
from saccade.tasks.base import Task

__all__ = ["collect"]

_MAX_CHANGED = 3
"""Largest number of runs with changed scores named in a note."""
_OPTIONAL_KEYS = {"group": "groups", "by": "values of the option by", "scored": "scored classes"}
"""Rows that must be equal in all runs that have them, and their names in messages."""


def collect(folder: str | Path) -> StudyResults:
    """Return the results of the study in ``folder``.

    A diverged run has no score; a note names the run.

    Raises:
        UserError: ``folder`` holds no study, one of its files is damaged, or the runs used different images.
    """
    study = Study.open(folder)
    done_records = {(run.arm.name, run.seed): record for run in study.runs() if (record := run.done_record)}
    _check_images(study, done_records)
    runs = tuple(_run_result(study, run, done_records.get((run.arm.name, run.seed))) for run in study.runs())
    task, metric_name = _task_and_metric(study, done_records)
    task_class = tasks.get(task)
    metric = next(m for m in task_class.metrics if m.name.lower() == metric_name.lower())
    scores = _scores(study, runs, metric)
    costs = read_costs(study.folder)
    arms = tuple(_arm_result(study, arm, scores[arm.name], runs, costs.get(arm.name)) for arm in study.arms)
    trivial = next(
        ((record["trivial"]["answer"], record["trivial"]["scores"].get(metric.name))
         for record in done_records.values() if record.get("trivial")), None,
    )  # fmt: skip
    references: Mapping[str, Mapping[str, float | None]] = next(
        (record["references"] for record in done_records.values() if record.get("references")), {}
    )
    analysis, other_metrics, outdated = None, [], []
    if arms[0].mean is not None:
        rows = _rows(study, runs, task_class)
        analysis = analyse(
            scores,
            metric=metric,
            values=_pseudo_values(study, rows, metric),
            baseline=BASELINE,
            controls=frozenset(arm.name for arm in study.arms if arm.control),
            trivial=None if trivial is None or trivial[1] is None else (trivial[0], trivial[1]),
            margin=study.margin,
            seeds=study.seeds,
            sizes=_unit_sizes(rows, metric),
        )
        outdated = _outdated_scores(runs, rows, metric)
        scored_metrics = {name for run in runs for name in run.scores}
        for other in (*task_class.metrics, *_metrics_by_value(task_class, done_records, rows)):
            if other is metric or other.name not in scored_metrics:
                continue
            other_scores = _scores(study, runs, other)
            if any(score is not None for score in other_scores[BASELINE]):
                try:
                    values = _pseudo_values(study, rows, other)
                except UserError:  # rows of earlier versions lack columns that this metric needs
                    values = None
                differences = intervals(
                    other_scores, metric=other, values=values, baseline=BASELINE, sizes=_unit_sizes(rows, other)
                )
                other_metrics.append(OtherMetric(other, other_scores, differences))
                outdated += _outdated_scores(runs, rows, other)
    notes = study_notes(study, {row.arm.name: row.parameters for row in arms}, runs, done_records)
    notes += [StudyNote("scores", text) for text in outdated]
    if analysis is not None:
        notes += [StudyNote("analysis", text) for text in analysis.notes]
    if (tuning := read_tuning(study)) is not None:
        notes += [
            StudyNote("tuning", text)
            for text in (tuning.budget(), *tuning.divergence_notes(), *tuning.grid_edge_notes())
        ]
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
        references=references,
        arms=arms,
        analysis=analysis,
        others=tuple(other_metrics),
        notes=tuple(notes),
        runs=runs,
        scored_epoch=_scored_epoch(runs),
        advice=advice_if_not_learnt(study) if not_learnt else "",
        tuned=tuning,
    )


def _outdated_scores(runs: Sequence[RunResult], rows: Mapping[tuple[str, int], Rows], metric: Metric) -> list[str]:
    """Return a note on the runs whose score differs from that of their rows, because ``metric`` has changed since."""
    changed = []
    for run in runs:
        score = run.scores.get(metric.name)
        if score is None or (run.arm, run.seed) not in rows:
            continue
        try:
            today = metric.compute(rows[run.arm, run.seed])
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError):  # rows of earlier versions
            continue
        if today is None or abs(score - today) > 0.5 * 10**-metric.digits:
            changed.append(f"{run.arm} seed {run.seed}: {metric.format(score)}, now {metric.format(today)}")
    if not changed:
        return []
    more = f" and {len(changed) - _MAX_CHANGED} more runs" if len(changed) > _MAX_CHANGED else ""
    return [
        f"{metric.name} has changed since the runs ({'; '.join(changed[:_MAX_CHANGED])}{more}). Scores are as the runs "
        "stored them, intervals are of the metric as it is now: start a new study with another --out."
    ]


def _metrics_by_value(
    task_class: type[Task], done_records: DoneRecords, rows: Mapping[tuple[str, int], Rows]
) -> tuple[Metric, ...]:
    """Return the metrics of the images with each value of ``data.options.by``; () without the option or rows."""
    for key, run_rows in rows.items():
        by = done_records[key].get("by")
        if not by or "by" not in run_rows:
            return ()
        return task_class.metrics_by(task_class.metrics, by["column"], by["values"], run_rows)
    return ()


DoneRecords = Mapping[tuple[str, int], Mapping[str, Any]]
"""Maps (arm, seed) to the content of ``done.json``."""


def _run_result(study: Study, run: Run, record: Mapping[str, Any] | None) -> RunResult:
    """Return the status and scores of ``run``; ``record`` is the content of ``done.json``, or None."""
    folder = run.folder.relative_to(study.folder).as_posix()
    if record is None:
        failed = read(run.folder / "failed.json", Failed)
        if failed is None:
            return RunResult(run.arm.name, run.seed, "missing", folder)
        return RunResult(run.arm.name, run.seed, "failed", folder, reason=failed.get("reason"))
    measured: dict[str, Any] = {"seconds": record["seconds"], "parameters": record["parameters"]}
    if record["diverged"]:
        reason = str(record["diverged"].get("message", record["diverged"]))
        return RunResult(run.arm.name, run.seed, "diverged", folder, reason=reason, **measured)
    return RunResult(
        run.arm.name, run.seed, "done", folder, record["scores"], record.get("by_class", {}),
        constant=record.get("constant", {}), chosen=_chose_epoch_on_val(run), **measured,
    )  # fmt: skip


def _chose_epoch_on_val(run: Run) -> bool:
    """Return True if the last phase of ``run`` chose its epoch on validation images."""
    rows = read_epochs(run.folder / "metrics.jsonl")
    return bool(rows) and rows[-1].get("val") is not None


def _scored_epoch(runs: Sequence[RunResult]) -> str:
    """Return a phrase for the epoch whose weights were scored in the finished ``runs``."""
    choices = {run.chosen for run in runs if run.status == "done"}
    on_val = "chosen on validation images"
    return {(True,): f"the epoch {on_val}", (False, True): f"the last epoch, or the one {on_val}"}.get(
        tuple(sorted(choices)), "the last epoch"
    )


def _task_and_metric(study: Study, done_records: DoneRecords) -> tuple[str, str]:
    """Return the task and the metric of the finished runs; without any, those of the recipe."""
    trained_for = {(record["task"], record["metric"]) for record in done_records.values()}
    requested = study.base.task
    for name, metric in trained_for:
        differs = requested.name not in ("auto", name) or (requested.metric or metric).lower() != metric.lower()
        if differs or name not in tasks.names() or metric not in [m.name for m in tasks.get(name).metrics]:
            raise UserError(
                f"{study.folder}: a run was trained for the task {brief(name)!r} and the metric {brief(metric)!r}, "
                "which do not fit this study. Delete the folder of that run and give the same command again."
            )
    if len(trained_for) > 1:
        pairs = " and ".join(f"{task} by {metric}" for task, metric in sorted(trained_for))
        raise UserError(f"{study.folder}: the runs cannot be compared, because they were scored on {pairs}")
    if trained_for:
        return trained_for.pop()
    name = tasks.choose_task(study.base)
    return name, study.base.task.metric or tasks.get(name).metrics[0].name


def _scores(study: Study, runs: tuple[RunResult, ...], metric: Metric) -> dict[str, list[float | None]]:
    by_run = {(run.arm, run.seed): run.scores.get(metric.name) for run in runs}
    return {arm.name: [by_run[arm.name, seed] for seed in study.seeds] for arm in study.arms}


def _arm_result(
    study: Study, arm: Arm, scores: list[float | None], runs: tuple[RunResult, ...], cost: ArmCost | None
) -> ArmResult:
    present_scores = [score for score in scores if score is not None]
    return ArmResult(
        arm,
        arm.shares_host(study.base),
        tuple(scores),
        float(np.mean(present_scores)) if present_scores else None,
        float(np.std(present_scores, ddof=1)) if len(present_scores) > 1 else None,
        next((run.parameters for run in runs if run.arm == arm.name and run.parameters is not None), None),
        cost,
    )


def _check_images(study: Study, done_records: DoneRecords) -> None:
    """Raise UserError if runs with the same data settings used different images.

    Between different settings, ``_rows`` compares labels.
    """
    fingerprints: dict[str, tuple[Run, str]] = {}
    for run in study.runs():
        fingerprint = done_records.get((run.arm.name, run.seed), {}).get("fingerprint")
        if not fingerprint:
            continue
        # The fingerprint includes the validation images if the epoch is chosen on them.
        settings_key = run.recipe.data.model_dump_json() + run.recipe.model.model_dump_json()
        first, expected = fingerprints.setdefault(settings_key, (run, fingerprint))
        if fingerprint != expected:
            raise _different_images(first, run, "the images changed between them")


def _different_images(first: Run, other: Run, reason: str) -> UserError:
    return UserError(
        f"{first.folder} and {other.folder} cannot be compared: {reason}. Remove the run folders of the outdated "
        "images and run the study again."
    )


def _rows(study: Study, runs: tuple[RunResult, ...], task_class: type[Task]) -> dict[tuple[str, int], Rows]:
    """Return the per-image rows of every finished run that has them."""
    rows_by_run: dict[tuple[str, int], Rows] = {}
    first: tuple[Run, Rows] | None = None
    for run, result in zip(study.runs(), runs, strict=True):
        rows = read_rows(run.folder) if result.status == "done" else None
        if rows is None:
            continue
        for key in task_class.truth_keys:
            if key not in rows:
                raise _damaged(run, f"hold {', '.join(sorted(rows))}; {key!r} is needed")
        first = first or (run, rows)
        counts = count_images(first[1]), count_images(rows)
        if counts[0] != counts[1]:
            raise _different_images(first[0], run, f"they have {counts[0]} and {counts[1]} test images")
        if ("group" in first[1]) != ("group" in rows):
            raise _different_images(first[0], run, "the groups of their test images differ")
        if ("by" in first[1]) != ("by" in rows):
            raise _different_images(first[0], run, "only one of them has the option by")
        names = {key: f"{key}s" for key in task_class.truth_keys} | _OPTIONAL_KEYS
        for key, name in names.items():
            if key in rows and key in first[1] and not _are_equal(rows[key], first[1][key]):
                raise _different_images(first[0], run, f"the {name} of their test images differ")
        rows_by_run[run.arm.name, run.seed] = rows
    return rows_by_run


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.long(), other.long())


def _damaged(run: Run, problem: str) -> UserError:
    return UserError(
        f"{run.folder}: the rows of the test images {problem}. Delete the folder {run.folder} and give the same "
        "command again to repeat that run."
    )


def _unit_sizes(rows: Mapping[tuple[str, int], Rows], metric: Metric) -> list[int] | None:
    """Return the number of images in each resampling unit, or None without rows."""
    if not rows:
        return None
    return [int(size) for size in pseudovalues.metric_unit_sizes(metric, next(iter(rows.values())))]


def _pseudo_values(
    study: Study, rows: Mapping[tuple[str, int], Rows], metric: Metric
) -> dict[str, NDArray[np.float64]] | None:
    """Return the pseudo-values (seeds, units) of ``metric`` by arm, or None without rows."""
    values_by_run = {}
    runs = {(run.arm.name, run.seed): run for run in study.runs()}
    for key, run_rows in rows.items():
        try:
            expected_shape = (len(pseudovalues.metric_unit_sizes(metric, run_rows)),)
            values_by_run[key] = pseudovalues.pseudo_values(metric, run_rows)
        except KeyError as error:
            raise _damaged(runs[key], f"hold {', '.join(sorted(run_rows))}; {error.args[0]!r} is needed") from None
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # tensors of incompatible shapes
            raise _damaged(runs[key], f"give no {metric.name}: {error}") from None
        if values_by_run[key].shape != expected_shape:
            shape = values_by_run[key].shape
            raise _damaged(runs[key], f"give {metric.name} values of shape {shape}; {expected_shape} is needed")
    if not values_by_run:
        return None
    missing_values = np.full_like(next(iter(values_by_run.values())), np.nan)
    scored_arms = {name for name, _ in values_by_run}
    return {
        arm.name: np.stack([values_by_run.get((arm.name, seed), missing_values) for seed in study.seeds])
        for arm in study.arms
        if arm.name in scored_arms
    }
