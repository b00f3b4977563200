"""How exact a difference is: the error of the seeds and of the test images together, and what a study can find.

Two things would come out otherwise if the study were done again: the runs and the test images. With S seeds

    se² = from the seeds + lasting                                    (Satterthwaite 1946, Biometrics Bull. 2:110)
    df  = (sum of v)² / (sum of v² / its df),   v = part · (1 + 2 / its df),   the lasting part's df being images - 1

Plain Satterthwaite has v = part. A seeds' part that came out small by luck then makes se small and df large at once: at
3 arms and 3 seeds, with a quarter as much from the images, 5.8 % of the studies had a false verdict. The factor is
E[part²] / E[part]², which is 1 but for very few degrees of freedom; with it they are 4.9 %.

*From the seeds* (``blocks.fit``) is how much runs on these very images differ. It holds the chance that one run answers
an image and the next does not, so that chance must not be counted again. *Lasting* is what remains when the runs on
these images were repeated for ever: some images suit one arm, others suit another, and other test images would weigh
them otherwise. More seeds shrink the first part only; more test images shrink the lasting part.

The larger of the two parts alone is too small: where both are alike its 95 % intervals cover 90 %. Their sum read
against t with the degrees of freedom of the seeds is too wide.

Two constants turn a standard error into a detectable difference, and they are not the same number.

*Planned*: σ is known, the study is still to be run and will estimate s. Its T is noncentral t, and the constant is the
noncentrality at which P(T > t_crit) = power.

*Stated*: the study has been run and speaks in its own s. A true difference of c·se is found when
(d - c·se)/se + c > t_crit, where d is the estimate; the fraction is central t, so c = t_crit + t_power. It is the
smaller of the two: a study whose s came out large by luck, and so finds less, also states a larger difference.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import nctdtr

from saccade.study.blocks import moderated_df, t_quantile

__all__ = [
    "MOST_SEEDS",
    "image_floor",
    "image_variances",
    "images_needed",
    "lasting_error",
    "planned_detectable",
    "satterthwaite",
    "seeds_needed",
    "standard_error",
    "stated_detectable",
]

Floats = NDArray[np.float64]

MOST_SEEDS = 100
"""``seeds_needed`` looks no further: a study of more seeds is no answer."""


def image_variances(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> tuple[float, float]:
    """Variance of a difference between test images and within them, points².

    The McNemar idea over seeds: d[seed, image] = correct - baseline in {-1, 0, 1}. Images count as independent of each
    other. This is the place for images that come in groups, such as several of one patient: take the mean of ``d``
    over each group and count groups, here and in ``standard_error``; no layout of ``saccade.data`` has groups yet.

    Args:
        correct: (S, n) bool, one row per seed that both arms have.
        baseline: (S, n) bool.

    Returns:
        ``(between, within)``: the variance between images of their mean over seeds, and the variance of one image over
        seeds once what a run does to all images is taken out. ``between`` is expected to be the lasting variance plus
        ``within / S``. One seed cannot tell them apart and leaves ``within`` at 0; one image has neither.
    """
    d = 100.0 * (correct.astype(np.float64) - baseline.astype(np.float64))
    seeds, images = d.shape
    if images < 2:
        return 0.0, 0.0
    of_image = d.mean(axis=0)
    between = float(of_image.var(ddof=1))
    if seeds < 2:
        return between, 0.0
    scatter = d - of_image - d.mean(axis=1, keepdims=True) + d.mean()
    return between, float(np.square(scatter).sum()) / ((seeds - 1) * (images - 1))


def lasting_error(between: ArrayLike, within: ArrayLike, seeds: ArrayLike, images: int) -> Floats:
    """Squared standard error that ``images`` test images leave at any number of seeds, points²; never below zero.

    Args:
        between: (...), as from ``image_variances``.
        within: (...), as from ``image_variances``.
        seeds: (...), rows behind both.
        images: test images.
    """
    return np.maximum(np.asarray(between) - np.asarray(within) / np.asarray(seeds), 0.0) / images


def image_floor(images: int) -> float:
    """Squared standard error, points², that no agreement on ``images`` test images can undercut.

    Two pseudo images, one gained and one lost, beside images that all answer alike: 2 / (n + 2) is the share that
    differs and 2 / (n + 2)² the squared error of the difference (Bonett & Price 2012, J. Educ. Behav. Stat. 37:479;
    Agresti & Min 2005, Stat. Med. 24:729, add half of each). Two images that agree thus prove nothing.
    """
    return 2 * 100.0**2 / (images + 2) ** 2


def standard_error(
    from_seeds: ArrayLike, df: ArrayLike, lasting: ArrayLike = 0.0, images: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Standard error of differences from both parts, with its degrees of freedom.

    Args:
        from_seeds: (...), standard error from the runs, points; NaN where the runs give none.
        df: (...), its degrees of freedom.
        lasting: (...), squared error that lasts, points²; NaN where the images of a difference are unknown.
        images: test images; None where they are unknown, which leaves the seeds' error and degrees of freedom.

    Returns:
        ``(se, df, lasting_se)``, each (...): the whole, its degrees of freedom, and the part that lasts, all in points.
        The whole is held above ``image_floor`` by what lasts.
    """
    seeds = np.square(np.asarray(from_seeds, dtype=np.float64))
    if images is None:
        lasts = np.zeros_like(seeds)
    else:
        lasts = np.where(np.isnan(lasting), 0.0, np.maximum(lasting, image_floor(images) - seeds))
    whole_df = satterthwaite(seeds, df, lasts, max((images or 0) - 1, 1))
    return np.sqrt(seeds + lasts), whole_df, np.sqrt(lasts)


