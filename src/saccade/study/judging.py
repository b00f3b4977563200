"""Judge scores that another trainer made, as a study of our own is judged."""

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
from saccade.study.run_notes import Note, RunResult
from saccade.study.scores.given import Given, gather
from saccade.study.scores.measures import measured
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
    """Verdicts, intervals and power for scores of any trainer: several arms, each trained with the same seeds.

    Args:
        scores: a CSV file with the columns arm, seed, score, and image and group where there is a row a test image; or
            several logs, one a run: Ultralytics' ``results.csv``, timm's ``summary.csv``, Lightning's ``metrics.csv``.
            The folder names the run of a log (``se-seed0/results.csv``), or ``"ARM:SEED=FILE"`` does. Or a DataFrame,
            columns by name, a list of rows by name, or arm -> scores in the order of the seeds.
        metric: the column of the scores; None chooses by its name, and the results say which.
        baseline: the arm that all others are compared with.
        controls: arms outside the correction, beside those named ``extra for ARM``, ``noise for ARM`` and ``shuffled
            for ARM``.
        lower_is_better: None goes by the column's name: it is so for losses and errors.
        margin: half-width of "equal", in the unit of the scores; None takes a hundredth of the span.
        unit: of the scores, as "%"; None goes by the column's name and values.
        bounds: the least and the largest possible score; None goes by the unit and the name.
        trivial: what an answer that needs no image scores. No arm is judged where the baseline is not better.

    Raises:
        UserError: there is one arm or no such baseline, an arm shares no seed with it, or the scores cannot be read.
    """
    given = gather(scores, metric)
    names = list(dict.fromkeys(arm for arm, _ in given.scores))
    _check_arms(given, names, baseline, controls)
    names.sort(key=lambda name: name != baseline)
    seeds = tuple(sorted({seed for _, seed in given.scores}))
    flat = [*given.scores.values(), *(x for own in (given.images or {}).values() for x in own.tolist())]
    own = [score for (arm, _), score in given.scores.items() if arm == baseline]
    found, said = measured(
        given.column, flat, float(np.mean(own)),
        unit=unit, bounds=bounds, lower_is_better=lower_is_better, margin=margin,
    )  # fmt: skip
    arms = [Arm(name, _control(name, names, controls)) for name in names]
    table = {name: [given.scores.get((name, seed)) for seed in seeds] for name in names}
    values, sizes = _values(given, names, seeds)
    analysis = analyse(
        table,
        metric=found,
        values=values,
        baseline=baseline,
        controls=frozenset(arm.name for arm in arms if arm.control),
        reference=None if trivial is None else ("as given", trivial),
        seeds=seeds,
        sizes=sizes,
    )
    notes = [Note("scores", text) for text in (said, *given.notes, _missing(given))]
    notes += [Note("analysis", text) for text in analysis.notes]
    return StudyResults(
        name=given.name,
        origin=given.origin,
        baseline=baseline,
        seeds=seeds,
        margin=found.margin,
        task=None,
        metric=found,
        trivial=None if trivial is None else ("the trivial answer as given", trivial),
        arms=tuple(
            ArmResult(arm, None, tuple(table[arm.name]), row.mean, row.sd, None, None)
            for arm, row in zip(arms, analysis.arms, strict=True)
        ),
        analysis=analysis,
        notes=tuple(notes),
        runs=tuple(_run(given, found.name, name, seed) for seed in seeds for name in names),
        scored=given.scored,
        advice="Train it longer or with another rate until it is better, then compare." if analysis.not_learnt else "",
    )


def _check_arms(given: Given, names: list[str], baseline: str, controls: Collection[str]) -> None:
    """Raise UserError unless there is a baseline, another arm, and a seed that each shares with the baseline."""
    listed = ", ".join(names)
    if baseline not in names:
        raise UserError(
            f"no arm of {given.name} is called {baseline!r}.{did_you_mean(baseline, names)} Name the one that the "
            f"others are compared with by --baseline; there are {listed}."
        )
    if len(names) < 2:
        raise UserError(f"{given.name} holds the one arm {listed!r}; a comparison needs another")
    for name in controls:
        if name not in names or name == baseline:
            others = [other for other in names if other != baseline]
            raise UserError(
                f"there is no arm {name!r} beside {baseline!r} to be a control.{did_you_mean(name, others)} There are "
                f"{', '.join(others)}."
            )
    own = {name: sorted(seed for arm, seed in given.scores if arm == name) for name in names}
    for name in names:
        if not set(own[name]) & set(own[baseline]):
            raise UserError(
                f"{name} has the seeds {_few(own[name])}, {baseline} has {_few(own[baseline])}: runs of one seed are "
                "compared, and they share none. Give both the same numbers, run by run"
            )


def _few(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds[:5])) + (" …" if len(seeds) > 5 else "")


def _control(name: str, names: Collection[str], controls: Collection[str]) -> dict[str, str]:
    """What marks an arm as a control: its kind by its name, or that the caller says so; {} for another."""
    kind, _, owner = name.partition(" for ")
    if kind in CONTROLS and owner in names:
        return {"attention.control": kind}
    return {"attention.control": "control"} if name in controls else {}


def _values(
    given: Given, names: list[str], seeds: tuple[int, ...]
) -> tuple[dict[str, NDArray[np.float64]] | None, list[int] | None]:
    """Arm -> pseudo-values (seeds, units), NaN for a run that is not there, and the images in each unit."""
    if given.images is None:
        return None, None
    count = len(next(iter(given.images.values())))
    sizes = unit_sizes(count, given.groups, jackknifed=False)
    nothing = np.full(len(sizes), np.nan)
    units = {key: from_values(own, given.groups) for key, own in given.images.items()}
    values = {name: np.stack([units.get((name, seed), nothing) for seed in seeds]) for name in names}
    return values, [int(size) for size in sizes]


def _missing(given: Given) -> str:
    """What scores alone cannot tell."""
    said = "Parameters, MACs, latency, learning curves and pictures are not known from scores."
    if given.images is not None:
        return said
    return (
        f"{said} One score a run leaves out what the choice of test images costs: the intervals hold for these images. "
        "A row a test image, in a column 'image', adds it."
    )


def _run(given: Given, metric: str, name: str, seed: int) -> RunResult:
    score = given.scores.get((name, seed))
    if score is None:
        return RunResult(name, seed, "missing", "")
    return RunResult(name, seed, "done", given.files.get((name, seed), ""), {metric: score})
