"""Measures of how well a map S in [0, 1] predicts the salient pixels G of an image; void pixels do not count.

    MAE        mean |S − G|
    F          1.3·P·R/(0.3·P + R) of precision P and recall R; 0 without a true positive
    adaptive   pixels with S ≥ min(2·S̄, 1)
    curve      pixels with ⌊255·S⌋ ≥ t, t = 255 to 0
    S-measure  max(0, (object + region)/2); 1 − S̄ for an empty G, S̄ for a full one
    object     Ḡ·o(S in G) + (1 − Ḡ)·o(1 − S outside G), o(x) = 2x̄/(x̄² + 1 + σ_x)
    region     mean, weighted by area, over four rectangles that meet at the centroid of G, of
               4·s̄·ḡ·σ_sg/((s̄² + ḡ²)(σ_s² + σ_g²)); 0/0 is 1

Deviations have ddof 1. As in PySODMetrics 1.6.2, except where its S-measure is NaN or depends on rounding.
Sources: Achanta et al., CVPR 2009; Perazzi et al., CVPR 2012; Fan et al., ICCV 2017, arXiv:1708.00786.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["N_THRESHOLDS", "adaptive_f", "f_curve", "mean_absolute_error", "s_measure", "scale_to_range"]

N_THRESHOLDS = 256
_BETA_SQUARED = 0.3
_EPS = 2.0**-52
"""Added to denominators, as in PySODMetrics."""


def scale_to_range(maps: Tensor, labelled: Tensor) -> Tensor:
    """Return ``maps`` scaled to [0, 1] by image, unless constant, and 0 where not ``labelled``; all (B, H, W)."""
    low = maps.masked_fill(~labelled, torch.inf).amin((1, 2), keepdim=True)
    high = maps.masked_fill(~labelled, -torch.inf).amax((1, 2), keepdim=True)
    scaled = torch.where(high > low, (maps - low) / (high - low), maps)
    return scaled.masked_fill(~labelled, 0)


def mean_absolute_error(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean absolute error (B,).

    Args:
        maps: predictions (B, H, W), float64, from :func:`scale_to_range`.
        salient: True for salient pixels (B, H, W).
        labelled: False for void pixels (B, H, W).
    """
    error = (maps - (salient & labelled).to(maps.dtype)).abs()
    return error.sum((1, 2)) / labelled.sum((1, 2))


def adaptive_f(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return adaptive F (B,); arguments as in :func:`mean_absolute_error`."""
    thresholds = (2 * maps.sum((1, 2)) / labelled.sum((1, 2))).clamp(max=1)
    found = (maps >= thresholds[:, None, None]) & labelled
    hits, n_found, n_salient = (pixels.sum((1, 2)) for pixels in (found & salient, found, salient & labelled))
    return _f_measure(hits.double(), n_found, n_salient)


def f_curve(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return F (B, 256) for t = 255 to 0; arguments as in :func:`mean_absolute_error`."""
    levels = (maps * (N_THRESHOLDS - 1)).long()
    levels += N_THRESHOLDS * torch.arange(len(maps), device=maps.device)[:, None, None]

    def count_above(pixels: Tensor) -> Tensor:
        counts = levels[pixels].bincount(minlength=N_THRESHOLDS * len(maps)).view(-1, N_THRESHOLDS)
        return counts.flip(1).cumsum(1)

    hits = count_above(salient & labelled)
    return _f_measure(hits.double(), count_above(labelled), hits[:, -1:])


def _f_measure(hits: Tensor, n_found: Tensor, n_salient: Tensor) -> Tensor:
    precision, recall = hits / n_found.clamp(min=1), hits / n_salient.clamp(min=1)
    product = (1 + _BETA_SQUARED) * precision * recall
    return product / torch.where(product == 0, 1, _BETA_SQUARED * precision + recall)


def s_measure(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    """Return the S-measure (B,); arguments as in :func:`mean_absolute_error`."""
    salient, background = salient & labelled, labelled & ~salient
    share, mean = salient.sum((1, 2)) / labelled.sum((1, 2)).double(), _mean(maps, labelled)
    of_object = share * _object_score(maps, salient) + (1 - share) * _object_score(1 - maps, background)
    score = ((of_object + _region_score(maps, salient, labelled)) / 2).clamp(min=0)
    return torch.where(share == 0, 1 - mean, torch.where(share == 1, mean, score))


def _mean(maps: Tensor, region: Tensor) -> Tensor:
    """Return the mean (B,) of ``maps`` (B, H, W) within ``region``, 0 if it is empty."""
    return (maps * region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)


def _object_score(maps: Tensor, region: Tensor) -> Tensor:
    mean = _mean(maps, region)
    squares = ((maps - mean[:, None, None]) * region).square().sum((1, 2))
    deviation = (squares / (region.sum((1, 2)) - 1).clamp(min=1)).sqrt()
    return 2 * mean / (mean.square() + 1 + deviation + _EPS)


def _region_score(maps: Tensor, salient: Tensor, labelled: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    n_salient = salient.sum((1, 2)).clamp(min=1)
    row = ((salient.sum(2) * rows).sum(1) / n_salient.double()).round()
    column = ((salient.sum(1) * columns).sum(1) / n_salient.double()).round()
    is_above, is_left = (rows <= row[:, None])[:, :, None], (columns <= column[:, None])[:, None]
    score = maps.new_zeros(len(maps))
    for in_rows in (is_above, ~is_above):
        for in_columns in (is_left, ~is_left):
            region = in_rows & in_columns & labelled
            score += region.sum((1, 2)) * _structural_similarity(maps, salient.to(maps.dtype), region)
    return score / labelled.sum((1, 2))


def _structural_similarity(first: Tensor, second: Tensor, region: Tensor) -> Tensor:
    (x, dx), (y, dy) = (_centre(maps, region) for maps in (first, second))
    n = region.sum((1, 2)) - 1 + _EPS
    covariance, variances = ((values.sum((1, 2)) / n) for values in (dx * dy, dx.square() + dy.square()))
    product, scale = 4 * x * y * covariance, (x.square() + y.square()) * variances
    return torch.where(product == 0, (scale == 0).to(first.dtype), product / (scale + _EPS))


def _centre(maps: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B,) within ``region`` and the differences from it (B, H, W)."""
    low = maps.masked_fill(~region, torch.inf).amin((1, 2))
    low = torch.where(region.any(2).any(1), low, 0)
    # A constant region then differs from its mean by exactly 0.
    shifted = maps - low[:, None, None]
    mean = _mean(shifted, region)
    return low + mean, (shifted - mean[:, None, None]) * region
