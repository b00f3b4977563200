"""Analysis of scores from another trainer, with the statistics of a study."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.controls import CONTROLS
from saccade.errors import UserError, did_you_mean
from saccade.study.arms import BASELINE, Arm
from saccade.study.pseudovalues import from_values, unit_sizes
from saccade.study.results import ArmResult, StudyResults
from saccade.study.run_notes import RunResult, StudyNote
from saccade.study.scores.column_metric import infer_metric
from saccade.study.scores.gathering import RunScores, read_scores
from saccade.study.stats import analyse

__all__ = ["judge"]


def judge(
    scores: Any,
    *,
    metric: str | None = None,
    baseline: str = BASELINE,
    controls: Collection[str] = (),
    lower_is_better: bool | None = None,
    margin: float | None = None,
    unit: str | None = None,
    bounds: tuple[float, float] | None = None,
    trivial: float | None = None,
) -> StudyResults:
    """Return verdicts and confidence intervals for scores of several arms, trained with the same seeds.

    Args:
        scores: a CSV file with the columns arm, seed and score, and image (and group) for per-image scores; one log
            per run, such as Ultralytics' ``results.csv``, timm's ``summary.csv`` or Lightning's ``metrics.csv``, in a
            folder named by the run (``se-seed0/results.csv``) or as ``"ARM:SEED=FILE"``; a DataFrame; a mapping of
            columns; a list of rows as mappings; or arm -> scores in the order of the seeds.
        metric: name of the score column; None infers it.
        baseline: arm that all others are compared with.
        controls: further arms outside Holm's correction; ``extra for ARM``, ``noise for ARM`` and ``shuffled for ARM``
            always are.
        lower_is_better: direction of the scores; None infers it.
        margin: largest negligible difference, in the unit of the scores; None: the metric's,
            else 1 % of span or baseline.
        unit: unit of the scores, such as "%"; None infers it.
        bounds: smallest and largest possible score; None infers them.
        trivial: score of a predictor that ignores the image; a baseline no better gets no verdicts.

    Raises:
        UserError: the baseline is missing or the only arm, an arm shares no seed with the baseline, or the scores
            cannot be read.
    """
    run_scores = read_scores(scores, metric)
    names = list(dict.fromkeys(arm for arm, _ in run_scores.scores))
    _check_arms(run_scores, names, baseline, controls)
    names.sort(key=lambda name: name != baseline)
    seeds = tuple(sorted({seed for _, seed in run_scores.scores}))
    image_scores = [score for values in (run_scores.images or {}).values() for score in values.tolist()]
    all_scores = [*run_scores.scores.values(), *image_scores]
    baseline_scores = [score for (arm, _), score in run_scores.scores.items() if arm == baseline]
    inferred_metric, metric_sentence = infer_metric(
        run_scores.column, all_scores, float(np.mean(baseline_scores)),
        unit=unit, bounds=bounds, lower_is_better=lower_is_better, margin=margin,
    )  # fmt: skip
    arms = [Arm(name, _control_settings(name, names, controls)) for name in names]
    table = {name: [run_scores.scores.get((name, seed)) for seed in seeds] for name in names}
    values, sizes = _pseudo_values(run_scores, names, seeds)
    analysis = analyse(
        table,
        metric=inferred_metric,
        values=values,
        baseline=baseline,
        controls=frozenset(arm.name for arm in arms if arm.control),
        trivial=None if trivial is None else ("as given", trivial),
        seeds=seeds,
        sizes=sizes,
    )
    notes = [StudyNote("scores", text) for text in (metric_sentence, *run_scores.notes, _unknown_note(run_scores))]
    notes += [StudyNote("analysis", text) for text in analysis.notes]
    return StudyResults(
        name=run_scores.name,
        origin=run_scores.origin,
        baseline=baseline,
        seeds=seeds,
        margin=inferred_metric.margin,
        task=None,
        metric=inferred_metric,
        trivial=None if trivial is None else ("the trivial answer as given", trivial),
        arms=tuple(
            ArmResult(arm, None, tuple(table[arm.name]), row.mean, row.sd, None, None)
            for arm, row in zip(arms, analysis.arms, strict=True)
        ),
        analysis=analysis,
        notes=tuple(notes),
        runs=tuple(_run_result(run_scores, inferred_metric.name, name, seed) for seed in seeds for name in names),
        scored_epoch=run_scores.scored_epoch,
        advice="Train the baseline longer or with another learning rate until it is better, then compare."
        if analysis.not_learnt
        else "",
    )


def _check_arms(run_scores: RunScores, names: list[str], baseline: str, controls: Collection[str]) -> None:
    """Raise UserError unless there are a baseline and another arm, and each arm shares a seed with the baseline."""
    listed = ", ".join(names)
    if baseline not in names:
        raise UserError(
            f"no arm of {run_scores.name} is called {baseline!r}.{did_you_mean(baseline, names)} Name the arm that the "
            f"others are compared with by --baseline; the arms are {listed}."
        )
    if len(names) < 2:
        raise UserError(f"{run_scores.name} holds only the arm {listed!r}; a comparison needs another arm")
    for name in controls:
        if name not in names or name == baseline:
            candidates = [other for other in names if other != baseline]
            raise UserError(
                f"no arm {name!r} can be a control.{did_you_mean(name, candidates)} The arms besides the baseline are "
                f"{', '.join(candidates)}."
            )
    seeds_by_arm = {name: sorted(seed for arm, seed in run_scores.scores if arm == name) for name in names}
    for name in names:
        if not set(seeds_by_arm[name]) & set(seeds_by_arm[baseline]):
            raise UserError(
                f"{name} has the seeds {_first_seeds(seeds_by_arm[name])}, {baseline} has "
                f"{_first_seeds(seeds_by_arm[baseline])}. Only runs with the same seed are compared, and these "
                "arms share none; use the same seeds for both"
            )


def _first_seeds(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds[:5])) + (" …" if len(seeds) > 5 else "")


def _control_settings(name: str, names: Collection[str], controls: Collection[str]) -> dict[str, str]:
    """Return the settings that mark an arm as a control, by its name or by ``controls``; {} for other arms."""
    kind, _, controlled_arm = name.partition(" for ")
    if kind in CONTROLS and controlled_arm in names:
        return {"attention.control": kind}
    return {"attention.control": "control"} if name in controls else {}


def _pseudo_values(
    run_scores: RunScores, names: list[str], seeds: tuple[int, ...]
) -> tuple[dict[str, NDArray[np.float64]] | None, list[int] | None]:
    """Return the pseudo-values (seeds, units) by arm, NaN for absent runs, and the number of images per unit."""
    if run_scores.images is None:
        return None, None
    count = len(next(iter(run_scores.images.values())))
    sizes = unit_sizes(count, run_scores.groups, jackknifed=False)
    missing_values = np.full(len(sizes), np.nan)
    values_by_run = {
        key: from_values(image_scores, run_scores.groups) for key, image_scores in run_scores.images.items()
    }
    values = {name: np.stack([values_by_run.get((name, seed), missing_values) for seed in seeds]) for name in names}
    return values, [int(size) for size in sizes]


def _unknown_note(run_scores: RunScores) -> str:
    """Return a note on results that scores do not give."""
    sentence = "Parameters, MACs, latency, learning curves and example images are not known from scores."
    if run_scores.images is not None:
        return sentence
    return (
        f"{sentence} With one score per run, the uncertainty from the choice of test images is ignored: the intervals "
        "hold for these images only. To include it, give one row per test image, with a column 'image'."
    )


def _run_result(run_scores: RunScores, metric: str, name: str, seed: int) -> RunResult:
    score = run_scores.scores.get((name, seed))
    if score is None:
        return RunResult(name, seed, "missing", "")
    return RunResult(name, seed, "done", run_scores.files.get((name, seed), ""), {metric: score})
