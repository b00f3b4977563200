r"""Covariance pooling: the covariance of a map's channels over its pixels.

    μ = (1/M) Σ_p x_p                              (B, C), M pixels
    Σ = (1/M) Σ_p (x_p − μ)(x_p − μ)ᵀ              (B, C, C)

The map is centred first, because X Xᵀ/M − μμᵀ cancels for a large mean. The gradient, dx = (G + Gᵀ)(x − μ)/M for the
gradient G of Σ, is centred again, because μ is rounded.

Source: Li et al., ICCV 2017, arXiv:1703.08050.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import operand_dtype
from saccade.ops.eager import is_captured, is_transformed
from saccade.ops.macs import with_macs

__all__ = ["covariance", "covariance_definition"]


def _macs(x: Tensor) -> int:
    batch, channels, pixels = x.shape
    return batch * channels * channels * pixels


@with_macs(_macs)
def covariance_definition(x: Tensor) -> Tensor:
    """Reference implementation of ``covariance``."""
    _check_shape(x)
    x = x.to(operand_dtype(x))
    centred = x - x.mean(2, keepdim=True)
    return centred @ centred.mT / x.shape[2]


@with_macs(_macs)
def covariance(x: Tensor) -> Tensor:
    """Return the covariance of the channels over the pixels of each image, normalised by the number of pixels.

    Args:
        x: (B, C, M).

    Returns:
        (B, C, C), in the dtype of x, or of autocast.

    Raises:
        ValueError: x does not have three dimensions.
    """
    if is_captured() or is_transformed():
        return covariance_definition(x)
    _check_shape(x)
    result: Tensor = _Covariance.apply(x.to(operand_dtype(x)))
    return result


class _Covariance(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        centred = x - x.mean(2, keepdim=True)
        return centred @ centred.mT / x.shape[2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x = (grad + grad.mT) / x.shape[2] @ (x - x.mean(2, keepdim=True))
        return grad_x - grad_x.mean(2, keepdim=True)


def _check_shape(x: Tensor) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must have 3 dimensions, (B, C, M), got shape {tuple(x.shape)}")
