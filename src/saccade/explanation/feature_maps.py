"""Tell feature maps (B, C, H, W) from other outputs of modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["as_feature_map", "channels_first", "is_image_shaped"]


_MUCH = 4
"""Factor by which (B, H, W, C) must fit the image's proportions better than (B, C, H, W) to be assumed."""


def as_feature_map(output: Any, image_size: tuple[int, int]) -> Tensor | None:
    """Return ``output`` as a map (B, C, H, W) with the proportions of the image; None for anything else.

    Maps (B, H, W, C) are transposed; maps of one pixel show no place and count as vectors.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point():
        return None
    first, last = output, output.permute(0, 3, 1, 2)
    if _MUCH * _distortion(last, image_size) < _distortion(first, image_size):
        first = last
    return first if is_image_shaped((first.shape[2], first.shape[3]), image_size) else None


def channels_first(output: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return ``output`` of rank 4 as (B, C, H, W); transposed if only (B, H, W, C) has the image's proportions."""
    feature_map = as_feature_map(output, image_size)
    return output if feature_map is None else feature_map


def is_image_shaped(size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Return True if ``size`` has several pixels and the proportions of the image, up to one pixel of rounding."""
    (h, w), (height, width) = size, image_size
    if h * w == 1 or h > 2 * height:
        return False
    return abs(h * width - w * height) <= (height + width) * max(1.0, h / height)


def _distortion(feature_map: Tensor, image_size: tuple[int, int]) -> int:
    """Return how far the proportions of a map (B, C, H, W) are from those of the image; 0 if equal."""
    (h, w), (height, width) = feature_map.shape[2:], image_size
    return abs(h * width - w * height)
