"""Measures of how well a map S in [0, 1] predicts the pixels G of salient objects, per image.

Only labelled pixels count. First S is scaled to the range [0, 1], unless it is constant.

    MAE        mean |S − G|
    F          (1 + β²) P R / (β² P + R), β² = 0.3, of precision P and recall R; 0 without a true positive
      adaptive   of the pixels with S ≥ min(2 mean S, 1)
      curve      of the pixels with S ≥ t / 255, t = 255, …, 0, with 255 S rounded down
    S-measure  max(0, (S_object + S_region) / 2); 1 − mean S if G is empty, mean S if G is everything
      S_object   μ o(S in G) + (1 − μ) o(1 − S outside G), μ = mean G, o(x) = 2 x̄ / (x̄² + 1 + sd x)
      S_region   mean over the four rectangles that meet at the centroid of G, weighted by area, of
                 4 s̄ ḡ cov(s, g) / ((s̄² + ḡ²)(var s + var g)); 1 if both terms are 0, 0 if only the first is

Standard deviations and variances have ddof 1. The same numbers as PySODMetrics 1.6, https://github.com/lartpang/
PySODMetrics. Sources: Achanta et al., CVPR 2009 (F); Perazzi et al., CVPR 2012 (MAE); Fan et al., ICCV 2017,
arXiv:1708.00786 (S-measure).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["N_THRESHOLDS", "adaptive_f", "f_curve", "mean_absolute_error", "s_measure", "scale_to_range"]

N_THRESHOLDS = 256
"""Number of thresholds of the curve."""
_BETA_SQUARED = 0.3
_EPS = 2.0**-52
"""The denominators of PySODMetrics contain it."""


def scale_to_range(maps: Tensor, labelled: Tensor) -> Tensor:
    """Return ``maps`` (B, H, W) with each image scaled to the range [0, 1], unless it is constant.

    Args:
        maps: predictions.
        labelled: True for pixels that count (B, H, W); others become 0.
    """
    low = maps.masked_fill(~labelled, torch.inf).amin((1, 2), keepdim=True)
    high = maps.masked_fill(~labelled, -torch.inf).amax((1, 2), keepdim=True)
    scaled = torch.where(high > low, (maps - low) / (high - low), maps)
    return scaled.masked_fill(~labelled, 0)


def mean_absolute_error(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean absolute error (B,).

    Args:
        maps: predictions (B, H, W), float64, from :func:`scale_to_range`.
        salient: True for pixels of salient objects (B, H, W).
        labelled: True for pixels that count (B, H, W).
    """
    error = (maps - (salient & labelled).to(maps.dtype)).abs()
    return error.sum((1, 2)) / labelled.sum((1, 2))


def adaptive_f(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return F (B,) at the adaptive threshold; the arguments are those of :func:`mean_absolute_error`."""
    thresholds = (2 * maps.sum((1, 2)) / labelled.sum((1, 2))).clamp(max=1)
    found = (maps >= thresholds[:, None, None]) & labelled
    hits, n_found, n_salient = (pixels.sum((1, 2)) for pixels in (found & salient, found, salient & labelled))
    return _f_measure(hits.double(), n_found, n_salient)


def f_curve(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return F (B, 256) at the thresholds t = 255 to 0; the arguments are those of :func:`mean_absolute_error`."""
    levels = (maps * (N_THRESHOLDS - 1)).long()
    levels += N_THRESHOLDS * torch.arange(len(maps), device=maps.device)[:, None, None]

    def count_above(pixels: Tensor) -> Tensor:
        counts = levels[pixels].bincount(minlength=N_THRESHOLDS * len(maps)).view(-1, N_THRESHOLDS)
        return counts.flip(1).cumsum(1)

    hits = count_above(salient & labelled)
    return _f_measure(hits.double(), count_above(labelled), hits[:, -1:])


def _f_measure(hits: Tensor, n_found: Tensor, n_salient: Tensor) -> Tensor:
    """Return F from the numbers of true positive, found and salient pixels, of one shape or broadcast."""
    precision, recall = hits / n_found.clamp(min=1), hits / n_salient.clamp(min=1)
    product = (1 + _BETA_SQUARED) * precision * recall
    return product / torch.where(product == 0, 1, _BETA_SQUARED * precision + recall)


def s_measure(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return the S-measure (B,); the arguments are those of :func:`mean_absolute_error`."""
    return torch.stack([_s_measure(*image) for image in zip(maps, salient & labelled, labelled, strict=True)])


def _s_measure(prediction: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    fraction = salient.sum() / labelled.sum().to(prediction.dtype)
    mean = prediction.sum() / labelled.sum()
    if fraction == 0 or fraction == 1:
        return mean if fraction else 1 - mean
    of_object = fraction * _object_score(prediction[salient])
    of_object += (1 - fraction) * _object_score(1 - prediction[labelled & ~salient])
    return ((of_object + _region_score(prediction, salient, labelled)) / 2).clamp(min=0)


def _object_score(values: Tensor) -> Tensor:
    deviation = values.std() if len(values) > 1 else 0
    return 2 * values.mean() / (values.mean().square() + 1 + deviation + _EPS)


def _region_score(prediction: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    row, column = (int(n) + 1 for n in salient.nonzero().double().mean(0).round())
    score = prediction.new_zeros(())
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            region = labelled[rows, columns]
            if n_pixels := int(region.sum()):
                part = prediction[rows, columns][region], salient[rows, columns][region].to(prediction.dtype)
                score = score + n_pixels * _structural_similarity(*part)
    return score / labelled.sum()


def _structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the similarity of the values of two maps in one region, both (n,)."""
    x, y, n = first.mean(), second.mean(), len(first) - 1 + _EPS
    covariance = ((first - x) * (second - y)).sum() / n
    variances = ((first - x).square().sum() + (second - y).square().sum()) / n
    product, scale = 4 * x * y * covariance, (x.square() + y.square()) * variances
    if product == 0:
        return (scale == 0).to(first.dtype)
    return product / (scale + _EPS)
