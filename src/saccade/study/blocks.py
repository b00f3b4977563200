"""Randomised blocks: the least squares, the tests and the power of a study, for one study or for thousands at once.

Arms are the treatments, seeds are the blocks, and the only model is

    score[arm, seed] = mu[arm] + b[seed] + e[arm, seed],    e independent, mean 0, variance σ²

fitted by least squares to the runs that have a score; nothing is imputed. σ² is pooled over all arms:

    s² = Σ residual² / df,              df = runs - rank              ((A-1)(S-1) when all A·S runs are there)
    se(mu[a] - mu[0]) = s √unit[a],     unit from the normal equations       (2/S when all runs are there)

Differences are tested by t with that df, two-sided, and a family of them is corrected by Holm's step-down (Holm 1979,
Scand. J. Stat. 6:65). Everything that depends on scores takes leading axes ``(..., arm, seed)``: ``analyse`` and the
10,000 studies of ``benchmarks/simulation.py`` go through the same lines.

Two constants turn a standard error into a detectable difference, and they are not the same number.

*Planned*: σ is known, the study is still to be run and will estimate s. Its T is noncentral t, and the constant is the
noncentrality at which P(T > t_crit) = power.

*Stated*: the study has been run and speaks in its own s. A true difference of c·se is found when
(d - c·se)/se + c > t_crit, where d is the estimate; the fraction is central t, so c = t_crit + t_power. It is the
smaller of the two: a study whose s came out large by luck, and so finds less, also states a larger difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtr, stdtrit

__all__ = [
    "MOST_SEEDS",
    "Design",
    "Fit",
    "Judgement",
    "Verdict",
    "fit",
    "holm",
    "image_floor",
    "judge",
    "paired_images",
    "planned_detectable",
    "seeds_needed",
    "stated_detectable",
]

Floats = NDArray[np.float64]
Verdict = Literal["helps", "hurts", "equal", "not decided"]

MOST_SEEDS = 100
"""``seeds_needed`` looks no further: a study of more seeds is no answer."""

ZERO = 1e-9
"""Percentage points. What float64 leaves of an exactly zero difference or spread lies far below this."""


@dataclass(frozen=True)
class Design:
    """Least squares of score = arm + seed for one pattern of present runs; no score enters.

    Attributes:
        present: (A, S) bool, the N runs that have a score.
        contrasts: (A, N); row a turns the present scores into arm a minus arm 0.
        unit: (A,), variance of that difference at σ = 1; NaN where the runs do not tie arm a to arm 0.
        residuals: (N, N), the projector onto the residuals.
        seed_weights: (S, N), turns the present scores into centred seed effects.
        seed_unit: mean variance of a seed effect at σ = 1; NaN where the runs do not tie all seeds together.
        df: residual degrees of freedom.
    """

    present: NDArray[np.bool_]
    contrasts: Floats
    unit: Floats
    residuals: Floats
    seed_weights: Floats
    seed_unit: float
    df: int

    @classmethod
    def of(cls, present: ArrayLike) -> Design:
        """The design of a table (A, S) of present runs, at least one in each row and column; arm 0 is the baseline."""
        table = np.asarray(present, dtype=bool)
        arms, seeds = table.shape
        arm, seed = np.nonzero(table)
        x = np.hstack([np.eye(arms)[arm], np.eye(seeds)[seed]])  # (N, A + S): one dummy per arm and per seed
        inverse = np.linalg.pinv(x)  # (A + S, N)
        rank = int(np.linalg.matrix_rank(x))
        difference = np.hstack([np.eye(arms) - np.eye(arms)[0], np.zeros((arms, seeds))])
        contrasts = difference @ inverse
        # A difference can be estimated where it lies in the row space of x.
        estimable = np.abs(contrasts @ x - difference).max(axis=1) < 1e-8
        effects = inverse[arms:] - inverse[arms:].mean(axis=0)
        tied = rank == arms + seeds - 1 and seeds > 1
        return cls(
            present=table,
            contrasts=contrasts,
            unit=np.where(estimable, np.square(contrasts).sum(axis=1), np.nan),
            residuals=np.eye(len(x)) - x @ inverse,
            seed_weights=effects,
            seed_unit=float(np.square(effects).sum() / (seeds - 1)) if tied else math.nan,
            df=len(x) - rank,
        )


@dataclass(frozen=True)
class Fit:
    """What least squares makes of scores, all in the unit of the scores.

    Attributes:
        differences: (..., A), arm minus arm 0; NaN where it cannot be estimated.
        residuals: (..., N), in the order of ``np.nonzero(design.present)``.
        sigma: (...), pooled residual SD; NaN without degrees of freedom.
        se: (..., A), standard error of the differences.
    """

    differences: Floats
    residuals: Floats
    sigma: Floats
    se: Floats


def fit(scores: Floats, design: Design) -> Fit:
    """Fit scores (..., A, S) under ``design``; absent runs may hold anything."""
    present = scores[..., design.present]  # (..., N)
    differences = _snap(present @ design.contrasts.T) + np.where(np.isnan(design.unit), np.nan, 0.0)
    residuals = present @ design.residuals.T
    if design.df:
        sigma = _snap(np.sqrt(np.square(residuals).sum(axis=-1) / design.df))
    else:
        sigma = np.full(present.shape[:-1], np.nan)
    return Fit(differences, residuals, sigma, np.asarray(sigma)[..., None] * np.sqrt(design.unit))


def _snap(points: Floats) -> Floats:
    return np.where(np.abs(points) < ZERO, 0.0, points)


@dataclass(frozen=True)
class Judgement:
    """Tests of M differences, every array (..., M); NaN where there was nothing to test with."""

    low: Floats
    high: Floats
    p: Floats
    p_holm: Floats
    verdict: NDArray[np.str_]


def judge(differences: Floats, se: Floats, df: int, *, family: ArrayLike, margin: float, alpha: float) -> Judgement:
    """Interval, p, Holm's p and verdict of each difference.

    Args:
        differences: (..., M), points.
        se: (..., M), their standard errors. NaN: no test. Zero: nothing was seen to vary, so a difference of exactly
            zero is equal, and any other has no known error and is not tested.
        df: degrees of freedom of the standard errors.
        family: (M,) bool, True for the differences corrected together; each of the others stands alone.
        margin: half-width of "equal", points.
        alpha: error of the family; intervals are at 1 - alpha each, not corrected.
    """
    together = np.asarray(family, dtype=bool)
    half = t_quantile(1 - alpha / 2, df) * se if df else np.full_like(se, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(differences) / se
    p = 2 * stdtr(df, -t) if df else np.full_like(se, np.nan)
    constant = (se == 0) & bool(df)
    p = np.where(constant, np.where(differences == 0, 1.0, np.nan), p)
    half = np.where(np.isnan(p), np.nan, half)
    low, high = differences - half, differences + half
    p_holm = p.copy()
    p_holm[..., together] = holm(p[..., together])
    significant = p_holm < alpha
    verdict = np.select(
        [significant & (differences > 0), significant & (differences < 0), (low > -margin) & (high < margin)],
        ["helps", "hurts", "equal"],
        "not decided",
    )
    return Judgement(low, high, p, p_holm, verdict)


def holm(p: Floats) -> Floats:
    """Holm's step-down p over the last axis (..., M) of a family; NaN is no member of it and stays NaN."""
    order = np.argsort(p, axis=-1)  # NaN last
    ascending = np.take_along_axis(p, order, axis=-1)
    members = np.count_nonzero(~np.isnan(p), axis=-1)[..., None]
    steps = np.maximum.accumulate(ascending * (members - np.arange(p.shape[-1])), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), axis=-1)
    return adjusted


