"""Random smooth maps with the values of given maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pixel_ranks", "random_maps", "smooth_noise"]

_GRID = 7
"""Side of the last feature map of most classifiers."""


def smooth_noise(n_maps: int, size: tuple[int, int], seed: int) -> Tensor:
    """Return noise (n_maps, H, W) on an enlarged 7×7 grid; map i is drawn with seed + i."""
    noise = torch.empty(n_maps, 1, min(_GRID, size[0]), min(_GRID, size[1]))
    for i in range(n_maps):
        noise[i].normal_(generator=torch.Generator().manual_seed(seed + i))
    return F.interpolate(noise, size, mode="bicubic", align_corners=False)[:, 0]


def random_maps(maps: Tensor, seed: int = 0) -> Tensor:
    """Return the values of ``maps`` (B, H, W) in the order of ``smooth_noise``."""
    order = smooth_noise(len(maps), (maps.shape[1], maps.shape[2]), seed).flatten(1).argsort(1).to(maps.device)
    return torch.zeros_like(maps).flatten(1).scatter(1, order, maps.flatten(1).sort(1).values).view_as(maps)


def pixel_ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """Return ranks of the pixels of ``maps`` (B, H, W), 0 for the largest; ``smooth_noise`` ranks equal values."""
    # Scattered pixels would hide more of an image than as many in one place.
    noise = smooth_noise(len(maps), (maps.shape[1], maps.shape[2]), seed).flatten(1).to(maps.device)
    by_noise = noise.argsort(1, descending=True)
    order = maps.flatten(1).gather(1, by_noise).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(noise.shape[1], device=maps.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, by_noise.gather(1, order), places).view(maps.shape)
