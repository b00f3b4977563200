"""What a study may say: each mechanism against ``none``, with its interval and its verdict.

``analyse`` takes the scores of all arms at all seeds and returns an ``Analysis``. The model and its tests are in
``blocks``, the error of the test images and the power in ``precision``, the findings and their sentences in
``findings``. Scores are in percentage points.

Conventions:

* The interval of a difference is at 1 - alpha and not corrected; p is corrected by Holm over the mechanisms. Controls
  are no part of that family: each stands alone, with p_holm = p.
* The squared standard error is the sum of two: what the runs leave (``blocks.fit``) and what the test images leave at
  any number of seeds (``precision.lasting_error``). It is read against t with Satterthwaite's degrees of freedom, which
  differ from row to row. Images that all answer alike still leave an error (``precision.image_floor``): a handful of
  them can make nothing "equal".
* *helps*, *hurts*: Holm's p < alpha. *equal*: not so, and the interval lies inside ±margin. *not decided*: all else.
* A run without a score (NaN, None, infinite) is left out and nothing is put in its place. An arm without any score
  keeps its row, which says so. One seed measures no spread: no interval, no p, every verdict "not decided".
* Where the residuals are exactly zero and no ``correct`` is given, nothing is known to vary: arms with the same scores
  are "equal" by convention, and any other difference is "not decided": its error is unknown, not zero. A study that
  was run always has ``correct``, and so an error above zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from saccade.errors import UserError, did_you_mean
from saccade.study.blocks import (
    Design,
    Fit,
    Verdict,
    fit,
    judge,
    widest_arm,
)
from saccade.study.findings import Analysis, Arm, Difference
from saccade.study.precision import (
    image_variances,
    images_needed,
    lasting_error,
    seeds_needed,
    standard_error,
    stated_detectable,
)

__all__ = ["FIRST_LOOK", "METHOD", "Analysis", "Arm", "Difference", "analyse"]

FIRST_LOOK = 3
"""A study of so many seeds or fewer is called a first look."""

METHOD = """\
Every arm was trained with the same seeds; a seed fixes the host's first weights, the order of the data and the \
augmentation. The last epoch is scored. One additive model, score = arm + seed, is fitted by least squares; the \
residuals, pooled over all arms and moderated by each difference's own runs, give the error of the seeds. To its \
square is added what the test images leave at any number of seeds. Each difference has a 95 % t interval with \
Satterthwaite's degrees of freedom, not corrected for the number of comparisons. "Helps" and "hurts" need p < 0.05 \
after Holm's correction over the mechanisms; controls stand outside. "Equal" means that the interval lies inside the \
margin. A true difference of the detectable size is found with probability 0.8. Known limits, \
simulated: up to 6 % false verdicts with one mechanism at three seeds; an arm that scatters twice as much as \
the others has too narrow an interval. Failed runs are left out. All this \
speaks of this host, this recipe and images like these only."""
"""How it was computed, for the reader of a report."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def analyse(
    scores: Mapping[str, Sequence[float | None] | Floats],
    *,
    baseline: str = "none",
    controls: Collection[str] = frozenset(),
    correct: Mapping[str, Bools] | None = None,
    margin: float = 1.0,
    alpha: float = 0.05,
    seeds: Sequence[int] | None = None,
) -> Analysis:
    """Compare every arm with the baseline as one block design.

    Args:
        scores: arm -> one score per seed, percentage points, the same seeds in the same order for all; NaN, None or
            infinite where a run has none.
        baseline: the arm the others are compared with.
        controls: arms outside the Holm family. To compare a mechanism with its control, make the control the baseline
            and name all other arms here.
        correct: arm -> (seeds, test images) bool, whether each test image was right; rows of absent runs are not read.
            Without it, or where an arm is not in it, the error is that of the seeds alone.
        margin: half-width of "equal", points.
        alpha: error of the family; intervals are at 1 - alpha.
        seeds: the seeds themselves, for messages; by default 0, 1, …

    Raises:
        UserError: an unknown arm, a margin or alpha out of range, arms that disagree on the number of seeds or images.
    """
    names, table = _table(scores, baseline, margin, alpha)
    labels = tuple(range(table.shape[1])) if seeds is None else tuple(int(seed) for seed in seeds)
    if len(labels) != table.shape[1]:
        raise UserError(f"{len(labels)} seeds are named, but every arm has {table.shape[1]} scores")
    for name in sorted({*controls, *(correct or {})} - set(names)):
        raise UserError(f"'{name}' is no arm of this study.{did_you_mean(name, names)}")
    right = _right(correct or {}, table.shape[1])
    present = np.isfinite(table)
    used = np.flatnonzero(present.any(axis=0))
    rows = [
        _unjudged(name, names[0], row - table[0], name in controls, margin, alpha)
        for name, row in zip(names, table, strict=True)
    ]
    notes = _notes_on_runs(names, present, labels)
    analysis = Analysis(
        baseline=baseline,
        margin=margin,
        alpha=alpha,
        arms=tuple(_arm(name, row) for name, row in zip(names, table, strict=True)),
        differences=tuple(rows[1:]),
        sigma=None,
        df=0,
        seed_sd=None,
        largest_residual=None,
        largest_residual_at=None,
        seeds=labels,
        images=next((rows.shape[1] for rows in right.values()), None),
        first_look=len(used) <= FIRST_LOOK,
        notes=notes,
    )
    if not present[0].any():
        why = f"No run of {baseline} has a score."
        return replace(analysis, differences=tuple(replace(row, reason=why) for row in rows[1:]))

    arms = np.flatnonzero(present.any(axis=1))  # the baseline is the first
    design = Design.of(present[np.ix_(arms, used)])
    fitted = fit(table[np.ix_(arms, used)], design)
    lasting = np.array([_lasting(right, names[a], baseline, present[a] & present[0]) for a in arms[1:]])
    judged = _judged([rows[a] for a in arms[1:]], design, fitted, lasting, analysis.images)
    for a, row in zip(arms[1:], judged, strict=True):
        rows[a] = row
    sigma = _number(fitted.sigma)
    largest, place, stands_out = _largest_residual(fitted, design)
    at = None if place is None else (names[arms[place[0]]], labels[used[place[1]]])
    widest = widest_arm(table[np.ix_(arms, used)], design)
    wide = [] if widest is None or sigma is None else [_note_on_width(names[arms[widest[0]]], widest[1], sigma)]
    return replace(
        analysis,
        differences=tuple(rows[1:]),
        sigma=sigma,
        df=design.df,
        seed_sd=_seed_sd(table[np.ix_(arms, used)], design, sigma),
        largest_residual=largest,
        largest_residual_at=at,
        notes=(*notes, *_notes_on_fit(rows[1:], sigma, at if stands_out else None), *wide),
    )


