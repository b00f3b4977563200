"""Least squares and tests of a randomised block design, for one study or for thousands at once.

Arms are the treatments, seeds the blocks. The model of the runs that have a score is

    score[arm, seed] = mu[arm] + b[seed] + e[arm, seed],    e independent, mean 0, variance σ²
    s² = Σ residual² / df,              df = runs - rank              ((A-1)(S-1) for a complete design)

s² is moderated by the variance of each paired difference over the m shared seeds (Smyth 2004, Stat. Appl. Genet. Mol.
Biol. 3:3):

    paired[a]²    = ½ var over seeds(score[a] - score[0]),       m - 1 degrees of freedom
    moderated[a]² = (1 - w) s² + w paired[a]²,       w = (m - 1) / (10 + m - 1)
    se[a]         = moderated[a] √variance_factor[a]             (2/S for a complete design)

moderated² has 1 / ((1 - w²) / df + w² / (m - 1)) degrees of freedom, because cov(s², paired²) = var(s²). With s² alone,
45 arms give 6 to 7 % false verdicts for t₅ noise.

Tests are two-sided t tests with Holm's step-down (Holm 1979, Scand. J. Stat. 6:65).
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
    "compute_verdicts",
    "fit",
    "holm",
    "moderated_df",
    "t_quantile",
]

Floats = NDArray[np.float64]
Verdict = Literal["helps", "hurts", "equal", "not decided"]

PRIOR_DF = 10
"""Weight of the pooled variance against that of the paired difference, in degrees of freedom.

