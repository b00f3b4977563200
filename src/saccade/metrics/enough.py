"""Number of test images from which a class, or a value of a column, is scored."""

from __future__ import annotations

from torch import Tensor

__all__ = ["MIN_GROUPS", "MIN_IMAGES", "count_groups", "is_enough"]

MIN_IMAGES = 15
"""Smallest number of images of a scored class or value."""
MIN_GROUPS = 10
"""Smallest number of groups (patients, scenes) that these images come from."""


def count_groups(selected: Tensor, groups: Tensor | None) -> Tensor:
    """Return the number of groups with a ``selected`` image (K,).

    Args:
        selected: bool (N, K).
        groups: group of each image, integers (N,); None if each image is a group.
    """
    if groups is None:
        return selected.sum(0)
    codes = groups.unique(return_inverse=True)[1]
    counts = selected.new_zeros(int(codes.max()) + 1, selected.shape[1], dtype=selected.int().dtype)
    return (counts.index_add_(0, codes, selected.int()) > 0).sum(0)


def is_enough(selected: Tensor, groups: Tensor | None) -> Tensor:
    """Return True (K,) for at least ``MIN_IMAGES`` ``selected`` images (N, K) in ``MIN_GROUPS`` ``groups`` (N,)."""
    return (selected.sum(0) >= MIN_IMAGES) & (count_groups(selected, groups) >= MIN_GROUPS)