def _table(
    scores: Mapping[str, Sequence[float | None] | Floats], baseline: str, margin: float, alpha: float
) -> tuple[list[str], Floats]:
    """Names and scores (A, S), the baseline first; NaN where a run has no score."""
    if baseline not in scores:
        raise UserError(f"'{baseline}' is no arm of this study: {', '.join(scores)}.{did_you_mean(baseline, scores)}")
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin must be a positive number of points, got {margin}")
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha must lie between 0 and 0.5, got {alpha}")
    names = [baseline, *(name for name in scores if name != baseline)]
    rows = [np.array([math.nan if s is None else s for s in scores[name]], dtype=np.float64) for name in names]
    for name, row in zip(names, rows, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{name} has {len(row)} scores and {baseline} has {len(rows[0])}: every arm needs one per seed"
            )
    table = np.stack(rows)
    return names, np.where(np.isfinite(table), table, np.nan)


def _right(correct: Mapping[str, Bools], seeds: int) -> dict[str, Bools]:
    """The right answers (S, n) as given, once their sizes agree."""
    right = {name: np.asarray(rows, dtype=bool) for name, rows in correct.items()}
    images = {rows.shape[-1] for rows in right.values()}
    for name, rows in right.items():
        if rows.ndim != 2 or len(rows) != seeds or len(images) > 1:
            raise UserError(f"correct['{name}'] is {rows.shape}; every arm needs ({seeds} seeds, the same test images)")
    return right


