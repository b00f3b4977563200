"""Map scores of a study: each arm against the baseline and against control maps, paired over seeds and images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.errors import UserError
from saccade.explanation.map_scores import CONTROLS, OWN, Examples, evenly_spaced, find_examples
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows
from saccade.metrics.sfd import SFD_THRESHOLDS
from saccade.study.findings import ConfidenceInterval
from saccade.study.looking_rows import MapSettings, run_rows
from saccade.study.opening import check_saved, task_of
from saccade.study.pseudovalues import metric_unit_sizes, pseudo_values
from saccade.study.results import StudyResults
from saccade.study.stats import intervals
from saccade.tasks.base import Task
from saccade.trust import Trust

__all__ = ["FAITHFULNESS", "MAX_IMAGES", "VARIABLE", "Looking", "MapScore", "measure_looking"]

MAX_IMAGES = 100
"""Largest number of test images whose maps are scored, unless the environment variable names another."""
VARIABLE = "SACCADE_MAP_IMAGES"
"""Environment variable with the largest number of test images; 0 leaves the section of the report out."""
_MIN_IMAGES = 12
"""Number of images below which faithfulness is left out."""
_STEPS = 8
"""Steps of insertion and deletion."""
_MAX_MACS = 60e9
"""Number of MACs that the forward and backward passes of one run may take; more seeds or arms do not lower it."""
_MAP_PASSES = 9
"""Number of forward passes that cost as much as the three maps of one image."""


def _best_iou(rows: Rows) -> float:
    return 100 * float(rows["iou"].mean(0).max())


def _best_iou_without(rows: Rows, units: Tensor) -> Tensor:
    """Return ``_best_iou`` (units,) without each unit of ``units`` (N,)."""
    iou, sizes = rows["iou"], units.bincount()
    sums = torch.zeros(len(sizes), iou.shape[1], dtype=iou.dtype).index_add_(0, units, iou)
    return 100 * ((iou.sum(0) - sums) / (len(iou) - sizes)[:, None]).amax(1)


def _column(name: str) -> Callable[[Rows], Tensor]:
    return lambda rows: rows[name].double()


_SFD: dict[str, Any] = {"unit": "", "margin": 0.05, "low": 1 / 11, "high": 10 / 11, "digits": 3}
_SHARE: dict[str, Any] = {"unit": "%", "margin": 5.0, "low": 0.0, "high": 100.0, "digits": 1}
_FROM_MINUS_1: dict[str, Any] = {"unit": "", "margin": 0.05, "low": -1.0, "high": 1.0, "digits": 3}
METRICS: dict[Metric, str] = {
    Metric(name="sfd", values=lambda rows: rows["sfd"][:, SFD_THRESHOLDS.index(0.5)], **_SFD): "sfd",
    Metric(name="mean sfd", values=lambda rows: rows["sfd"].mean(1), **_SFD): "sfd",
    Metric(name="pointing game", values=lambda rows: 100 * rows["pointing"].double(), **_SHARE): "pointing",
    Metric(name="mIoU", score=_best_iou, score_without=_best_iou_without, **_SHARE): "iou",
    Metric(name="NSS", unit="", margin=0.1, digits=3, values=_column("NSS")): "NSS",
    Metric(name="CC", values=_column("CC"), **_FROM_MINUS_1): "CC",
    Metric(name="AUC-Judd", unit="", margin=0.05, low=0.0, high=1.0, digits=3, values=_column("AUC-Judd")): "AUC-Judd",
    Metric(name="insertion", values=_column("insertion"), **_FROM_MINUS_1): "insertion",
    Metric(name="deletion", values=_column("deletion"), **_FROM_MINUS_1): "deletion",
}
"""Maps each score of a map to the column of the rows that it reads."""
FAITHFULNESS = ("insertion", "deletion")
"""Names of the scores that need no region."""


@dataclass(frozen=True)
class MapScore:
    """One score of the maps.

    Attributes:
        metric: the score.
        scores: Maps arm to one score per seed, or None.
        differences: difference of each other arm to the baseline.
        controls: Maps control to one score per seed, of the baseline's network.
        control_differences: difference of each control to the baseline's own map.
        above_random: Maps arm to the difference of its map to that of random weights; in faithfulness, to a random map.
    """

    metric: Metric
    scores: Mapping[str, list[float | None]]
    differences: tuple[ConfidenceInterval, ...]
    controls: Mapping[str, list[float | None]]
    control_differences: tuple[ConfidenceInterval, ...]
    above_random: Mapping[str, ConfidenceInterval]


@dataclass(frozen=True)
class Looking:
    """Scores of the maps of every arm.

    Attributes:
        images: number of test images scored, those with a class or fixations.
        total: number of test images.
        scores: scores that apply to the data; without regions, only those of faithfulness.
        left_out: sentences on what was not measured.
    """

    images: int
    total: int
    scores: tuple[MapScore, ...]
    left_out: tuple[str, ...]


Table = Mapping[tuple[str, int], Mapping[str, Rows]]
"""Maps arm and seed to the rows of each map."""


def measure_looking(results: StudyResults, task: Task, trust: Trust = False) -> Looking | None:
    """Return the scores of the maps of all finished runs; None if no test image has a class or fixations.

    Args:
        results: results of a study.
        task: its task with the images of the baseline.
        trust: code that saved networks may import; see ``saccade.load``.

    Raises:
        UserError: a network cannot be loaded, does not belong to the images, or has no maps, or the variable is no
            number.
    """
    study = results.study
    assert study is not None
    cost = results.arms[0].cost
    limit = _largest_number()
    if limit == 0:
        return None
    count, steps, left_out = _budget(cost.macs if cost else 0, task.target == "objects")
    chosen = evenly_spaced(len(task.data.test), min(limit, count))
    arms = {row.arm.name: row.arm for row in results.arms}
    opened: dict[str, tuple[Task, Examples | None]] = {}
    table: dict[tuple[str, int], Mapping[str, Rows]] = {}
    for run in results.runs:
        folder = study.folder / run.folder
        if run.status != "done" or not (folder / "model.safetensors").exists():
            continue
        key = arms[run.arm].recipe(study.base, run.seed).data.model_dump_json()
        if key not in opened:
            own_task = task_of(study, arms[run.arm], run.seed, task)
            opened[key] = own_task, find_examples(own_task, chosen)
        own_task, examples = opened[key]
        if examples is None:
            return None
        check_saved(folder, own_task.data.classes, list(examples.images.shape[1:]))
        rows: dict[str, Rows] = {OWN: {}}
        if examples.regions is not None or examples.points is not None or (steps and examples.classes is not None):
            rows = run_rows(folder, examples, MapSettings(steps), run.seed, trust)
        group = {} if examples.group is None else {"group": examples.group}
        table[run.arm, run.seed] = {name: own | group for name, own in rows.items()}
    if not table:
        return None
    used = [examples for _, examples in opened.values() if examples is not None]
    n_scored = max(len(examples.indices) for examples in used)
    if n_without := max(examples.without_region for examples in used):
        left_out.append(f"Scores by region are left out: {n_without} of {n_scored} images have none.")
    scores = tuple(
        _map_score(metric, column, table, list(arms), results.seeds)
        for metric, column in METRICS.items()
        if all(column in rows[OWN] for rows in table.values())
    )
    return Looking(n_scored, len(task.data.test), scores, tuple(left_out))


def _largest_number() -> int:
    """Return the number in the environment variable, else the default."""
    text = os.environ.get(VARIABLE) or str(MAX_IMAGES)
    if not text.isdecimal():
        raise UserError(f"{VARIABLE} = {text!r}: a number of images is needed, 0 for none")
    return int(text)


def _budget(macs: int, is_detector: bool) -> tuple[int, int, list[str]]:
    """Return the number of images, the steps of insertion and deletion, and sentences on what is left out."""
    if is_detector:
        reason = "Faithfulness is left out: the boxes of a detector change with the image."
        return _affordable(macs * _MAP_PASSES), 0, [reason]
    step_passes = 2 * 3 * (_STEPS + 2)
    count = _affordable(macs * (_MAP_PASSES + step_passes))
    if count > _MIN_IMAGES:
        return count, _STEPS, []
    reason = f"Faithfulness is left out: with {macs / 1e9:.1f} GMACs an image it would take too long."
    return _affordable(macs * _MAP_PASSES), 0, [reason]


def _affordable(macs: int) -> int:
    """Return the number of images, if one takes ``macs`` MACs."""
    return int(max(_MIN_IMAGES, _MAX_MACS / max(macs, 1)))


def _map_score(metric: Metric, column: str, table: Table, arms: Sequence[str], seeds: Sequence[int]) -> MapScore:
    baseline = arms[0]
    own = {arm: {seed: table[arm, seed][OWN] for seed in seeds if (arm, seed) in table} for arm in arms}
    controls: dict[str, BySeed] = {}
    for name in CONTROLS:
        if by_seed := {seed: r for seed in seeds if column in (r := table.get((baseline, seed), {}).get(name, {}))}:
            controls[name] = by_seed
    random = {
        arm: {seed: table[arm, seed][CONTROLS[0]] for seed in by_seed}
        for arm, by_seed in own.items()
        if by_seed and all(column in table[arm, seed].get(CONTROLS[0], {}) for seed in by_seed)
    }
    if metric.name in FAITHFULNESS:  # these scores are advantages over a random map
        random = {arm: {seed: {**r, column: 0 * r[column]} for seed, r in own[arm].items()} for arm in arms if own[arm]}
    scores, differences = _compare(metric, column, own, seeds)
    return MapScore(
        metric,
        scores,
        differences,
        {name: _compare(metric, column, {name: by_seed}, seeds)[0][name] for name, by_seed in controls.items()},
        tuple(
            row
            for name, by_seed in controls.items()
            for row in _compare(metric, column, {baseline: own[baseline], name: by_seed}, seeds)[1]
        ),
        {
            arm: _compare(metric, column, {CONTROLS[0]: by_seed, arm: own[arm]}, seeds)[1][0]
            for arm, by_seed in random.items()
        },
    )


BySeed = Mapping[int, Rows]
"""Maps seed to the rows of one map."""


def _compare(
    metric: Metric, column: str, rows: Mapping[str, BySeed], seeds: Sequence[int]
) -> tuple[dict[str, list[float | None]], tuple[ConfidenceInterval, ...]]:
    """Return the scores by name and seed, and the differences to the first name."""
    kept = {
        name: {seed: {key: own[key] for key in (column, "group") if key in own} for seed, own in by_seed.items()}
        for name, by_seed in rows.items()
    }
    scores = {
        name: [metric.compute(by_seed[seed]) if seed in by_seed else None for seed in seeds]
        for name, by_seed in kept.items()
    }
    one = next((own for by_seed in kept.values() for own in by_seed.values()), None)
    if len(rows) < 2 or one is None:
        return scores, ()
    sizes = [int(size) for size in metric_unit_sizes(metric, one)]
    missing = np.full(len(sizes), np.nan)
    values = {
        name: np.stack([pseudo_values(metric, by_seed[seed]) if seed in by_seed else missing for seed in seeds])
        for name, by_seed in kept.items()
        if by_seed
    }
    return scores, intervals(scores, metric=metric, values=values, baseline=next(iter(rows)), sizes=sizes)