Fixed: 3 to 45 arms of 3 to 5 seeds cannot estimate it, and estimating costs a fifth of the power if all arms vary
alike."""

RELATIVE_TOLERANCE = 1e-11
"""Fraction of the largest score below which a difference or SD is rounding error and is set to zero."""


@dataclass(frozen=True)
class Design:
    """Least squares of score = arm + seed for one pattern of present runs.

    Attributes:
        present: (A, S) bool, True for the N runs that have a score.
        contrasts: (A, N), maps the present scores to arm a minus arm 0.
        variance_factor: (A,), variance of each contrast at σ = 1; NaN if no runs connect the two arms.
        residual_projector: (N, N), maps them to their residuals.
        seed_weights: (S, N), maps them to centred seed effects.
        seed_variance_factor: mean variance of a seed effect at σ = 1; NaN if the seeds are not connected.
        df: residual degrees of freedom.
        paired_df: (A,) int, seeds shared with arm 0, less one; at least 0.
        difference_df: (A,), degrees of freedom of the moderated variance.
    """

    present: NDArray[np.bool_]
    contrasts: Floats
    variance_factor: Floats
    residual_projector: Floats
    seed_weights: Floats
    seed_variance_factor: float
    df: int
    paired_df: NDArray[np.int64]
    difference_df: Floats

    @classmethod
    def from_present(cls, present: ArrayLike) -> Design:
        """Return the design for (A, S) present runs, at least one per row and column."""
        is_present = np.asarray(present, dtype=bool)
        arms, seeds = is_present.shape
        arm_index, seed_index = np.nonzero(is_present)
        x = np.hstack(
            [np.eye(arms)[arm_index], np.eye(seeds)[seed_index]]
        )  # (N, A + S): one dummy per arm and per seed
        inverse = np.linalg.pinv(x)  # (A + S, N)
        rank = int(np.linalg.matrix_rank(x))
        contrast_matrix = np.hstack([np.eye(arms) - np.eye(arms)[0], np.zeros((arms, seeds))])
        contrasts = contrast_matrix @ inverse
        # Only contrasts in the row space of x can be estimated.
        estimable = np.abs(contrasts @ x - contrast_matrix).max(axis=1) < 1e-8
        seed_weights = inverse[arms:] - inverse[arms:].mean(axis=0)
        is_connected = rank == arms + seeds - 1 and seeds > 1
        paired_df = np.maximum((is_present & is_present[0]).sum(axis=1) - 1, 0)
        paired_df[0] = 0
        df = len(x) - rank
        return cls(
            present=is_present,
            contrasts=contrasts,
            variance_factor=np.where(estimable, np.square(contrasts).sum(axis=1), np.nan),
            residual_projector=np.eye(len(x)) - x @ inverse,
            seed_weights=seed_weights,
            seed_variance_factor=float(np.square(seed_weights).sum() / (seeds - 1)) if is_connected else math.nan,
            df=df,
            paired_df=paired_df,
            difference_df=moderated_df(df, paired_df),
        )


def moderated_df(pooled_df: ArrayLike, paired_df: ArrayLike) -> Floats:
    """Return the degrees of freedom (...) of a moderated variance; ``pooled_df`` unless 0 < paired_df < pooled_df."""
    pooled_df, paired_df = np.broadcast_arrays(
        np.asarray(pooled_df, dtype=np.float64), np.asarray(paired_df, dtype=np.float64)
    )
    weight = paired_df / (PRIOR_DF + paired_df)
    moderated = 1 / ((1 - weight**2) / np.maximum(pooled_df, 1) + weight**2 / np.maximum(paired_df, 1))
    return np.where((paired_df > 0) & (paired_df < pooled_df), moderated, pooled_df)


@dataclass(frozen=True)
class Fit:
    """Estimates and errors from least squares, in the unit of the scores.

    Attributes:
        differences: (..., A), arm minus arm 0; NaN if it cannot be estimated.
        residuals: (..., N), in the order of ``np.nonzero(design.present)``.
        sigma: (...), pooled residual SD; NaN without degrees of freedom.
        moderated_sd: (..., A), moderated SD; ``sigma`` if an arm shares fewer than two seeds with arm 0.
        se: (..., A), standard error of each difference from the variation between runs.
    """

    differences: Floats
    residuals: Floats
    sigma: Floats
    moderated_sd: Floats
    se: Floats


def fit(scores: Floats, design: Design) -> Fit:
    """Fit scores (..., A, S) under ``design``; entries of absent runs are ignored."""
    present_scores = scores[..., design.present]  # (..., N)
    threshold = RELATIVE_TOLERANCE * np.abs(present_scores).max(axis=-1, keepdims=True)  # (..., 1)
    differences = _zero_below(present_scores @ design.contrasts.T, threshold) + np.where(
        np.isnan(design.variance_factor), np.nan, 0.0
    )
    residuals = present_scores @ design.residual_projector.T
    if design.df:
        sigma = _zero_below(np.sqrt(np.square(residuals).sum(axis=-1) / design.df), threshold[..., 0])
    else:
        sigma = np.full(present_scores.shape[:-1], np.nan)
    pooled = np.square(sigma)
    variances = np.repeat(np.asarray(pooled)[..., None], len(design.present), axis=-1)
    for a in np.flatnonzero(design.paired_df):
        shared = design.present[a] & design.present[0]
        paired = (scores[..., a, shared] - scores[..., 0, shared]).var(axis=-1, ddof=1) / 2
        weight = design.paired_df[a] / (PRIOR_DF + design.paired_df[a])
        variances[..., a] = (1 - weight) * pooled + weight * paired
    moderated_sd = _zero_below(np.sqrt(variances), threshold)
    return Fit(differences, residuals, sigma, moderated_sd, moderated_sd * np.sqrt(design.variance_factor))


def _zero_below(values: Floats, threshold: Floats) -> Floats:
    """Set values whose magnitude is below ``threshold`` to zero."""
    return np.where(np.abs(values) < threshold, 0.0, values)


@dataclass(frozen=True)
class Judgement:
    """Test results of M differences, arrays (..., M); NaN for those not tested."""

    low: Floats
    high: Floats
    p: Floats
    p_holm: Floats
    verdict: NDArray[np.str_]


def compute_verdicts(
    differences: Floats, se: Floats, df: ArrayLike, *, family: ArrayLike, margin: float, alpha: float
) -> Judgement:
    """Return the confidence interval, p, Holm's p and verdict of each difference.

    Args:
        differences: (..., M), positive is better.
        se: (..., M), standard errors; NaN for no test. With 0, a zero difference is "equal", any other not tested.
        df: degrees of freedom of ``se``, one number or (..., M); 0 for no test.
        family: (M,) bool, True for the differences that Holm corrects together.
        margin: largest negligible difference, in their unit.
        alpha: family-wise error rate; confidence intervals have level 1 - alpha, uncorrected.
    """
    in_family = np.asarray(family, dtype=bool)
    df = np.where(np.asarray(df) > 0, df, np.nan)
    half_width = t_quantile(1 - alpha / 2, df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(differences) / se
    p = 2 * stdtr(df, -t)
    has_zero_error = (se == 0) & ~np.isnan(df)
    p = np.where(has_zero_error, np.where(differences == 0, 1.0, np.nan), p)
    half_width = np.where(np.isnan(p), np.nan, half_width)
    low, high = differences - half_width, differences + half_width
    p_holm = p.copy()
    p_holm[..., in_family] = holm(p[..., in_family])
    significant = p_holm < alpha
    verdict = np.select(
        [significant & (differences > 0), significant & (differences < 0), (low > -margin) & (high < margin)],
        ["helps", "hurts", "equal"],
        "not decided",
    )
    return Judgement(low, high, p, p_holm, verdict)


def holm(p: Floats) -> Floats:
    """Return Holm's step-down p over the last axis of (..., M); NaN entries are ignored and stay NaN."""
    order = np.argsort(p, axis=-1)  # NaN last
    ascending = np.take_along_axis(p, order, axis=-1)
    n_tests = np.count_nonzero(~np.isnan(p), axis=-1)[..., None]
    steps = np.maximum.accumulate(ascending * (n_tests - np.arange(p.shape[-1])), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), axis=-1)
    return adjusted


def t_quantile(probability: ArrayLike, df: ArrayLike) -> Floats:
    """Return the quantile (...) of Student's t."""
    return np.asarray(stdtrit(df, probability), dtype=np.float64)
