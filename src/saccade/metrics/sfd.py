"""Salient feature detection (sfd): weight of a heat map L, scaled to [0, 1], in a region R and outside.

    W_r = mean of 10^L over R
    W_n = mean of 10^L over the pixels outside R with L ≥ threshold; 1 without any
    sfd = W_r/(W_r + W_n); R as map gives 10/11, a constant 1/2, the complement 1/11

Reconstructed from Salajegheh et al., 2023, arXiv:2311.12091, which gives no formula; its 0.59 for ResNet-50 and 0.72
for DAS are not comparable.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saccade.errors import UserError
from saccade.metrics.maps import check_map_and_region, min_max

__all__ = ["SFD_THRESHOLDS", "SfdSweep", "sfd", "sfd_sweep"]

SFD_THRESHOLDS = tuple(n / 10 for n in range(1, 10))


class SfdSweep(NamedTuple):
    """sfd by threshold, ``values`` (…, 9), and its mean (…)."""

    mean: Tensor
    values: Tensor


def sfd(map: Tensor, region: Tensor, threshold: float = 0.5) -> Tensor:
    """Return sfd (…), float64; NaN for an empty region.

    Args:
        map: heat map (…, H, W) in [0, 1].
        region: bool (…, H, W).
        threshold: of the scaled map.

    Raises:
        UserError: shapes, dtypes or values do not fit.
    """
    check_map_and_region(map, region)
    if not 0 < threshold <= 1:
        raise UserError(f"threshold = {threshold:g}: it must be above 0 and at most 1")
    return _sfd(min_max(map), region, threshold)


def sfd_sweep(map: Tensor, region: Tensor) -> SfdSweep:
    """Return :func:`sfd` of ``map`` and ``region`` (…, H, W) at ``SFD_THRESHOLDS``, 0.1 to 0.9."""
    check_map_and_region(map, region)
    scaled = min_max(map)
    values = torch.stack([_sfd(scaled, region, threshold) for threshold in SFD_THRESHOLDS], -1)
    return SfdSweep(values.mean(-1), values)


def _sfd(scaled: Tensor, region: Tensor, threshold: float) -> Tensor:
    weights = 10**scaled
    outside = ~region & (scaled >= threshold)
    n_region, n_outside = region.sum((-2, -1)), outside.sum((-2, -1))
    in_region = (weights * region).sum((-2, -1)) / n_region  # 0/0 is NaN
    out_of_region = torch.where(n_outside > 0, (weights * outside).sum((-2, -1)) / n_outside.clamp(min=1), 1.0)
    return in_region / (in_region + out_of_region)
