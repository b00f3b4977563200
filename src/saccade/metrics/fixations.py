"""Measures of how well a density over pixels predicts fixations, per image; NaN without a fixation.

    NSS  mean over the fixations of (Q − Q̄)/σ_Q, ddof 0; 0 for a constant Q
    CC   Pearson correlation of truth P and Q; 0 if either is constant
    KL   Σ P·log(ε + P/(Q + ε)) in nats, ε = 2⁻⁵²; lower is better
    SIM  Σ min(P, Q)
    AUC  probability that Q is higher at a fixation than at a negative; ties count ½

Several fixations in one pixel count several times, as in Kümmerer et al., ECCV 2018.
Source: Bylinskii et al., 2016, arXiv:1604.03605.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "CENTRE_SIGMA", "SIGMA", "auc", "auc_judd", "blur", "correlation", "count_fixations", "gaussian_at_centre",
    "kl_divergence", "normalise", "nss", "similarity",
]  # fmt: skip

SIGMA = 15 / 512
"""Default of ``blur``, as a fraction of the longer side."""
CENTRE_SIGMA = 96 / 512
"""Default of ``gaussian_at_centre``, as a fraction of the longer side."""
_EPS = 2.0**-52


def count_fixations(points: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the fixations per pixel (B, H, W), float64, from ``points`` (n, 2) of x, y inside ``size`` (H, W)."""
    height, width = size
    counts = []
    for xy in points:
        column, row = (xy[:, n].double().floor().long().clamp(0, side - 1) for n, side in enumerate((width, height)))
        counts.append((row * width + column).bincount(minlength=height * width).view(height, width))
    return torch.stack(counts).double()


def blur(counts: Tensor, sigma: float) -> Tensor:
    """Return ``counts`` (B, H, W), 0 outside the image, convolved with exp(−d²/2σ²) of d pixels."""
    rows, columns = (_gaussian(side, sigma, counts) for side in counts.shape[1:])
    return rows @ counts @ columns


def _gaussian(side: int, sigma: float, like: Tensor) -> Tensor:
    positions = torch.arange(side, dtype=like.dtype, device=like.device)
    return torch.exp(-0.5 * ((positions[:, None] - positions) / sigma).square())


def normalise(maps: Tensor) -> Tensor:
    """Return ``maps`` (B, H, W) divided by their sums; zeros become uniform."""
    sums = maps.sum((1, 2), keepdim=True)
    n_pixels = maps[0].numel()
    return torch.where(sums > 0, maps / torch.where(sums > 0, sums, 1), 1 / n_pixels)


def gaussian_at_centre(size: tuple[int, int], sigma: float) -> Tensor:
    """Return a Gaussian density (1, H, W) of ``sigma`` pixels at the centre of ``size`` (H, W)."""
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(side).double() - (side - 1) / 2) / sigma).square()) for side in size
    )
    return normalise((rows[:, None] * columns)[None])


def nss(density: Tensor, counts: Tensor) -> Tensor:
    """Return NSS (B,) of ``density`` and ``counts``, both (B, H, W)."""
    centred = density - density.mean((1, 2), keepdim=True)
    at_fixations = (centred * counts).sum((1, 2)) / counts.sum((1, 2))
    scale = centred.square().mean((1, 2)).sqrt()
    return at_fixations * torch.where(_is_constant(density), 0, 1 / scale.clamp(min=torch.finfo(scale.dtype).tiny))


def correlation(density: Tensor, truth: Tensor) -> Tensor:
    """Return CC (B,) of ``density`` and ``truth``, both (B, H, W)."""
    first, second = (maps - maps.mean((1, 2), keepdim=True) for maps in (density, truth))
    covariance = (first * second).sum((1, 2))
    scale = (first.square().sum((1, 2)) * second.square().sum((1, 2))).sqrt()
    return torch.where(_is_constant(density) | _is_constant(truth), 0, covariance / scale)


def kl_divergence(density: Tensor, truth: Tensor) -> Tensor:
    """Return KL (B,) of ``density`` from ``truth``, both (B, H, W)."""
    return (truth * torch.log(_EPS + truth / (density + _EPS))).sum((1, 2))


def similarity(density: Tensor, truth: Tensor) -> Tensor:
    """Return SIM (B,) of ``density`` and ``truth``, both (B, H, W)."""
    return torch.minimum(density, truth).sum((1, 2))


def auc_judd(density: Tensor, counts: Tensor) -> Tensor:
    """Return AUC (B,) of fixations against pixels without one; both arguments are (B, H, W)."""
    return auc(density, counts, (counts == 0).to(counts.dtype))


def auc(density: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return AUC (B,) of ``density`` for the counts ``positives`` and ``negatives``, all (B, H, W)."""
    images = zip(*(maps.detach().flatten(1).cpu().numpy() for maps in (density, positives, negatives)), strict=True)
    return torch.tensor([_auc(*image) for image in images], dtype=torch.float64, device=density.device)


def _auc(values: NDArray[Any], positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    at_positives, at_negatives = (
        np.repeat(values[pixels], counts[pixels].astype(np.int64))
        for counts in (positives, negatives)
        for pixels in [np.flatnonzero(counts)]
    )
    if not len(at_positives) or not len(at_negatives):
        return np.nan
    at_negatives.sort()  # faster than in PyTorch
    below, not_above = (np.searchsorted(at_negatives, at_positives, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(at_positives) * len(at_negatives)))


def _is_constant(maps: Tensor) -> Tensor:
    return maps.amax((1, 2)) == maps.amin((1, 2))
