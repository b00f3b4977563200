"""Checks and min–max scaling of heat maps."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import UserError

__all__ = ["check_map_and_region", "min_max"]

_TOLERANCE = 1e-4  # rounding, of interpolation for instance


def check_map_and_region(map: Tensor, region: Tensor) -> None:
    """Raise UserError unless ``map`` (…, H, W) is in [0, 1] and ``region`` is bool of the same shape."""
    if map.shape != region.shape or map.ndim < 2 or 0 in map.shape[-2:]:
        raise UserError(
            f"the map has shape {tuple(map.shape)} and the region {tuple(region.shape)}; the same (…, H, W) is needed"
        )
    if not map.is_floating_point():
        raise UserError(f"the map is {map.dtype}; floating-point numbers from 0 to 1 are needed")
    if region.dtype != torch.bool:
        raise UserError(f"the region is {region.dtype}; torch.bool is needed, True for the pixels of the region")
    if not bool(((map >= -_TOLERANCE) & (map <= 1 + _TOLERANCE)).all()):  # also NaN
        values = map.detach().double()
        raise UserError(f"the map runs from {float(values.min()):g} to {float(values.max()):g}; 0 to 1 is needed")


def min_max(map: Tensor) -> Tensor:
    """Return ``map`` (…, H, W) in float64, scaled to run from 0 to 1; a constant map becomes 0."""
    values = map.detach().double()
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1)
