r"""Bias of attention by relative position, where keys lie between the pixels: a table sampled once for each pair.

    b_h(m, q) = T_h((q − p_m)/2)                 T: (heads, 2H − 1, 2W − 1), its corners at −1 and 1, linear between

q runs over the pixels of a map of H×W, p_m are the places of M keys, both from −1 to 1, corner on corner.

``relative_bias_definition`` writes this down. A pixel further down the map is a whole row further down the table, so a
key's fractions are the same for all pixels: b_h(m, ·) is the weighted sum of four H×W windows of the table. So
``relative_bias`` reads four rows of W numbers for a key and a row of pixels, where the definition computes a place and
reads four numbers for each pixel.

Source: Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022, arXiv:2201.00520, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["coordinates", "pixels", "relative_bias", "relative_bias_definition", "windows"]


def coordinates(size: int, like: Tensor) -> Tensor:
    """The ``size`` middles of pixels from −1 to 1, corner on corner; 0 where there is one pixel."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    steps: Any = torch.sym_max(size - 1, 1)
    return (2 * place - (size - 1)) / steps


def pixels(size: tuple[int, int], rows: slice, like: Tensor) -> Tensor:
    """The middles of the pixels of some rows of a map of ``size``, (Q, 2), y then x."""
    y, x = coordinates(size[0], like)[rows], coordinates(size[1], like)
    return torch.stack((y[:, None].expand(-1, size[1]), x.expand(y.shape[0], -1)), -1).flatten(0, 1)


def relative_bias_definition(table: Tensor, places: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The equation at the head of the module, by ``F.grid_sample``, for a table of any size.

    Args:
        table: (heads, 2H' − 1, 2W' − 1); it is stretched where (H', W') is not ``size``.
        places: (B, M, 2) of the keys, y then x.
        size: (H, W) of the map.
        rows: of the map; their pixels are the queries.

    Returns:
        (B, heads, M, Q), zero where q − p_m lies outside the table.
    """
    apart = (pixels(size, rows, places) - places[:, :, None]) / 2  # (B, M, Q, 2)
    return F.grid_sample(table.to(places.dtype).expand(places.shape[0], -1, -1, -1), apart.flip(-1), align_corners=True)


def windows(table: Tensor) -> Tensor:
    """What ``relative_bias`` reads of a table (heads, 2H − 1, 2W − 1): each run of W numbers of it, (·, W)."""
    width = (table.shape[2] + 1) // 2
    return F.pad(table, (0, 1, 0, 1)).flatten().unfold(0, width, 1).contiguous()


def relative_bias(runs: Tensor, places: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``relative_bias_definition`` of a table that has the map's size, and of places within −1 and 1.

    ``runs`` are the ``windows`` of the table, the same for all calls; the other arguments and the result are the
    definition's. Gradients of gradients are not to be had: torch has none of a bag's weights.
    """
    height, width = size
    plane = 4 * height * width
    runs = runs.to(places.dtype)
    heads = -(-len(runs) // plane)
    limits = torch.tensor([height - 1, width - 1], device=places.device, dtype=places.dtype)
    start = (1 - places) / 2 * limits  # of the window, in pixels of the table
    whole = start.detach().floor()
    (lower, right), (upper, left) = (start - whole).unbind(-1), (1 - start + whole).unbind(-1)
    weights = torch.stack((upper * left, upper * right, lower * left, lower * right), -1)  # (B, M, 4)
    top, first = whole.int().unbind(-1)
    taken = torch.arange(height, device=places.device, dtype=torch.int32)[rows] * (2 * width)
    corner = torch.tensor([0, 1, 2 * width, 2 * width + 1], device=places.device, dtype=torch.int32)
    head = torch.arange(heads, device=places.device, dtype=torch.int32) * plane
    run = (top * (2 * width) + first)[:, None, :, None, None] + head[:, None, None, None]
    run = run + taken[:, None] + corner  # (B, heads, M, rows, 4)
    bags = F.embedding_bag(
        run.view(-1, 4), runs, mode="sum", per_sample_weights=weights[:, None, :, None].expand(run.shape).reshape(-1, 4)
    )
    return bags.view(*run.shape[:3], -1)
