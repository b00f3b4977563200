"""Pseudo-values: the contribution of each resampling unit to a score.

A unit is an image, or a group of images that belong together (a patient, a scene). With G units, score s of all images
and score s₋g of all images but those of unit g (Tukey's jackknife):

    pseudo-value of g = G·s − (G−1)·s₋g

If the score is a mean of per-image values, these are the pseudo-values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images, select_images

__all__ = ["BLOCKS", "MAX_UNITS", "from_values", "jackknife", "metric_unit_sizes", "pseudo_values", "unit_sizes"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

MAX_UNITS = 500
"""Number of units up to which units are left out one at a time."""
BLOCKS = 50
"""Number of random blocks into which more than ``MAX_UNITS`` units are grouped; the variance stays unbiased."""


def from_values(values: ArrayLike, groups: ArrayLike | None = None) -> Floats:
    """Return the pseudo-values (units,) of a score that is the mean of per-image ``values`` (n,); NaN is kept.

    ``groups`` (n,) are those of the images, if any; units are the groups in sorted order.
    """
    values = np.asarray(values, dtype=np.float64)
    if groups is None:
        return values
    unit_of_image = _units(len(values), groups)
    sums, sizes = np.bincount(unit_of_image, weights=values), np.bincount(unit_of_image)
    return _tukey(values.mean(), (values.sum() - sums) / np.maximum(len(values) - sizes, 1))


def jackknife(
    score: Callable[[Index], float],
    n: int,
    groups: ArrayLike | None = None,
    score_without: Callable[[Index], Floats] | None = None,
) -> Floats:
    """Return the pseudo-values (units,) of any score; NaN where the score without a unit is not finite.

    Above ``MAX_UNITS`` units, ``BLOCKS`` fixed random blocks are left out one at a time.

    Args:
        score: maps the ascending indices (k,) of the remaining images to their score.
        n: number of images.
        groups: as for :func:`from_values`.
        score_without: maps the unit of each image (n,) to the scores (units,) without each unit, if that is faster.
    """
    unit_of_image = _units(n, groups, blocks=True)
    n_units = int(unit_of_image.max()) + 1
    full_score = score(np.arange(n))
    if n_units == 1:
        return np.array([full_score])
    if score_without is not None:
        return _tukey(full_score, score_without(unit_of_image))
    return _tukey(
        full_score,
        np.array([score(np.flatnonzero(unit_of_image != unit)) for unit in range(n_units)], dtype=np.float64),
    )


def _tukey(full_score: float, scores_without: Floats) -> Floats:
    """Return the pseudo-values (units,) from the score of all images and the scores (units,) without each unit."""
    values = len(scores_without) * full_score - (len(scores_without) - 1) * scores_without
    return np.where(np.isfinite(values), values, np.nan)


def unit_sizes(n: int, groups: ArrayLike | None = None, *, jackknifed: bool) -> Index:
    """Return the number of images in each unit (units,) of ``jackknife`` if ``jackknifed``, else ``from_values``."""
    return np.bincount(_units(n, groups, blocks=jackknifed))


def _units(n: int, groups: ArrayLike | None, blocks: bool = False) -> Index:
    """Return the index of the unit of each image (n,)."""
    unit_of_image = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if unit_of_image.shape != (n,):
        raise ValueError(f"groups must name the group of each of {n} images, got {unit_of_image.shape}")
    n_units = int(unit_of_image.max()) + 1
    if not blocks or n_units <= MAX_UNITS:
        return unit_of_image
    block_of_unit = np.empty(n_units, dtype=np.int64)
    block_of_unit[np.random.default_rng(0).permutation(n_units)] = np.arange(n_units) % BLOCKS
    return block_of_unit[unit_of_image]


def pseudo_values(metric: Metric, rows: Rows) -> Floats:
    """Return the pseudo-values (units,) of ``metric`` on ``rows``; units are images or, if present, groups.

    Raises:
        KeyError: the rows lack a column that the metric needs.
    """
    if metric.values is not None:
        return from_values(metric.values(rows).numpy(), _groups(rows))
    score, score_without = metric.score, metric.score_without
    assert score is not None
    return jackknife(
        lambda index: score(select_images(rows, torch.from_numpy(index))),
        count_images(rows),
        _groups(rows),
        None if score_without is None else lambda units: score_without(rows, torch.from_numpy(units)).numpy(),
    )


def metric_unit_sizes(metric: Metric, rows: Rows) -> Index:
    """Return the number of images in each unit (units,) of :func:`pseudo_values`."""
    return unit_sizes(count_images(rows), _groups(rows), jackknifed=metric.values is None)


def _groups(rows: Rows) -> Index | None:
    return rows["group"].numpy() if "group" in rows else None
