"""Agreement of heat maps with fixations, by the measures of ``saccade.metrics.fixations``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from saccade.errors import UserError
from saccade.metrics.fixations import (
    CENTRE_SIGMA,
    SIGMA,
    auc,
    auc_judd,
    blur,
    correlation,
    count_fixations,
    gaussian_at_centre,
    nss,
)

__all__ = ["centre_agreement", "gaze_agreement"]


def gaze_agreement(
    maps: Tensor, points: Sequence[Tensor], sigma: float | None = None, negatives: Tensor | None = None
) -> dict[str, Tensor]:
    """Return NSS, CC, AUC-Judd and, given ``negatives``, shuffled AUC, each (B,); NaN without fixations.

    Compare with :func:`centre_agreement`.

    Args:
        maps: heat maps (B, H, W).
        points: fixations (n, 2) of each image, x and y in pixels.
        sigma: pixels by which CC blurs fixations; None means 15/512 of the longer side.
        negatives: fixations of other images per pixel (H, W).

    Raises:
        UserError: shapes do not fit.
    """
    if maps.ndim != 3 or len(maps) != len(points):
        raise UserError(f"the maps have shape {tuple(maps.shape)}; ({len(points)}, H, W) is needed, one per image")
    size = maps.shape[1], maps.shape[2]
    if negatives is not None and negatives.shape != size:
        raise UserError(f"negatives have shape {tuple(negatives.shape)}; that of the maps is needed, {size}")
    density = maps.detach().double()
    counts = count_fixations(points, size).to(density.device)
    has_fixations = counts.sum((1, 2)) > 0
    truth = blur(counts, sigma or SIGMA * max(size))
    values = {
        "NSS": nss(density, counts),
        "CC": correlation(density, truth),
        "AUC-Judd": auc_judd(density, counts),
    }
    if negatives is not None:
        values["shuffled AUC"] = auc(density, counts, negatives.to(density).expand_as(counts))
    return {name: value.where(has_fixations, float("nan")) for name, value in values.items()}


def centre_agreement(
    points: Sequence[Tensor], size: tuple[int, int], sigma: float | None = None, negatives: Tensor | None = None
) -> dict[str, Tensor]:
    """Return :func:`gaze_agreement` (B,) of a Gaussian at the centre of images of ``size`` (H, W)."""
    centre = gaussian_at_centre(size, CENTRE_SIGMA * max(size)).expand(len(points), -1, -1)
    return gaze_agreement(centre, points, sigma, negatives)
