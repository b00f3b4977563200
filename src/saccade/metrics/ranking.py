"""Exact AUROC and average precision, of all images and without each of many units of images.

AUROC is the probability that a positive image gets a higher logit than a negative one; a tie counts one half. Average
precision is Σ (Rₙ − Rₙ₋₁)·Pₙ over the distinct logits, with recall R and precision P of the images with at least that
logit, as in scikit-learn. Both are NaN without a positive or a negative image, or with a logit NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["auroc", "auroc_without", "average_precision", "average_precision_without"]

Floats = NDArray[np.float64]
_CHUNK = 2_000_000
"""Number of values (units × images) computed at once: 16 MB an array."""


def auroc(logits: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve of one class, from ``logits`` (N,) and ``labels`` (N,)."""
    n_positive = int(labels.sum())
    if not _is_defined(logits, labels):
        return np.nan
    wins = _wins(logits, labels, np.zeros(len(labels), dtype=np.int64))
    return float(wins[labels].sum() / (n_positive * (len(labels) - n_positive)))


def auroc_without(logits: Floats, labels: NDArray[np.bool_], units: NDArray[np.int64]) -> Floats:
    """Return :func:`auroc` without each unit (units,), equal to the last bit; ``units`` (N,) are 0 to units − 1."""
    n_units = int(units.max()) + 1
    if not _is_defined(logits, labels):
        return np.full(n_units, np.nan)
    wins = _wins(logits, labels, np.zeros(len(labels), dtype=np.int64))
    wins_in_unit = np.where(labels, _wins(logits, labels, units), 0.0)
    # Pairs inside a unit are in the sum of its positive and in that of its negative images.
    lost = np.bincount(units, wins - wins_in_unit, n_units)
    n_positive = labels.sum() - np.bincount(units, labels, n_units)
    n_negative = (~labels).sum() - np.bincount(units, ~labels, n_units)
    pairs = n_positive * n_negative
    return np.divide(wins[labels].sum() - lost, pairs, out=np.full(n_units, np.nan), where=pairs > 0)


def _wins(logits: Floats, labels: NDArray[np.bool_], units: NDArray[np.int64]) -> Floats:
    """Return the number of images of the other label and the same unit that each image is ordered rightly to (N,)."""
    order = np.lexsort((logits, units))
    sorted_logits, sorted_units, is_positive = logits[order], units[order], labels[order]
    is_new_unit = np.append(True, sorted_units[1:] != sorted_units[:-1])
    is_new_tie = is_new_unit | np.append(True, sorted_logits[1:] != sorted_logits[:-1])
    unit, tie = is_new_unit.cumsum() - 1, is_new_tie.cumsum() - 1
    wins = np.empty(len(labels))
    for label in (True, False):
        others = np.append(0, (is_positive != label).cumsum())
        start, end = (np.append(np.flatnonzero(flags), len(labels)) for flags in (is_new_tie, is_new_unit))
        below, above = others[start[tie]], others[end[unit + 1]] - others[start[tie + 1]]
        ties = others[start[tie + 1]] - below
        beaten = below - others[end[unit]] if label else above
        chosen = is_positive == label
        wins[order[chosen]] = (beaten + 0.5 * ties)[chosen]
    return wins


def average_precision(logits: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the average precision of one class, from ``logits`` (N,) and ``labels`` (N,)."""
    if not _is_defined(logits, labels):
        return np.nan
    order, ends = _falling(logits)
    return float(_precision(labels[order][None], np.ones((1, len(labels)), dtype=np.bool_), ends)[0])


def average_precision_without(logits: Floats, labels: NDArray[np.bool_], units: NDArray[np.int64]) -> Floats:
    """Return :func:`average_precision` without each unit (units,); ``units`` (N,) are 0 to units − 1."""
    n_units = int(units.max()) + 1
    if not _is_defined(logits, labels):
        return np.full(n_units, np.nan)
    order, ends = _falling(logits)
    sorted_units, is_positive = units[order], labels[order]
    step = max(1, _CHUNK // len(labels))
    chunks = [np.arange(start, min(start + step, n_units))[:, None] for start in range(0, n_units, step)]
    return np.concatenate([_precision(is_positive[None], sorted_units != chunk, ends) for chunk in chunks])


def _precision(is_positive: NDArray[np.bool_], kept: NDArray[np.bool_], ends: NDArray[np.int64]) -> Floats:
    """Return the average precision (U,) of the images ``kept`` (U, N), sorted by falling logit.

    ``ends`` are the indices of the last image of each distinct logit.
    """
    positives = (is_positive & kept).cumsum(1, dtype=np.int32)[:, ends]
    images = kept.cumsum(1, dtype=np.int32)[:, ends]
    total = positives[:, -1]
    gains = np.diff(positives, axis=1, prepend=0)
    sums = (gains * (positives / np.maximum(images, 1))).sum(1)
    is_defined = (total > 0) & (total < images[:, -1])
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=is_defined)


def _falling(logits: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of falling ``logits`` (N,), and the index of the last image of each distinct logit."""
    order = np.argsort(-logits, kind="stable")
    values = logits[order]
    return order, np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)


def _is_defined(logits: Floats, labels: NDArray[np.bool_]) -> bool:
    return bool(labels.any()) and not labels.all() and not np.isnan(logits).any()