def paired_images(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> tuple[float, float]:
    """Squared standard error of a difference from the test images alone, in two parts, points².

    The McNemar idea over seeds: d[seed, image] = correct - baseline in {-1, 0, 1}; its mean over seeds varies between
    images, and that variance / images is what the choice of these test images costs, however many seeds are run.
    Where few answers differ, or none, the variance says too little; it is held above ``image_floor``.

    Args:
        correct: (S, n) bool, one row per seed that both arms have.
        baseline: (S, n) bool.

    Returns:
        ``(lasting, passing)``: at s seeds the squared error is ``lasting + passing / s``, which at S is the observed
        one or the floor, whichever is larger. The passing part is the scatter of one image over seeds, which more
        seeds average away; the floor lasts.
    """
    d = 100.0 * (correct.astype(np.float64) - baseline.astype(np.float64))
    seeds, images = d.shape
    floor = image_floor(images)
    if images < 2:
        return floor, 0.0
    observed = max(float(d.mean(axis=0).var(ddof=1)) / images, floor)
    within = float(d.var(axis=0, ddof=1).mean()) / images if seeds > 1 else 0.0
    passing = min(within, (observed - floor) * seeds)
    return observed - passing / seeds, passing


def image_floor(images: int) -> float:
    """Squared standard error, points², that no agreement on ``images`` test images can undercut.

    Two pseudo images, one gained and one lost, beside images that all answer alike: 2 / (n + 2) is the share that
    differs and 2 / (n + 2)² the squared error of the difference (Bonett & Price 2012, J. Educ. Behav. Stat. 37:479;
    Agresti & Min 2005, Stat. Med. 24:729, add half of each). Two images that agree thus prove nothing.
    """
    return 2 * 100.0**2 / (images + 2) ** 2


def t_quantile(probability: float, df: ArrayLike) -> Floats:
    """Quantile of Student's t."""
    return np.asarray(stdtrit(df, probability), dtype=np.float64)


def stated_detectable(df: int, mechanisms: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The constant c of a study that was run: it finds a true difference of c·(its own se) with this power.

    Found means significant in the right direction at the first step of Holm, alpha / mechanisms, two-sided.
    """
    return float(t_quantile(1 - alpha / (2 * mechanisms), df) + t_quantile(power, df))


def planned_detectable(
    sigma: float,
    seeds: int,
    arms: int,
    mechanisms: int,
    alpha: float = 0.05,
    power: float = 0.8,
    images: float = 0.0,
) -> float:
    """Smallest true difference to ``none`` that a study still to be run will find with this power, in points.

    Args:
        sigma: residual SD, known from earlier runs, points.
        seeds: runs of each arm.
        arms: all arms of the study: none, mechanisms and controls.
        mechanisms: size of the Holm family.
        alpha: error of the family, two-sided.
        power: probability of finding it at the first step of Holm.
        images: squared standard error that the test images leave at any number of seeds, points².

    Returns:
        The difference; infinite where a study has one seed or one arm, since it cannot estimate its own error.
    """
    df = (arms - 1) * (seeds - 1)
    if df < 1:
        return math.inf
    critical = float(t_quantile(1 - alpha / (2 * mechanisms), df))
    far = 2 * stated_detectable(df, mechanisms, alpha, power)  # the planned constant is at most 1.3 times the stated
    shift = brentq(lambda nc: 1 - nctdtr(df, nc, critical) - power, 0, far)
    return float(shift) * max(sigma * math.sqrt(2 / seeds), math.sqrt(images))


def seeds_needed(
    difference: float,
    *,
    sigma: float,
    images: tuple[float, float] = (0.0, 0.0),
    seeds: int,
    arms: int,
    mechanisms: int,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Smallest number of seeds, above ``seeds``, at which a study would probably decide; None beyond 100.

    It decides when, at a true difference of ``difference`` and this sigma, a complete study either finds the difference
    at the first step of Holm, or puts its whole interval inside ±margin, with probability ``power``.

    Args:
        difference: the difference as estimated, points.
        sigma: residual SD as estimated, points, taken as known.
        images: the two parts given by ``paired_images``, points².
        seeds: seeds the study has.
        arms: all arms with a score.
        mechanisms: size of the Holm family; 1 for a control.
        margin: half-width of "equal", points.
        alpha: as in the study.
        power: as in the study.
    """
    s = np.arange(seeds + 1, MOST_SEEDS + 1)
    se = np.sqrt(np.maximum(2 * sigma**2 / np.maximum(s, 1), images[0] + images[1] / np.maximum(s, 1)))
    df = (arms - 1) * (s - 1)
    usable = (df > 0) & (se > 0)
    s, se, df = s[usable], se[usable], df[usable]
    size = abs(difference)
    found = 1 - nctdtr(df, size / se, t_quantile(1 - alpha / (2 * mechanisms), df))
    # Two one-sided tests; the corner both of them miss is negligible where the sum reaches a power of interest.
    edge = t_quantile(1 - alpha / 2, df)
    inside = 1 - nctdtr(df, (margin - size) / se, edge) - nctdtr(df, (margin + size) / se, edge)
    enough = np.flatnonzero(np.maximum(found, inside) >= power)
    return int(s[enough[0]]) if len(enough) else None
