"""Average precision of detections from match tables, equal to that of pycocotools' ``COCOeval`` to the last digit.

AP at one IoU threshold is the mean, over the recalls 0, 0.01, …, 1, of the highest precision at that recall or a higher
one (Lin et al., "Microsoft COCO", ECCV 2014). It is averaged over thresholds and classes.

The optional key ``scored`` (N, K, 4) of the rows fixes the classes, the same in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.metrics.matching import AREAS, N_THRESHOLDS
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows

__all__ = ["METRICS", "by_class", "score", "score_without", "scored_classes"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

_RECALLS = np.linspace(0.0, 1.0, 101)
_ALL = tuple(range(N_THRESHOLDS))
_CHUNK = 4_000_000
"""Number of precisions computed at once: 32 MB."""


@dataclass(frozen=True)
class _Class:
    """Detections of a class by falling score: unit or -1, bits (D,); truths without each unit (units,)."""

    unit: Index
    hit: NDArray[np.int16]
    ignored: NDArray[np.int16]
    truths: Index


def scored_classes(rows: Rows, n_classes: int) -> Tensor:
    """Return True (K, 4) for the classes and area ranges with a counted truth in ``rows``."""
    counts = torch.zeros(n_classes, len(AREAS), dtype=torch.int64)
    return counts.index_add_(0, rows["truth/label"].long(), rows["truth/counted"].long()) > 0


def score(rows: Rows, area: int = 0, thresholds: Sequence[int] = _ALL) -> float:
    """Return the average precision in per cent; NaN without a scored class.

    Args:
        rows: match tables, see ``saccade.metrics.matching``.
        area: index into ``AREAS``.
        thresholds: indices of IoU thresholds.
    """
    return float(_scores(rows, area, thresholds, None)[0])


def score_without(rows: Rows, units: Tensor, area: int = 0, thresholds: Sequence[int] = _ALL) -> Tensor:
    """Return :func:`score` without each unit (units,), equal to the last digit; ``units`` (N,) count from 0."""
    return torch.from_numpy(_scores(rows, area, thresholds, units.numpy()))


def by_class(rows: Rows, area: int = 0, thresholds: Sequence[int] = _ALL) -> Tensor:
    """Return the average precision of each class (K,) in per cent; NaN if it is not scored."""
    scored = _scored(rows, area)
    scores = np.full(len(scored), np.nan)
    classes = _classes(rows, area, np.flatnonzero(scored), None)
    if classes is not None:
        scores[scored] = 100 * _precisions(classes, thresholds, 0, 1)[0].mean((0, 1))
    return torch.from_numpy(scores)


def _scores(rows: Rows, area: int, thresholds: Sequence[int], units: Index | None) -> Floats:
    """Return the score without each of ``units`` (N,); None leaves nothing out (1,)."""
    n_units = 1 if units is None else int(units.max()) + 1
    scores = np.full(n_units, np.nan)
    scored = np.flatnonzero(_scored(rows, area))
    classes = _classes(rows, area, scored, units)
    if not classes:
        return scores
    step = max(1, _CHUNK // (len(classes) * len(thresholds) * len(_RECALLS)))
    for start in range(0, n_units, step):
        stop = min(start + step, n_units)
        precisions = _precisions(classes, thresholds, start, stop)
        present = np.stack([entry.truths[start:stop] > 0 for entry in classes], axis=1) | ("scored" in rows)
        for n, (values, kept) in enumerate(zip(precisions, present, strict=True), start):
            # In the order of COCOeval, on which the last digit depends.
            scores[n] = 100 * values[..., kept].ravel().mean() if kept.any() else np.nan
    return scores


def _scored(rows: Rows, area: int) -> NDArray[np.bool_]:
    if "scored" in rows:
        return rows["scored"][0, :, area].bool().numpy()
    labels = [rows[key] for key in ("truth/label", "found/label")]
    return scored_classes(rows, 1 + max(int(label.max()) if len(label) else -1 for label in labels))[:, area].numpy()


def _classes(rows: Rows, area: int, scored: Index, units: Index | None) -> list[_Class] | None:
    """Return the ``scored`` classes, or None if a detection is not finite."""
    labels, confidences = rows["found/label"].numpy(), rows["found/score"].numpy()
    if not np.isfinite(confidences).all():
        return None
    hit, ignored = rows["found/hit"][:, area].numpy(), rows["found/ignored"][:, area].numpy()
    unit_of_image = np.full(len(rows["found/offsets"]) - 1, -1) if units is None else units
    n_units = 1 if units is None else int(units.max()) + 1
    unit_of_found = unit_of_image.repeat(rows["found/offsets"].diff().numpy())
    unit_of_truth = unit_of_image.repeat(rows["truth/offsets"].diff().numpy())
    counted, true_labels = rows["truth/counted"][:, area].numpy(), rows["truth/label"].numpy()
    classes = []
    for label in scored:
        found = np.flatnonzero(labels == label)
        found = found[np.argsort(-confidences[found], kind="stable")]
        lost = unit_of_truth[counted & (true_labels == label)]
        truths = len(lost) - np.bincount(lost[lost >= 0], minlength=n_units)
        classes.append(_Class(unit_of_found[found], hit[found], ignored[found], truths))
    return classes


def _precisions(classes: Sequence[_Class], thresholds: Sequence[int], start: int, stop: int) -> Floats:
    """Return precisions (units, thresholds, 101, classes) without each unit from ``start`` to ``stop``."""
    precisions = np.empty((stop - start, len(thresholds), len(_RECALLS), len(classes)))
    for k, entry in enumerate(classes):
        needed = np.stack([_hits_needed(n) for n in entry.truths[start:stop].tolist()])
        for n, threshold in enumerate(thresholds):
            precisions[:, n, :, k] = _interpolate(entry, threshold, needed, start)
    return precisions


def _interpolate(entry: _Class, threshold: int, needed: Index, start: int) -> Floats:
    """Return the highest precision with at least ``needed`` hits (units, 101), without each unit from ``start`` on.

    It is reached at a hit: each wrong detection lowers it.
    """
    is_counted = (entry.ignored >> threshold) & 1 == 0
    is_hit = ((entry.hit >> threshold) & 1 == 1) & is_counted
    is_wrong = is_counted & ~is_hit
    n_units, n_hits = len(needed), int(is_hit.sum())
    if not n_hits:
        return np.zeros(needed.shape)
    hits_so_far = is_hit.cumsum()
    unit = entry.unit - start
    is_lost = (unit >= 0) & (unit < n_units)
    lost_hits = _running_counts(unit, hits_so_far - 1, is_hit & is_lost, n_units, n_hits)
    lost_wrong = _running_counts(unit, hits_so_far, is_wrong & is_lost, n_units, n_hits)
    hits = np.arange(1, n_hits + 1) - lost_hits
    wrong = is_wrong.cumsum()[is_hit] - lost_wrong
    # As COCOeval adds and divides.
    precision = hits / (wrong + hits + np.spacing(1))
    best = np.zeros((n_units, n_hits + 1))
    best[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    first = _first_at_least(hits, np.minimum(needed, n_hits + 1))
    return np.take_along_axis(best, first, axis=1)


def _running_counts(unit: Index, hit: Index, chosen: NDArray[np.bool_], n_units: int, n_hits: int) -> Index:
    """Return the number of ``chosen`` detections of each unit (units, hits), each counted from ``hit`` on."""
    chosen = chosen & (hit < n_hits)
    counts = np.bincount(unit[chosen] * n_hits + hit[chosen], minlength=n_units * n_hits)
    return counts.reshape(n_units, n_hits).cumsum(1)


def _first_at_least(values: Index, queries: Index) -> Index:
    """Return the first index at which sorted ``values`` (U, n) reach ``queries`` (U, R), both 0 to n + 1; else n."""
    n_rows, n = values.shape
    row = np.arange(n_rows)[:, None]
    shift = row * (n + 2)
    return np.searchsorted((values + shift).ravel(), (queries + shift).ravel()).reshape(queries.shape) - row * n


@lru_cache(maxsize=1024)
def _hits_needed(n_truths: int) -> Index:
    """Return the smallest number of hits for each recall (101,)."""
    if not n_truths:
        return np.full(len(_RECALLS), np.iinfo(np.int64).max)
    return np.maximum(np.searchsorted(np.arange(n_truths + 1) / n_truths, _RECALLS), 1)


def _metric(name: str, area: str = "all", thresholds: Sequence[int] = _ALL) -> Metric:
    options: dict[str, Any] = {"area": AREAS.index(area), "thresholds": tuple(thresholds)}
    return Metric(
        name=name, unit="%", margin=1.0, low=0.0, high=100.0, score=partial(score, **options),
        score_without=partial(score_without, **options), by_class=partial(by_class, **options),
    )  # fmt: skip


METRICS: tuple[Metric, ...] = (
    _metric("AP"),
    _metric("AP50", thresholds=(0,)),
    _metric("AP75", thresholds=(5,)),
    *(_metric(f"AP {area}", area) for area in AREAS[1:]),
)