def _lasting(right: Mapping[str, Bools], name: str, baseline: str, shared: Bools) -> float:
    """``lasting_error`` over the seeds that both arms have; NaN where there are no pairs of answers."""
    if name not in right or baseline not in right or not shared.any():
        return math.nan
    between, within = image_variances(right[name][shared], right[baseline][shared])
    return float(lasting_error(between, within, int(shared.sum()), right[name].shape[1]))


def _unjudged(name: str, baseline: str, raw: Floats, is_control: bool, margin: float, alpha: float) -> Difference:
    """The row of an arm before anything is known but its raw differences."""
    pairs = raw[np.isfinite(raw)]
    return Difference(
        name=name,
        baseline=baseline,
        difference=None,
        low=None,
        high=None,
        se=None,
        se_images=None,
        se_from=None,
        df=None,
        p=None,
        p_holm=None,
        verdict="not decided",
        detectable=None,
        seeds_needed=None,
        images_needed=False,
        raw=tuple(pairs.tolist()),
        seeds=len(pairs),
        is_control=is_control,
        comparisons=1,
        margin=margin,
        alpha=alpha,
        reason=f"No run of {name} has a score.",
    )


def _judged(
    rows: Sequence[Difference], design: Design, fitted: Fit, lasting: Floats, images: int | None
) -> list[Difference]:
    """The rows of the arms that have scores, with their tests; ``lasting`` (rows,) as of ``_lasting``."""
    if not rows:
        return []
    margin, alpha = rows[0].margin, rows[0].alpha
    estimates, from_seeds = fitted.differences[1:], fitted.se[1:]
    se, df, lasting_se = standard_error(from_seeds, design.difference_df[1:], lasting, images)
    family = np.array([not row.is_control for row in rows])
    tests = judge(estimates, se, df, family=family, margin=margin, alpha=alpha)
    mechanisms = int((family & ~np.isnan(tests.p)).sum())
    arms, seeds = design.present.shape
    verdicts: list[Verdict] = tests.verdict.tolist()
    judged = []
    for i, row in enumerate(rows):
        if math.isnan(tests.p[i]):
            estimate = _number(estimates[i])
            judged.append(replace(row, difference=estimate, reason=_why_untested(row, estimate, design)))
            continue
        comparisons = 1 if row.is_control else mechanisms
        needed, too_few_images = None, False
        if verdicts[i] == "not decided":
            known: dict[str, Any] = {
                "lasting": float(lasting[i]),
                "images": None if math.isnan(lasting[i]) else images,
                "mechanisms": comparisons,
                "margin": margin,
                "alpha": alpha,
            }
            needed = seeds_needed(
                float(estimates[i]), sigma=float(fitted.spread[1 + i]), seeds=seeds, arms=arms, **known
            )
            too_few_images = needed is None and images_needed(float(estimates[i]), **known)
        judged.append(
            replace(
                row,
                difference=float(estimates[i]),
                low=float(tests.low[i]),
                high=float(tests.high[i]),
                se=float(se[i]),
                se_images=float(lasting_se[i]),
                se_from="images" if lasting_se[i] > from_seeds[i] else "seeds",
                df=float(df[i]),
                p=float(tests.p[i]),
                p_holm=float(tests.p_holm[i]),
                verdict=verdicts[i],
                detectable=float(se[i] * stated_detectable(df[i], comparisons, alpha)),
                seeds_needed=needed,
                images_needed=too_few_images,
                comparisons=comparisons,
                reason=None,
            )
        )
    return judged


