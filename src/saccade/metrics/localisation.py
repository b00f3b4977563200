"""Pointing game and IoU of a heat map L, scaled to [0, 1], and a region R; NaN for an empty region.

    pointing game   fraction of the maxima of L that are in R
    IoU at t        |{L ≥ t} ∩ R|/|{L ≥ t} ∪ R|

Sources: Zhang et al., ECCV 2016, arXiv:1608.00507; Choe et al., CVPR 2020, arXiv:2001.07437, who show that a fixed
threshold decides which method looks best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.errors import UserError
from saccade.metrics.maps import check_map_and_region, min_max

__all__ = ["IOU_THRESHOLDS", "best_iou", "box_region", "iou_by_threshold", "pointing_game"]

IOU_THRESHOLDS = tuple(n / 100 for n in range(1, 100))


def pointing_game(map: Tensor, region: Tensor) -> Tensor:
    """Return the pointing game (…), float64; arguments (…, H, W) as for :func:`saccade.metrics.sfd`."""
    check_map_and_region(map, region)
    is_maximum = map == map.amax((-2, -1), keepdim=True)
    hits = (is_maximum & region).sum((-2, -1)).double() / is_maximum.sum((-2, -1))
    return torch.where(region.any(-1).any(-1), hits, torch.nan)


def iou_by_threshold(map: Tensor, region: Tensor) -> Tensor:
    """Return IoU of ``map`` and ``region`` (H, W) at ``IOU_THRESHOLDS``, float64 (99,)."""
    check_map_and_region(map, region)
    thresholds = torch.tensor(IOU_THRESHOLDS, dtype=torch.float64, device=map.device)
    levels = torch.bucketize(min_max(map), thresholds, right=True)  # number of thresholds reached
    hits, found = (_reaching(pixels, len(thresholds)) for pixels in (levels[region], levels.flatten()))
    n_region = int(region.sum())
    return torch.where(region.any(), hits / (found - hits + n_region).clamp(min=1), torch.nan)


def _reaching(levels: Tensor, count: int) -> Tensor:
    """Return the number of ``levels`` (n,) ≥ 1, …, ``count``, float64."""
    return levels.bincount(minlength=count + 1).flip(0).cumsum(0).flip(0)[1:].double()


def best_iou(maps: Sequence[Tensor] | Tensor, regions: Sequence[Tensor] | Tensor) -> tuple[float, float]:
    """Return the best mean IoU at one threshold for all ``maps`` (H, W) and ``regions`` (H, W), and the threshold.

    Empty regions do not count.

    Raises:
        UserError: the arguments do not fit, or every region is empty.
    """
    if len(maps) != len(regions):
        raise UserError(f"there are {len(maps)} maps and {len(regions)} regions; one region per map is needed")
    pairs = zip(maps, regions, strict=True)
    curves = [iou_by_threshold(map, region) for map, region in pairs if region.any()]
    if not curves:
        raise UserError(f"none of the {len(regions)} regions has a pixel; at least one is needed")
    mean = torch.stack(curves).mean(0)
    best = int(mean.argmax())
    return float(mean[best]), IOU_THRESHOLDS[best]


def box_region(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels, bool (H, W), whose centre is in one of ``boxes`` (n, 4), XYXY."""
    left, top, right, bottom = boxes.double()[:, :, None].unbind(1)  # each (n, 1)
    x, y = (torch.arange(side, dtype=torch.float64, device=boxes.device) + 0.5 for side in size[::-1])
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None]).any(0)
