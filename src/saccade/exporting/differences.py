"""The difference between a file and its network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from saccade.errors import UserError

__all__ = ["LIMIT", "difference", "same"]

LIMIT = 1e-4
"""The largest difference allowed, as a part of the largest value of its channel."""

_FLOOR = 5e-2
"""Least scale of a channel, as a part of the tensor's: a logit near zero has the noise of the sum it came from."""


def difference(wanted: Sequence[Tensor], found: Sequence[Tensor], where: str) -> float:
    """Return the largest difference of two lists of tensors, each as a part of its largest value.

    Raises:
        UserError: their numbers or shapes differ, or what is wanted is not finite.
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (wanted, found)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{where}: the network returns tensors of {shapes[0]}, the file of {shapes[1]}")
    largest = 0.0
    for left, right in zip(wanted, found, strict=True):
        if not left.isfinite().all():
            raise UserError(f"{where}: the network itself returns values that are not finite; nothing can be compared")
        if not right.isfinite().all():
            return math.inf
        if left.numel():
            largest = max(
                largest,
                *(_relative(left.detach().double(), right.detach().double(), axis) for axis in {1, left.ndim - 1}),
            )
    return largest


def _relative(wanted: Tensor, found: Tensor, axis: int) -> float:
    """Return the largest difference as a part of the largest value at its place in an axis.

    So boxes do not hide probabilities. A tensor without that axis is one part.
    """
    parts = (1, -1) if wanted.ndim < 2 else (wanted.shape[axis], -1)
    left, right = (each.movedim(axis, 0).reshape(parts) if each.ndim > 1 else each.reshape(parts)
                   for each in (wanted, found))  # fmt: skip
    scale = left.abs().amax(1)
    scale = scale.clamp(min=_FLOOR * scale.max().item())
    scale[scale == 0] = 1.0
    return float(((left - right).abs().amax(1) / scale).max())


def same(first: Sequence[Tensor], again: Sequence[Tensor]) -> bool:
    """Return whether two results are the same, where they are finite."""
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in again]:
        return False
    if not all(tensor.isfinite().all() for tensor in first):
        return True
    return difference(first, again, "") <= LIMIT
