"""Precision of a difference, from the variance components of seeds and of test images, and the detectable difference.

    se² = v_seeds + v_images                                      (Satterthwaite 1946, Biometrics Bull. 2:110)
    df  = (Σ u)² / Σ (u² / df_u),   u = v · (1 + 2 / df_u),       df_u of v_images from ``image_df``

The factor 1 + 2 / df is E[v²] / E[v]²; without it there are 5.8 % instead of 4.9 % false verdicts at 3 arms and 3
seeds, with v_images a quarter of v_seeds.

v_seeds (``blocks.fit``) is the variation between runs. v_images, due to the choice of test images, comes from
``pseudovalues``; more runs do not reduce it.

A detectable difference is a constant times the standard error: with known σ (a planned study) the noncentrality of t
at which P(t > t_crit) = power, with estimated σ (a finished study) the smaller t_crit + t_power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import nctdtr

from saccade.study.blocks import moderated_df, t_quantile

__all__ = [
    "MAX_SEEDS",
    "ImageError",
    "complete_units",
    "detectable_multiplier",
    "image_df",
    "image_floor",
    "image_sd",
    "more_images_needed",
    "planned_detectable",
    "satterthwaite",
    "seeds_needed",
    "squared_image_error",
    "squared_image_error_of",
    "standard_error",
    "variance_components",
]

Floats = NDArray[np.float64]

MAX_SEEDS = 100
"""Largest number of seeds that ``seeds_needed`` considers."""


def variance_components(d: Floats) -> tuple[Floats, Floats]:
    """Return the variances ``(between, within)``, each (...), of d (..., S, units), pseudo-values less the baseline's.

    ``between`` is the variance over units of the mean over seeds, with expectation ``within / S`` plus the variance
    component of the test images; 0 for one unit. ``within`` is a unit's variance over seeds after subtracting each
    run's mean; 0 for one unit or seed.
    """
    seeds, units = d.shape[-2:]
    if units < 2:
        return np.zeros(d.shape[:-2]), np.zeros(d.shape[:-2])
    unit_means = d.mean(axis=-2, keepdims=True)
    between = unit_means[..., 0, :].var(axis=-1, ddof=1)
    if seeds < 2:
        return between, np.zeros_like(between)
    residuals = d - unit_means - d.mean(axis=-1, keepdims=True) + unit_means.mean(axis=-1, keepdims=True)
    return between, np.square(residuals).sum(axis=(-2, -1)) / ((seeds - 1) * (units - 1))


def squared_image_error(between: ArrayLike, within: ArrayLike, seeds: ArrayLike, units: ArrayLike) -> Floats:
    """Return the squared standard error (...) from the test images, at least zero, from ``variance_components``.

    All arguments are (...); ``seeds`` and ``units`` are numbers of them.
    """
    return np.maximum(np.asarray(between) - np.asarray(within) / np.asarray(seeds), 0.0) / np.asarray(units)


def squared_image_error_of(d: Floats) -> float:
    """Return ``squared_image_error`` of the complete seeds and units of d (S, units); NaN without any."""
    complete = complete_units(d)
    return float(squared_image_error(*variance_components(complete), *complete.shape)) if complete.size else math.nan


def complete_units(d: Floats) -> Floats:
    """Return d (S, units) without the seeds that are all NaN, then without the units that have a NaN."""
    rows = d[np.isfinite(d).any(axis=1)]
    return rows[:, np.isfinite(rows).all(axis=0)]


def image_df(sizes: ArrayLike) -> float:
    """Return the degrees of freedom, at least 1, of the image error over units of ``sizes`` (units,) images.

    Pseudo-values of SD proportional to unit size form a normal mixture of excess kurtosis γ; the degrees of freedom are

        2 / (γ / units + 2 / (units - 1)),      γ = 3 (units Σ size⁴ / (Σ size²)² - 1)

    With units - 1, nine groups of 3 to 13 images gave up to 6.5 % false verdicts instead of 4.5 %.
    """
    squares = np.square(np.asarray(sizes, dtype=np.float64))
    units = len(squares)
    if units < 3:
        return 1.0
    kurtosis = 3 * (units * float(np.square(squares).sum() / np.square(squares.sum())) - 1)
    return max(2 / (kurtosis / units + 2 / (units - 1)), 1.0)


def image_floor(images: int, span: float) -> float:
    """Return a lower bound of the squared standard error, reached if the arms agree on all ``images`` test images.

    Two pseudo-images, one in favour of each arm, give 2 span² / (n + 2)² (Bonett & Price 2012, J. Educ. Behav. Stat.
    37:479; Agresti & Min 2005, Stat. Med. 24:729, add half of each). ``span`` is the range of the metric, or the
    baseline's ``image_sd`` if unbounded.
    """
    return 2 * span**2 / (images + 2) ** 2


def image_sd(values: Floats, images: int) -> float:
    """Return the standard deviation of one image from pseudo-values (S, units): root mean variance of the rows.

    It is rescaled, because the pseudo-value of k images has 1/k of the variance of one.
    """
    complete = complete_units(values)
    if complete.shape[1] < 2:
        return 0.0
    return math.sqrt(float(complete.var(axis=1, ddof=1).mean()) * images / values.shape[1])


@dataclass(frozen=True)
class ImageError:
    """Squared standard error of each difference from the test images.

    Attributes:
        squared: (...), ``squared_image_error``; NaN if unknown.
        df: ``image_df``.
        floor: lower bound of the total squared error (``image_floor``).
    """

    squared: ArrayLike
    df: float
    floor: float = 0.0


def standard_error(
    from_seeds: ArrayLike, df: ArrayLike, image_error: ImageError | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return ``(se, df, image_se)``, each (...): total, degrees of freedom, and the error from the test images.

    ``from_seeds`` (...) is the standard error from the seeds, NaN if unknown, with ``df`` (...) degrees of freedom.
    """
    seed_variance = np.square(np.asarray(from_seeds, dtype=np.float64))
    if image_error is None:
        return np.sqrt(seed_variance), np.asarray(df, dtype=np.float64), np.zeros_like(seed_variance)
    image_variance = np.where(
        np.isnan(image_error.squared), 0.0, np.maximum(image_error.squared, image_error.floor - seed_variance)
    )
    return (
        np.sqrt(seed_variance + image_variance),
        satterthwaite(seed_variance, df, image_variance, image_error.df),
        np.sqrt(image_variance),
    )


