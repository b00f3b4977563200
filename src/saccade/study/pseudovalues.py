"""Pseudo-values: what each test image contributes to a score, for any score.

The image error of a difference is read from the pseudo-values of an arm less those of the baseline, so both are taken
over the same units in the same order. A unit is an image, or a group of images that belong together (a patient, a
scene). With G units, the score s of all images and s₋g of all but unit g (Tukey's jackknife):

    pseudo-value of g = G·s − (G−1)·s₋g

Where the score is the mean of per-image values these are the values themselves. Their spread gives the error; with
groups of unequal size their mean is not exactly the score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images, select_images

__all__ = ["BLOCKS", "MOST", "from_values", "jackknife", "of", "sizes_of", "unit_sizes"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

MOST = 500
"""Up to so many units are left out one at a time."""
BLOCKS = 50
"""More units are left out in so many random blocks. Blocks keep the variance right and leave 49 degrees of freedom."""


def from_values(values: ArrayLike, groups: ArrayLike | None = None) -> Floats:
    """Pseudo-values (units,) of a score that is the mean of per-image ``values``.

    Args:
        values: (n,), in the unit of the score; NaN passes through.
        groups: (n,), the group of each image; None makes each image a unit. Groups come in sorted order.
    """
    values = np.asarray(values, dtype=np.float64)
    if groups is None:
        return values
    of = _units(len(values), groups)
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    return _tukey(values.mean(), (values.sum() - sums) / np.maximum(len(values) - sizes, 1))


def jackknife(score: Callable[[Index], float], n: int, groups: ArrayLike | None = None) -> Floats:
    """Pseudo-values (units,) of any score, in its unit.

    Units are left out one at a time up to ``MOST``, else in ``BLOCKS`` random blocks of near-equal size. The blocks
    depend on the number of units only, so the pseudo-values of all arms and seeds belong together.

    Args:
        score: maps the indices (k,) of the images kept, ascending, to their score.
        n: images.
        groups: (n,), the group of each image; None makes each image a unit. Groups come in sorted order.

    Returns:
        NaN for a unit without which the score is not finite, such as the only one with positives.
    """
    of = _units(n, groups, blocks=True)
    units = int(of.max()) + 1
    whole = score(np.arange(n))
    if units == 1:
        return np.array([whole])
    return _tukey(whole, np.array([score(np.flatnonzero(of != unit)) for unit in range(units)], dtype=np.float64))


def _tukey(whole: float, without: Floats) -> Floats:
    found = len(without) * whole - (len(without) - 1) * without
    return np.where(np.isfinite(found), found, np.nan)


def unit_sizes(n: int, groups: ArrayLike | None = None, *, jackknifed: bool) -> Index:
    """Images in each unit (units,) of ``jackknife``, or of ``from_values``."""
    return np.bincount(_units(n, groups, blocks=jackknifed))


def _units(n: int, groups: ArrayLike | None, blocks: bool = False) -> Index:
    """The unit of each image (n,), from 0."""
    of = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if of.shape != (n,):
        raise ValueError(f"groups must name the group of each of {n} images, got {of.shape}")
    units = int(of.max()) + 1
    if not blocks or units <= MOST:
        return of
    block = np.empty(units, dtype=np.int64)
    block[np.random.default_rng(0).permutation(units)] = np.arange(units) % BLOCKS
    return block[of]


def of(metric: Metric, rows: Rows) -> Floats:
    """Pseudo-values (units,) of ``metric`` on ``rows``; units are the groups that the rows name by ``group``, if any.

    Raises:
        KeyError: the rows lack something the metric needs.
    """
    if metric.values is not None:
        return from_values(metric.values(rows).numpy(), _groups(rows))
    score = metric.score
    assert score is not None
    return jackknife(
        lambda index: score(select_images(rows, torch.from_numpy(index))), count_images(rows), _groups(rows)
    )


def sizes_of(metric: Metric, rows: Rows) -> Index:
    """Images in each unit of :func:`of`."""
    return unit_sizes(count_images(rows), _groups(rows), jackknifed=metric.values is None)


def _groups(rows: Rows) -> Index | None:
    return rows["group"].numpy() if "group" in rows else None