def satterthwaite(first: ArrayLike, first_df: ArrayLike, second: ArrayLike, second_df: ArrayLike) -> Floats:
    """Degrees of freedom of the sum of two independent variance estimates, each weighed as in this module's docstring.

    They are those of the first where both estimates are zero.
    """
    a_df, b_df = np.asarray(first_df, dtype=np.float64), np.asarray(second_df, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = np.asarray(first) * (1 + 2 / a_df), np.asarray(second) * (1 + 2 / b_df)
        joint = np.square(a + b) / (np.square(a) / a_df + np.square(b) / b_df)
    return np.where(b == 0, a_df, joint)


def stated_detectable(df: ArrayLike, mechanisms: int, alpha: float = 0.05, power: float = 0.8) -> Floats:
    """The constant c of a study that was run: it finds a true difference of c·(its own se) with this power.

    Found means significant in the right direction at the first step of Holm, alpha / mechanisms, two-sided.
    """
    return t_quantile(1 - alpha / (2 * mechanisms), df) + t_quantile(power, df)


def _complete(
    sigma: float, seeds: ArrayLike, arms: int, lasting: float, images: int | None
) -> tuple[Floats, Floats, Floats]:
    """``standard_error`` of a study in which no run is missing and σ is known."""
    s = np.asarray(seeds)
    df = moderated_df((arms - 1) * (s - 1), s - 1)
    return standard_error(sigma * np.sqrt(2 / s), df, lasting, images)


def planned_detectable(
    sigma: float,
    seeds: int,
    arms: int,
    mechanisms: int,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    lasting: float = 0.0,
    images: int | None = None,
) -> float:
    """Smallest true difference to ``none`` that a study still to be run will find with this power, in points.

    Args:
        sigma: residual SD, known from earlier runs, points.
        seeds: runs of each arm.
        arms: all arms of the study: none, mechanisms and controls.
        mechanisms: size of the Holm family.
        alpha: error of the family, two-sided.
        power: probability of finding it at the first step of Holm.
        lasting: squared standard error that the test images leave at any number of seeds, points².
        images: test images; None leaves them out of the reckoning.

    Returns:
        The difference; infinite where a study has one seed or one arm, since it cannot estimate its own error.
    """
    if (arms - 1) * (seeds - 1) < 1:
        return math.inf
    se, df, _ = (float(value) for value in _complete(sigma, seeds, arms, lasting, images))
    critical = float(t_quantile(1 - alpha / (2 * mechanisms), df))
    far = 2 * float(stated_detectable(df, mechanisms, alpha, power))  # planned is at most 1.3 times the stated
    return float(brentq(lambda nc: 1 - nctdtr(df, nc, critical) - power, 0, far)) * se


def seeds_needed(
    difference: float,
    *,
    sigma: float,
    lasting: float = 0.0,
    images: int | None = None,
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
        sigma: SD behind the difference as estimated, points, taken as known.
        lasting: as for ``planned_detectable``, as estimated.
        images: test images; None where they are unknown.
        seeds: seeds the study has.
        arms: all arms with a score.
        mechanisms: size of the Holm family; 1 for a control.
        margin: half-width of "equal", points.
        alpha: as in the study.
        power: as in the study.
    """
    s = np.arange(max(seeds + 1, 2), MOST_SEEDS + 1)
    se, df, _ = _complete(sigma, s, arms, lasting, images)
    enough = np.flatnonzero(_decides(difference, se, df, mechanisms, margin, alpha) >= power)
    return int(s[enough[0]]) if len(enough) else None


def images_needed(
    difference: float,
    *,
    lasting: float,
    images: int | None,
    mechanisms: int,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> bool:
    """Whether no number of seeds would probably decide, because of what the test images leave; as ``seeds_needed``."""
    if images is None:
        return False
    se, df, _ = standard_error(0.0, math.inf, lasting, images)
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