def satterthwaite(first: ArrayLike, first_df: ArrayLike, second: ArrayLike, second_df: ArrayLike) -> Floats:
    """Return the degrees of freedom of the sum of two variances (...); ``first_df`` if the second is zero."""
    first_df, second_df = np.asarray(first_df, dtype=np.float64), np.asarray(second_df, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        first_term, second_term = np.asarray(first) * (1 + 2 / first_df), np.asarray(second) * (1 + 2 / second_df)
        total_df = np.square(first_term + second_term) / (
            np.square(first_term) / first_df + np.square(second_term) / second_df
        )
    return np.where(second_term == 0, first_df, total_df)


def detectable_multiplier(df: ArrayLike, mechanisms: int, alpha: float = 0.05, power: float = 0.8) -> Floats:
    """Return the constant c (...) so that a finished study finds a true difference of c·se with probability ``power``.

    Found means significant in the right direction at Holm's first step, alpha / mechanisms, two-sided.
    """
    return t_quantile(1 - alpha / (2 * mechanisms), df) + t_quantile(power, df)


def _complete_standard_error(
    sigma: float, seeds: ArrayLike, arms: int, image_error: ImageError | None
) -> tuple[Floats, Floats, Floats]:
    """Return ``standard_error`` of a study without missing runs, for a known σ."""
    n_seeds = np.asarray(seeds)
    df = moderated_df((arms - 1) * (n_seeds - 1), n_seeds - 1)
    return standard_error(sigma * np.sqrt(2 / n_seeds), df, image_error)


def planned_detectable(
    sigma: float,
    seeds: int,
    arms: int,
    mechanisms: int,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    image_error: ImageError | None = None,
) -> float:
    """Return the true difference that a planned study finds with probability ``power`` at Holm's first step.

    It is infinite for one seed or one arm. ``sigma`` is the residual SD; ``arms`` includes baseline and controls;
    ``mechanisms`` is the size of the Holm family, with the two-sided family-wise error rate ``alpha``.
    """
    if (arms - 1) * (seeds - 1) < 1:
        return math.inf
    se, df, _ = (float(value) for value in _complete_standard_error(sigma, seeds, arms, image_error))
    critical = float(t_quantile(1 - alpha / (2 * mechanisms), df))
    upper = 2 * float(detectable_multiplier(df, mechanisms, alpha, power))  # bound: the ratio is at most 1.3
    return float(brentq(lambda nc: 1 - nctdtr(df, nc, critical) - power, 0, upper)) * se


def seeds_needed(
    difference: float,
    *,
    sigma: float,
    image_error: ImageError | None = None,
    seeds: int,
    arms: int,
    mechanisms: int,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Return the smallest number of seeds above ``seeds`` that gives a verdict with probability ``power``.

    Return None if it exceeds ``MAX_SEEDS``. A verdict needs significance at Holm's first step or a confidence interval
    inside ±margin. ``difference`` and ``sigma``, the moderated SD, are taken as true; ``mechanisms`` is the size of the
    Holm family, 1 for a control.
    """
    n_seeds = np.arange(max(seeds + 1, 2), MAX_SEEDS + 1)
    se, df, _ = _complete_standard_error(sigma, n_seeds, arms, image_error)
    sufficient = np.flatnonzero(_decision_power(difference, se, df, mechanisms, margin, alpha) >= power)
    return int(n_seeds[sufficient[0]]) if len(sufficient) else None


def more_images_needed(
    difference: float,
    *,
    image_error: ImageError | None,
    mechanisms: int,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> bool:
    """Return True if no number of seeds gives a verdict with these test images; arguments as in ``seeds_needed``."""
    if image_error is None:
        return False
    se, df, _ = standard_error(0.0, math.inf, image_error)
    return bool(_decision_power(difference, se, df, mechanisms, margin, alpha) < power)


def _decision_power(difference: float, se: Floats, df: Floats, mechanisms: int, margin: float, alpha: float) -> Floats:
    """Return the probability of finding a true ``difference`` or of a confidence interval inside ±margin."""
    magnitude = abs(difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        find_power = 1 - nctdtr(df, magnitude / se, t_quantile(1 - alpha / (2 * mechanisms), df))
        # Two one-sided tests; the small probability that both fail is neglected.
        critical = t_quantile(1 - alpha / 2, df)
        equal_power = (
            1 - nctdtr(df, (margin - magnitude) / se, critical) - nctdtr(df, (margin + magnitude) / se, critical)
        )
    return np.nan_to_num(np.maximum(find_power, equal_power))
