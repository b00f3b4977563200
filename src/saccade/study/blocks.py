"""Randomised blocks: the least squares and the tests of a study, for one study or for thousands at once.

Arms are the treatments, seeds are the blocks. The model is fitted to the runs that have a score; nothing is imputed:

    score[arm, seed] = mu[arm] + b[seed] + e[arm, seed],    e independent, mean 0, variance σ²
    s² = Σ residual² / df,              df = runs - rank              ((A-1)(S-1) when all A·S runs are there)

The variance behind one difference is that pooled s² moderated by the difference's own, which the m seeds that both arms
have give with m - 1 degrees of freedom (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3:3):

    own[a]²    = ½ var over seeds(score[a] - score[0])
    spread[a]² = (1 - w) s² + w own[a]²,       w = (m - 1) / (10 + m - 1)
    se[a]      = spread[a] √unit[a],           unit from the normal equations    (2/S when all runs are there)

Under the model both estimates are unbiased and cov(s², own²) = var(s²), so spread² has the degrees of freedom
1 / ((1 - w²) / df + w² / (m - 1)). The pooled variance alone does not see that a far-off mean comes from runs that lie
far apart: over 45 arms it gives 6 to 7 % false verdicts with t₅ noise, 8 to 10 % where SDs differ by a factor of two.

Differences are tested by t, two-sided; a family of them is corrected by Holm's step-down (Holm 1979, Scand. J. Stat.
6:65). Scores take leading axes ``(..., arm, seed)``, so that ``analyse`` and the studies of
``benchmarks/simulation.py`` go through the same lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

__all__ = [
    "PRIOR_DF",
    "Design",
    "Fit",
    "Judgement",
    "Verdict",
    "fit",
    "holm",
    "judge",
    "moderated_df",
    "t_quantile",
]

Floats = NDArray[np.float64]
Verdict = Literal["helps", "hurts", "equal", "not decided"]

PRIOR_DF = 10
"""Degrees of freedom that the pooled variance counts for beside a difference's own.

Fixed: 3 to 45 arms of 3 to 5 seeds cannot estimate it, and an estimate costs a fifth of the power where all are
alike."""

ZERO = 1e-11
"""In units of the largest score. What float64 leaves of an exactly zero difference or spread lies far below this."""


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
        own_df: (A,) int, degrees of freedom of the own variance of arm a minus arm 0: seeds that both have, less one;
            0 for arm 0 and where fewer than two are shared.
        difference_df: (A,), degrees of freedom of the moderated variance of that difference.
    """

    present: NDArray[np.bool_]
    contrasts: Floats
    unit: Floats
    residuals: Floats
    seed_weights: Floats
    seed_unit: float
    df: int
    own_df: NDArray[np.int64]
    difference_df: Floats

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
        own_df = np.maximum((table & table[0]).sum(axis=1) - 1, 0)
        own_df[0] = 0
        df = len(x) - rank
        return cls(
            present=table,
            contrasts=contrasts,
            unit=np.where(estimable, np.square(contrasts).sum(axis=1), np.nan),
            residuals=np.eye(len(x)) - x @ inverse,
            seed_weights=effects,
            seed_unit=float(np.square(effects).sum() / (seeds - 1)) if tied else math.nan,
            df=df,
            own_df=own_df,
            difference_df=moderated_df(df, own_df),
        )


def moderated_df(pooled: ArrayLike, own: ArrayLike) -> Floats:
    """Degrees of freedom of a moderated variance; ``pooled`` where ``own`` is zero."""
    pooled, own = np.broadcast_arrays(np.asarray(pooled, dtype=np.float64), np.asarray(own, dtype=np.float64))
    weight = own / (PRIOR_DF + own)
    mixed = 1 / ((1 - weight**2) / np.maximum(pooled, 1) + weight**2 / np.maximum(own, 1))
    return np.where((own > 0) & (own < pooled), mixed, pooled)


@dataclass(frozen=True)
class Fit:
    """Least squares of scores, in their unit.

    Attributes:
        differences: (..., A), arm minus arm 0; NaN where it cannot be estimated.
        residuals: (..., N), in the order of ``np.nonzero(design.present)``.
        sigma: (...), pooled residual SD; NaN without degrees of freedom.
        spread: (..., A), moderated SD behind each difference; ``sigma`` where an arm shares no two seeds with arm 0.
        se: (..., A), standard error of the differences that the spread of the runs gives.
    """

    differences: Floats
    residuals: Floats
    sigma: Floats
    spread: Floats
    se: Floats


def fit(scores: Floats, design: Design) -> Fit:
    """Fit scores (..., A, S) under ``design``; absent runs may hold anything."""
    present = scores[..., design.present]  # (..., N)
    zero = ZERO * np.abs(present).max(axis=-1, keepdims=True)  # (..., 1)
    differences = _snap(present @ design.contrasts.T, zero) + np.where(np.isnan(design.unit), np.nan, 0.0)
    residuals = present @ design.residuals.T
    if design.df:
        sigma = _snap(np.sqrt(np.square(residuals).sum(axis=-1) / design.df), zero[..., 0])
    else:
        sigma = np.full(present.shape[:-1], np.nan)
    pooled = np.square(sigma)
    variances = np.repeat(np.asarray(pooled)[..., None], len(design.present), axis=-1)
    for a in np.flatnonzero(design.own_df):
        shared = design.present[a] & design.present[0]
        own = (scores[..., a, shared] - scores[..., 0, shared]).var(axis=-1, ddof=1) / 2
        weight = design.own_df[a] / (PRIOR_DF + design.own_df[a])
        variances[..., a] = (1 - weight) * pooled + weight * own
    spread = _snap(np.sqrt(variances), zero)
    return Fit(differences, residuals, sigma, spread, spread * np.sqrt(design.unit))


def _snap(values: Floats, zero: Floats) -> Floats:
    return np.where(np.abs(values) < zero, 0.0, values)


@dataclass(frozen=True)
class Judgement:
    """Tests of M differences, every array (..., M); NaN where there was nothing to test with."""

    low: Floats
    high: Floats
    p: Floats
    p_holm: Floats
    verdict: NDArray[np.str_]


def judge(
    differences: Floats, se: Floats, df: ArrayLike, *, family: ArrayLike, margin: float, alpha: float
) -> Judgement:
    """Interval, p, Holm's p and verdict of each difference.

    Args:
        differences: (..., M), + is better.
        se: (..., M), their standard errors. NaN: no test. Zero: nothing was seen to vary, so a difference of exactly
            zero is equal, and any other has no known error and is not tested.
        df: degrees of freedom of the standard errors, one number or (..., M). Zero: no test.
        family: (M,) bool, True for the differences corrected together; each of the others stands alone.
        margin: half-width of "equal", in the unit of the differences.
        alpha: error of the family; intervals are at 1 - alpha each, not corrected.
    """
    together = np.asarray(family, dtype=bool)
    df = np.where(np.asarray(df) > 0, df, np.nan)
    half = t_quantile(1 - alpha / 2, df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(differences) / se
    p = 2 * stdtr(df, -t)
    constant = (se == 0) & ~np.isnan(df)
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


def t_quantile(probability: ArrayLike, df: ArrayLike) -> Floats:
    """Quantile of Student's t."""
    return np.asarray(stdtrit(df, probability), dtype=np.float64)
