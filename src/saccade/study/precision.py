"""How exact a difference is: the error of the seeds and of the test images together, and what a study can find.

A study done again would differ in its runs and in its test images. With S seeds

    se² = from the seeds + lasting                                    (Satterthwaite 1946, Biometrics Bull. 2:110)
    df  = (sum of v)² / (sum of v² / its df),   v = part · (1 + 2 / its df),   the lasting part's df from image_df

The factor is E[part²] / E[part]². Without it a seeds' part that came out small by luck makes se small and df large at
once: 5.8 % false verdicts for 4.9 % at 3 arms, 3 seeds and a quarter as much from the images.

*From the seeds* (``blocks.fit``) is how much runs on these very images differ, the chance of single answers included.
*Lasting* is what remains if these runs were repeated for ever: some images suit one arm, others another. It is read
from ``pseudovalues``, one per unit: an image, or a group or block of images. More seeds shrink the first part, more
images the second. The larger part alone is too small: where both are alike its intervals cover 90 %.

Errors and differences are in the metric's unit.

Two constants turn a standard error into a detectable difference. *Planned*: σ is known, the study will estimate s; its
T is noncentral t, and the constant is the noncentrality at which P(T > t_crit) = power. *Stated*: the study was run and
speaks in its own s; a true difference of c·se is found when (d - c·se)/se + c > t_crit, where the fraction is
central t, so c = t_crit + t_power. It is the smaller: a study whose s came out large also states a larger difference.
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
    "MOST_SEEDS",
    "ImageError",
    "image_df",
    "image_floor",
    "image_variances",
    "images_needed",
    "known_units",
    "lasting_error",
    "lasting_of",
    "planned_detectable",
    "satterthwaite",
    "seeds_needed",
    "spread",
    "standard_error",
    "stated_detectable",
]

Floats = NDArray[np.float64]

MOST_SEEDS = 100
"""``seeds_needed`` looks no further: a study of more seeds is no answer."""


def image_variances(d: Floats) -> tuple[Floats, Floats]:
    """Variance of a difference between test images and within them.

    Args:
        d: (..., S, units), pseudo-values of an arm less those of the baseline, one row per seed that both have.

    Returns:
        ``(between, within)``, each (...): the variance between units of their mean over seeds, expected to be the
        lasting variance plus ``within / S``, and the variance of one unit over seeds once what a run does to all units
        is taken out. One seed leaves ``within`` at 0; one unit has neither.
    """
    seeds, units = d.shape[-2:]
    if units < 2:
        return np.zeros(d.shape[:-2]), np.zeros(d.shape[:-2])
    of_unit = d.mean(axis=-2, keepdims=True)
    between = of_unit[..., 0, :].var(axis=-1, ddof=1)
    if seeds < 2:
        return between, np.zeros_like(between)
    scatter = d - of_unit - d.mean(axis=-1, keepdims=True) + of_unit.mean(axis=-1, keepdims=True)
    return between, np.square(scatter).sum(axis=(-2, -1)) / ((seeds - 1) * (units - 1))


def lasting_error(between: ArrayLike, within: ArrayLike, seeds: ArrayLike, units: ArrayLike) -> Floats:
    """Squared standard error (...) that the test images leave at any number of seeds; never below zero.

    Args:
        between: (...), as from ``image_variances``.
        within: (...), as from ``image_variances``.
        seeds: (...), rows behind both.
        units: (...), units behind both.
    """
    return np.maximum(np.asarray(between) - np.asarray(within) / np.asarray(seeds), 0.0) / np.asarray(units)


def lasting_of(d: Floats) -> float:
    """``lasting_error`` of the known part of d (S, units); NaN where nothing is known."""
    known = known_units(d)
    return float(lasting_error(*image_variances(known), *known.shape)) if known.size else math.nan


def known_units(d: Floats) -> Floats:
    """The seeds of d (S, units) that are not all NaN, and the units that are NaN at none of these."""
    rows = d[np.isfinite(d).any(axis=1)]
    return rows[:, np.isfinite(rows).all(axis=0)]


def image_df(sizes: ArrayLike) -> float:
    """Degrees of freedom of the lasting error over units of these ``sizes`` (units,) in images; at least 1.

    They are units - 1 where all are alike. A large group moves a score more than a small one: with the variance of a
    pseudo-value taken as the square of its size, a mixture of normals of excess kurtosis γ, they are

        2 / (γ / units + 2 / (units - 1)),      γ = 3 (units Σ size⁴ / (Σ size²)² - 1)

    Over nine groups of 3 to 13 images units - 1 gave up to 6.5 % false verdicts for 4.5 %.
    """
    squares = np.square(np.asarray(sizes, dtype=np.float64))
    units = len(squares)
    if units < 3:
        return 1.0
    kurtosis = 3 * (units * float(np.square(squares).sum() / np.square(squares.sum())) - 1)
    return max(2 / (kurtosis / units + 2 / (units - 1)), 1.0)


def image_floor(images: int, span: float) -> float:
    """Squared standard error that no agreement on ``images`` test images can undercut.

    Two pseudo images, one gained and one lost, beside images that all answer alike: 2 / (n + 2) is the share that
    differs and 2 span² / (n + 2)² the squared error of the difference (Bonett & Price 2012, J. Educ. Behav. Stat.
    37:479; Agresti & Min 2005, Stat. Med. 24:729, add half of each). Two images that agree thus prove nothing.

    Args:
        images: test images.
        span: highest less lowest value of the metric. Of an unbounded metric, the standard deviation of one image:
            ``spread`` of the baseline's pseudo-values.
    """
    return 2 * span**2 / (images + 2) ** 2


def spread(values: Floats, images: int) -> float:
    """Standard deviation of one image, from pseudo-values (S, units): root mean variance of the rows.

    A block of k images has pseudo-values of a k-th of the variance.
    """
    known = known_units(values)
    return math.sqrt(float(known.var(axis=1, ddof=1).mean()) * images / values.shape[1]) if known.shape[1] > 1 else 0.0


@dataclass(frozen=True)
class ImageError:
    """What the test images leave at any number of seeds.

    Attributes:
        squared: (...), squared standard error (``lasting_error``); NaN where the images of a difference are unknown.
        df: its degrees of freedom (``image_df``).
        floor: the whole squared error is held above it by what lasts (``image_floor``).
    """

    squared: ArrayLike
    df: float
    floor: float = 0.0


def standard_error(
    from_seeds: ArrayLike, df: ArrayLike, images: ImageError | None = None
) -> tuple[Floats, Floats, Floats]:
    """Standard error of differences from both parts, with its degrees of freedom.

    Args:
        from_seeds: (...), standard error from the runs; NaN where the runs give none.
        df: (...), its degrees of freedom.
        images: the other part; None where it is unknown, which leaves the seeds' error and degrees of freedom.

    Returns:
        ``(se, df, lasting_se)``, each (...): the whole, its degrees of freedom, and the part that lasts.
    """
    seeds = np.square(np.asarray(from_seeds, dtype=np.float64))
    if images is None:
        return np.sqrt(seeds), np.asarray(df, dtype=np.float64), np.zeros_like(seeds)
    lasts = np.where(np.isnan(images.squared), 0.0, np.maximum(images.squared, images.floor - seeds))
    return np.sqrt(seeds + lasts), satterthwaite(seeds, df, lasts, images.df), np.sqrt(lasts)


def satterthwaite(first: ArrayLike, first_df: ArrayLike, second: ArrayLike, second_df: ArrayLike) -> Floats:
    """Degrees of freedom of the sum of two independent variance estimates; those of the first where both are zero."""
    a_df, b_df = np.asarray(first_df, dtype=np.float64), np.asarray(second_df, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = np.asarray(first) * (1 + 2 / a_df), np.asarray(second) * (1 + 2 / b_df)
        joint = np.square(a + b) / (np.square(a) / a_df + np.square(b) / b_df)
    return np.where(b == 0, a_df, joint)


def stated_detectable(df: ArrayLike, mechanisms: int, alpha: float = 0.05, power: float = 0.8) -> Floats:
    """The constant c of a study that was run: it finds a true difference of c·se with this power.

    Found means significant in the right direction at the first step of Holm, alpha / mechanisms, two-sided.
    """
    return t_quantile(1 - alpha / (2 * mechanisms), df) + t_quantile(power, df)


def _complete(sigma: float, seeds: ArrayLike, arms: int, images: ImageError | None) -> tuple[Floats, Floats, Floats]:
    """``standard_error`` of a study in which no run is missing and σ is known."""
    s = np.asarray(seeds)
    df = moderated_df((arms - 1) * (s - 1), s - 1)
    return standard_error(sigma * np.sqrt(2 / s), df, images)


def planned_detectable(
    sigma: float,
    seeds: int,
    arms: int,
    mechanisms: int,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    images: ImageError | None = None,
) -> float:
    """Smallest true difference to the baseline that a study still to be run will find with this power.

    Args:
        sigma: residual SD, known from earlier runs.
        seeds: runs of each arm.
        arms: all arms of the study: baseline, mechanisms and controls.
        mechanisms: size of the Holm family.
        alpha: error of the family, two-sided.
        power: probability of finding it at the first step of Holm.
        images: what the test images leave; None leaves them out.

    Returns:
        The difference; infinite where a study has one seed or one arm, since it cannot estimate its own error.
    """
    if (arms - 1) * (seeds - 1) < 1:
        return math.inf
    se, df, _ = (float(value) for value in _complete(sigma, seeds, arms, images))
    critical = float(t_quantile(1 - alpha / (2 * mechanisms), df))
    far = 2 * float(stated_detectable(df, mechanisms, alpha, power))  # planned is at most 1.3 times the stated
    return float(brentq(lambda nc: 1 - nctdtr(df, nc, critical) - power, 0, far)) * se


def seeds_needed(
    difference: float,
    *,
    sigma: float,
    images: ImageError | None = None,
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
        difference: the difference as estimated.
        sigma: SD behind the difference as estimated, taken as known.
        images: what the test images leave, as estimated.
        seeds: seeds the study has.
        arms: all arms with a score.
        mechanisms: size of the Holm family; 1 for a control.
        margin: half-width of "equal".
        alpha: as in the study.
        power: as in the study.
    """
    s = np.arange(max(seeds + 1, 2), MOST_SEEDS + 1)
    se, df, _ = _complete(sigma, s, arms, images)
    enough = np.flatnonzero(_decides(difference, se, df, mechanisms, margin, alpha) >= power)
    return int(s[enough[0]]) if len(enough) else None


def images_needed(
    difference: float,
    *,
    images: ImageError | None,
    mechanisms: int,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> bool:
    """Whether the test images keep any number of seeds from deciding; arguments as ``seeds_needed``."""
    if images is None:
        return False
    se, df, _ = standard_error(0.0, math.inf, images)
    return bool(_decides(difference, se, df, mechanisms, margin, alpha) < power)


def _decides(difference: float, se: Floats, df: Floats, mechanisms: int, margin: float, alpha: float) -> Floats:
    """Probability that a study finds a true ``difference``, or that it puts its interval inside ±margin."""
    size = abs(difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1 - nctdtr(df, size / se, t_quantile(1 - alpha / (2 * mechanisms), df))
        # Two one-sided tests; the corner both of them miss is negligible where the sum reaches a power of interest.
        edge = t_quantile(1 - alpha / 2, df)
        inside = 1 - nctdtr(df, (margin - size) / se, edge) - nctdtr(df, (margin + size) / se, edge)
    return np.nan_to_num(np.maximum(found, inside))
