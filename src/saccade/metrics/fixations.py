"""Measures of how well a density over the pixels of an image predicts where people looked.

A density Q is non-negative and sums to 1; a fixation lies in one pixel, and each fixation counts, also several in one
pixel. Values are per image: NaN without a fixation, and as stated for constant densities.

    NSS   mean over the fixations of (Q − mean Q) / sd Q, both over all pixels, ddof 0; 0 if Q is constant
    CC    Pearson correlation of P and Q over the pixels, with the truth P; 0 if P or Q is constant
    KL    Σ P log(ε + P / (Q + ε)), ε = 2⁻⁵², in nats; lower is better
    SIM   Σ min(P, Q)
    AUC   probability that Q is higher at a fixation than at a negative; a tie counts one half
          AUC-Judd: negatives are the pixels without a fixation; shuffled AUC: fixations of other images

Source: Bylinskii et al., 2016, arXiv:1604.03605. Their code counts several fixations in one pixel once; each counts in
Kümmerer et al., ECCV 2018, and here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "auc", "auc_judd", "blur", "correlation", "count_fixations", "gaussian_at_centre", "kl_divergence", "normalise",
    "nss", "similarity",
]  # fmt: skip

_EPS = 2.0**-52


def count_fixations(points: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the number of fixations in each pixel (B, H, W), float64.

    Args:
        points: for each image, x and y in pixels from the upper left corner (n, 2), inside the image.
        size: (H, W).
    """
    height, width = size
    counts = []
    for xy in points:
        column, row = (
            xy[:, n].double().floor().long().clamp(0, side - 1) for n, side in enumerate((width, height))
        )
        counts.append((row * width + column).bincount(minlength=height * width).view(height, width))
    return torch.stack(counts).double()


def blur(counts: Tensor, sigma: float) -> Tensor:
    """Return ``counts`` (B, H, W) convolved with a Gaussian of ``sigma`` pixels, zero outside the image.

    The Gaussian is sampled at the pixels and not cut off, so that its constant factor is left to :func:`normalise`.
    """
    rows, columns = (_gaussian(side, sigma, counts) for side in counts.shape[1:])
    return rows @ counts @ columns


def _gaussian(side: int, sigma: float, like: Tensor) -> Tensor:
    """Return the Gaussian of the distance between any two of ``side`` pixels (side, side)."""
    positions = torch.arange(side, dtype=like.dtype, device=like.device)
    return torch.exp(-0.5 * ((positions[:, None] - positions) / sigma).square())


def normalise(maps: Tensor) -> Tensor:
    """Return non-negative ``maps`` (B, H, W) divided by their sums; a map of zeros becomes uniform."""
    sums = maps.sum((1, 2), keepdim=True)
    n_pixels = maps[0].numel()
    return torch.where(sums > 0, maps / torch.where(sums > 0, sums, 1), 1 / n_pixels)


def gaussian_at_centre(size: tuple[int, int], sigma: float) -> Tensor:
    """Return a Gaussian density of ``sigma`` pixels at the centre of an image of ``size`` (H, W), (1, H, W)."""
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(side).double() - (side - 1) / 2) / sigma).square()) for side in size
    )
    return normalise((rows[:, None] * columns)[None])


def nss(density: Tensor, counts: Tensor) -> Tensor:
    """Return the normalised scanpath saliency (B,) of ``density`` and ``counts``, both (B, H, W)."""
    centred = density - density.mean((1, 2), keepdim=True)
    at_fixations = (centred * counts).sum((1, 2)) / counts.sum((1, 2))
    scale = centred.square().mean((1, 2)).sqrt()
    return at_fixations * torch.where(_is_constant(density), 0, 1 / scale.clamp(min=torch.finfo(scale.dtype).tiny))


def correlation(density: Tensor, truth: Tensor) -> Tensor:
    """Return Pearson's correlation (B,) of ``density`` and ``truth``, both (B, H, W)."""
    first, second = (maps - maps.mean((1, 2), keepdim=True) for maps in (density, truth))
    covariance = (first * second).sum((1, 2))
    scale = (first.square().sum((1, 2)) * second.square().sum((1, 2))).sqrt()
    return torch.where(_is_constant(density) | _is_constant(truth), 0, covariance / scale)


def kl_divergence(density: Tensor, truth: Tensor) -> Tensor:
    """Return the divergence (B,) of ``density`` from ``truth``, both (B, H, W), in nats."""
    return (truth * torch.log(_EPS + truth / (density + _EPS))).sum((1, 2))


def similarity(density: Tensor, truth: Tensor) -> Tensor:
    """Return the histogram intersection (B,) of ``density`` and ``truth``, both (B, H, W)."""
    return torch.minimum(density, truth).sum((1, 2))


def auc_judd(density: Tensor, counts: Tensor) -> Tensor:
    """Return the AUC (B,) of fixations against pixels without one; ``density`` and ``counts`` are (B, H, W)."""
    return auc(density, counts, (counts == 0).to(counts.dtype))


def auc(density: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the area under the ROC curve (B,), exact with ties; NaN without a positive or a negative.

    Args:
        density: values (B, H, W).
        positives: number of positives in each pixel (B, H, W).
        negatives: number of negatives in each pixel (B, H, W).
    """
    images = zip(*(maps.detach().flatten(1).cpu().numpy() for maps in (density, positives, negatives)), strict=True)
    return torch.tensor([_auc(*image) for image in images], dtype=torch.float64, device=density.device)


def _auc(values: NDArray[Any], positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Return the area under the ROC curve of one image; the arguments are flat."""
    at_positives, at_negatives = (
        np.repeat(values[pixels], counts[pixels].astype(np.int64))
        for counts in (positives, negatives)
        for pixels in [np.flatnonzero(counts)]
    )
    if not len(at_positives) or not len(at_negatives):
        return np.nan
    at_negatives.sort()  # NumPy sorts several times as fast as PyTorch
    below, not_above = (np.searchsorted(at_negatives, at_positives, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(at_positives) * len(at_negatives)))


def _is_constant(maps: Tensor) -> Tensor:
    """Return True (B,) for ``maps`` (B, H, W) of one value."""
    return maps.amax((1, 2)) == maps.amin((1, 2))