def _why_untested(row: Difference, estimate: float | None, design: Design) -> str:
    if estimate is None:
        return f"It shares no seed with {row.baseline}, not even through other arms."
    if design.present.shape[1] < 2:
        return "One seed measures no spread between runs: take two or more."
    if design.df == 0:
        return "The runs that have a score leave no degrees of freedom to measure the spread with."
    return "No score varies between seeds, so the error of this difference is unknown."


def _seed_sd(table: Floats, design: Design, sigma: float | None) -> float | None:
    """Variance component of the seeds as an SD: what is left of their spread when σ has had its share."""
    if sigma is None or math.isnan(design.seed_unit):
        return None
    effects = design.seed_weights @ table[design.present]
    return math.sqrt(max(float(effects.var(ddof=1)) - design.seed_unit * sigma**2, 0.0))


def _largest_residual(fitted: Fit, design: Design) -> tuple[float | None, tuple[int, int] | None, bool]:
    """Size and place (arm, seed) of the largest internally studentised residual, and whether it is an outlier.

    Outlier: its externally studentised form has Bonferroni's p < 0.05 over all runs. Below six degrees of freedom none
    is named: scores are rounded, and where few others are left they may agree by chance to the last digit.
    """
    free = np.diag(design.residuals)
    if design.df == 0 or not fitted.sigma > 0:
        return None, None, False
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(free > 1e-8, np.abs(fitted.residuals) / (fitted.sigma * np.sqrt(free)), 0.0)
    worst = int(size.argmax())
    place = np.argwhere(design.present)[worst]
    squared, df = float(size[worst]) ** 2, design.df
    outlier = False
    if df >= 6:
        deleted = math.sqrt(squared * (df - 1) / max(df - squared, 1e-12))
        outlier = 2 * float(stdtr(df - 1, -deleted)) * len(size) < 0.05
    return float(size[worst]), (int(place[0]), int(place[1])), outlier


def _arm(name: str, row: Floats) -> Arm:
    there = row[np.isfinite(row)]
    return Arm(
        name=name,
        mean=float(there.mean()) if len(there) else None,
        sd=float(there.std(ddof=1)) if len(there) > 1 else None,
        scores=tuple(_number(score) for score in row),
    )


def _number(value: float | Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _notes_on_runs(names: Sequence[str], present: Bools, seeds: Sequence[int]) -> tuple[str, ...]:
    """What the reader must know of the runs before any verdict."""
    notes = []
    used = int(present.any(axis=0).sum())
    if 1 < used <= FIRST_LOOK:
        notes.append(f"{used} seeds are a first look: intervals are wide, and verdicts may change with more seeds.")
    elif used == 1:
        notes.append("One seed measures no spread between runs, so nothing is decided.")
    lost = []
    for name, row in zip(names, present, strict=True):
        absent = [str(seed) for seed, there in zip(seeds, row, strict=True) if not there]
        if absent:
            lost.append(f"{name} at {'every seed' if len(absent) == len(row) else 'seed ' + ', '.join(absent)}")
    if lost:
        notes.append(
            f"Without a score: {'; '.join(lost)}. The model is fitted to the other runs; nothing is filled in."
        )
    return tuple(notes)


def _notes_on_fit(rows: Sequence[Difference], sigma: float | None, outlier: tuple[str, int] | None) -> tuple[str, ...]:
    """What the reader must know of the fit."""
    notes = []
    if sigma == 0:
        notes.append(
            "The scores leave no residual at all: check that seeds change the runs and that the network learns."
        )
    by_images = [row.name for row in rows if row.se_from == "images"]
    if by_images:
        notes.append(
            f"For {', '.join(by_images)} the larger part of the standard error comes from the test images; more test "
            "images narrow it, more seeds do not."
        )
    if outlier is not None:
        notes.append(f"The score of {outlier[0]} at seed {outlier[1]} fits the others badly: look at that run.")
    return tuple(notes)


def _note_on_width(name: str, without: float, sigma: float) -> str:
    return (
        f"The runs of {name} scatter more than those of the other arms, which widens every interval: the pooled "
        f"standard deviation is {sigma:.2f} points, and {without:.2f} without {name}. A study without {name} sees more."
    )
