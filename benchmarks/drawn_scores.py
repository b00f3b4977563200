"""Whole test sets drawn for scores that are no mean over images, with scores and pseudo-values of thousands of runs.

On the scale of a run's scatter on one image, an image has a difficulty of its own, an arm has ``taste`` for some images
more than for others, and seeds and runs differ as a whole. With nine groups of unequal size, half the variance of
difficulty and taste belongs to the group, which is the unit.

* mIoU: areas of four classes, present on 100, 60, 30 and 15 % of the images; misses of a class are taken for the next.
* AUROC: one label, positive on 20 % of the images.
* AP: up to three objects and two false detections an image, with confidences; the area under the step curve.

Pseudo-values are those of ``pseudovalues.jackknife`` in closed form; of AP they are first-order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARMS", "GAINS", "GROUPS", "SEEDS", "Sets", "ap", "ap_of", "auroc", "auroc_of", "miou", "miou_of"]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

ARMS, SEEDS = (2, 5), (3, 5)
GAINS = np.array([0, 0, 0, 0, 0, 1, -1, 0.5, -0.5])  # the baseline, four equals, four unlike; in units of ``gain``
GROUPS = np.array([3, 4, 6, 7, 8, 9, 10, 12, 13])  # 72 images of nine patients


@dataclass(frozen=True)
class Sets:
    """Test sets of the studies of one chunk; the axes are study, arm, seed, image.

    Attributes:
        rng: where all comes from.
        studies: how many.
        starts: (units,), the first image of each unit.
        images: of one test set.
        taste: SD of what an arm makes of an image at every seed.
        gain: what the gains are multiplied by.
    """

    rng: np.random.Generator
    studies: int
    starts: NDArray[np.int64]
    images: int
    taste: float
    gain: float

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Images in each unit (units,)."""
        return np.diff([*self.starts, self.images])

    def normal(self, *shape: int) -> Singles:
        """Standard normals (studies, *shape)."""
        return self.rng.standard_normal((self.studies, *shape), dtype=np.float32)

    def per_image(self, arms: int, parts: int) -> Singles:
        """Normals (studies, arms, 1, images, parts) of variance 1; half of it is a group's where there are groups."""
        own = self.normal(arms, 1, self.images, parts)
        if len(self.starts) != len(GROUPS):
            return own
        groups = np.repeat(self.normal(arms, 1, len(GROUPS), parts), self.sizes, axis=3)
        return np.float32(np.sqrt(0.5)) * (own + groups)

    def skill(self, parts: int) -> Singles:
        """How well each run does on each part of each image: (studies, arms, seeds, images, parts)."""
        arms, seeds = len(GAINS), max(SEEDS)
        whole = 0.05 * self.normal(1, seeds, 1, 1) + 0.08 * self.normal(arms, seeds, 1, 1)
        whole += (self.gain * GAINS).astype(np.float32)[:, None, None, None]
        image = 1.5 * self.per_image(1, parts) + self.taste * self.per_image(arms, parts)
        return self.normal(arms, seeds, self.images, parts) + whole + image

    def sums(self, of_images: NDArray[Any], axis: int = -1) -> Floats:
        """Sums over the images of each unit; ``axis`` is that of the images."""
        return np.add.reduceat(of_images, self.starts, axis=axis, dtype=np.float64)


def _tukey(whole: Floats, without: Floats) -> Floats:
    units = without.shape[-1]
    return units * whole[..., None] - (units - 1) * without


def miou(sets: Sets) -> tuple[Floats, Floats]:
    """Draw and score; as ``miou_of``."""
    often = np.array([1.0, 0.6, 0.3, 0.15])
    shape = (sets.studies, 1, 1, sets.images, 4)
    drawn = (sets.rng.random(shape) < often) * sets.rng.gamma(1.0, 1.0, shape)
    area = np.asarray(drawn / drawn.sum(axis=-1, keepdims=True), dtype=np.float32)
    missed = sets.skill(4)
    missed += np.float32(1.0)
    np.exp(missed, out=missed)
    missed += 1
    np.divide(area, missed, out=missed)
    return miou_of(area, missed, sets)


def miou_of(area: Singles, missed: Singles, sets: Sets) -> tuple[Floats, Floats]:
    """Scores (studies, arms, seeds) and pseudo-values (studies, arms, seeds, units), per cent.

    Args:
        area: (studies, 1, 1, images, classes), share of the picture.
        missed: (studies, arms, seeds, images, classes), the part of it that is taken for the next class.
        sets: the units.
    """
    areas, misses = sets.sums(area, 3), sets.sums(missed, 3)  # (..., units, classes)

    def iou(areas: Floats, misses: Floats) -> Floats:
        return 100 * ((areas - misses) / np.maximum(areas + np.roll(misses, 1, axis=-1), 1e-12)).mean(axis=-1)

    all_areas, all_misses = areas.sum(axis=3), misses.sum(axis=3)
    score = iou(all_areas, all_misses)
    without = iou(all_areas[..., None, :] - areas, all_misses[..., None, :] - misses)
    return score, _tukey(score, without)


