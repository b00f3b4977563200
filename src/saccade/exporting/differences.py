"""Measure the difference between the outputs of a file and of its network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from saccade.errors import UserError

__all__ = ["LIMIT", "agrees_if_finite", "difference"]

LIMIT = 1e-4
"""Largest allowed difference, relative as in :func:`_relative_difference`."""

_MIN_SCALE = 5e-2
"""Lower bound of a divisor, relative to the tensor's largest absolute value.

The bound is needed because a logit near zero inherits the rounding error of the larger terms that it sums.
"""


def difference(expected: Sequence[Tensor], outputs: Sequence[Tensor], message_prefix: str) -> float:
    """Return the largest relative difference between two lists of tensors of the same shapes.

    The difference is infinite if an output is not finite.

    Raises:
        UserError: numbers or shapes of the tensors differ, or ``expected`` is not finite; the message begins with
            ``message_prefix``.
    """
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (expected, outputs)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{message_prefix}: the network returns tensors of {shapes[0]}, the file of {shapes[1]}")
    largest = 0.0
    for a, b in zip(expected, outputs, strict=True):
        if not a.isfinite().all():
            raise UserError(
                f"{message_prefix}: the network returns values that are not finite, so nothing can be compared"
            )
        if not b.isfinite().all():
            return math.inf
        if a.numel():
            tensors = a.detach().double(), b.detach().double()
            largest = max(largest, *(_relative_difference(*tensors, axis) for axis in {1, a.ndim - 1}))
    return largest


def _relative_difference(expected: Tensor, output: Tensor, axis: int) -> float:
    """Return the largest quotient of a difference and the largest absolute value at its index of ``axis``.

    So large box coordinates do not hide errors in probabilities.
    """
    shape = (1, -1) if expected.ndim < 2 else (expected.shape[axis], -1)
    a, b = (tensor.movedim(axis, 0).reshape(shape) if tensor.ndim > 1 else tensor.reshape(shape)
            for tensor in (expected, output))  # fmt: skip
    scale = a.abs().amax(1)
    scale = scale.clamp(min=_MIN_SCALE * scale.max().item())
    scale[scale == 0] = 1.0
    return float(((a - b).abs().amax(1) / scale).max())


def agrees_if_finite(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Return True if two lists of tensors, of any shape, differ by at most ``LIMIT``, or ``expected`` is not finite."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in outputs]:
        return False
    if not all(tensor.isfinite().all() for tensor in expected):
        return True
    return difference(expected, outputs, "") <= LIMIT