def below(scores: Singles, positive: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count for each image (..., n) those of the other class in right order: below a positive, above a negative one."""
    order = np.argsort(scores, axis=-1)
    sorted_positive = np.take_along_axis(np.broadcast_to(positive, scores.shape), order, axis=-1)
    positives_so_far = np.cumsum(sorted_positive, axis=-1, dtype=np.int32)
    negatives_so_far = np.arange(1, scores.shape[-1] + 1, dtype=np.int32) - positives_so_far
    above = positives_so_far[..., -1:] - positives_so_far
    found = np.empty(scores.shape, dtype=np.int32)
    np.put_along_axis(found, order, np.where(sorted_positive, negatives_so_far, above), axis=-1)
    return found


def auroc(sets: Sets) -> tuple[Floats, Floats]:
    """Draw and score; as ``auroc_of``."""
    positive = sets.rng.random((sets.studies, 1, 1, sets.images)) < 0.2
    positive[..., 0], positive[..., -1] = True, False  # both classes are there
    skill = sets.skill(1)[..., 0]
    return auroc_of(np.where(positive, skill + np.float32(2.5), -skill), positive, sets)


def auroc_of(scores: Singles, positive: NDArray[np.bool_], sets: Sets) -> tuple[Floats, Floats]:
    """As ``miou_of``, from scores (studies, arms, seeds, images) and labels (studies, 1, 1, images)."""
    right = below(scores, positive)
    pairs = np.where(positive, right, 0).sum(axis=-1).astype(np.float64)
    ends = [*sets.starts[1:], sets.images]
    inside = np.zeros((*scores.shape[:-1], len(ends)))
    if len(ends) < sets.images:
        for unit, (a, b) in enumerate(zip(sets.starts, ends, strict=True)):
            part = positive[..., a:b]
            inside[..., unit] = np.where(part, below(scores[..., a:b], part), 0).sum(axis=-1)
    positives, negatives = sets.sums(positive), sets.sums(~positive)
    p, n = positives.sum(axis=-1), negatives.sum(axis=-1)
    kept = (p[..., None] - positives) * (n[..., None] - negatives)
    without = 100 * (pairs[..., None] - sets.sums(right) + inside) / np.where(kept > 0, kept, np.nan)
    score = 100 * pairs / (p * n)
    return score, _tukey(score, without)


def ap(sets: Sets) -> tuple[Floats, Floats]:
    """Draw and score; as ``ap_of``."""
    objects = np.minimum(sets.rng.poisson(1.5, (sets.studies, 1, 1, sets.images)), 3)
    slots = np.arange(5)
    tp = np.broadcast_to(slots < objects[..., None], (sets.studies, 1, 1, sets.images, 5)).copy()
    tp[..., 3:] = False
    there = tp.copy()
    there[..., 3:] = sets.rng.random((sets.studies, 1, 1, sets.images, 2)) < 0.5
    skill = sets.skill(5)
    confidence = np.where(tp, skill + np.float32(1.5), -skill - np.float32(0.5))
    return ap_of(confidence, there & (confidence > -2), tp, objects, sets)


def ap_of(
    confidence: Singles, seen: NDArray[np.bool_], tp: NDArray[np.bool_], objects: NDArray[np.int64], sets: Sets
) -> tuple[Floats, Floats]:
    """As ``miou_of``; a unit's removal is taken to first order.

    Args:
        confidence: (studies, arms, seeds, images, slots).
        seen: (studies, arms, seeds, images, slots), whether there is such a detection.
        tp: (studies, 1, 1, images, slots), whether it would be right.
        objects: (studies, 1, 1, images).
        sets: the units.
    """
    confidence = np.where(seen, confidence, -np.inf)
    shape = confidence.shape
    flat = (*shape[:3], -1)
    order = np.argsort(-confidence.reshape(flat), axis=-1)
    hit = np.take_along_axis((seen & tp).reshape(flat), order, axis=-1)
    count = np.maximum(np.cumsum(np.take_along_axis(seen.reshape(flat), order, axis=-1), axis=-1, dtype=np.float32), 1)
    precision = np.cumsum(hit, axis=-1, dtype=np.float32) / count
    at_hits = np.where(hit, precision, 0)

    def after(x: NDArray[Any]) -> NDArray[Any]:
        """Sums of what lies below in the order."""
        total = np.cumsum(x, axis=-1)
        return total[..., -1:] - total

    lost = at_hits + np.where(hit, after(hit / count), 0) - after(at_hits / count)
    of_slot = np.empty_like(lost)
    np.put_along_axis(of_slot, order, lost, axis=-1)
    of_image = np.where(seen, of_slot.reshape(shape), 0).sum(axis=-1)
    total, all_objects = at_hits.sum(axis=-1, dtype=np.float64), objects.sum(axis=-1)
    score = 100 * total / all_objects
    without = 100 * (total[..., None] - sets.sums(of_image)) / (all_objects[..., None] - sets.sums(objects))
    return score, _tukey(score, without)
