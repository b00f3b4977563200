r"""Covariance pooling: how the channels of a map vary together over its pixels.

    μ = (1/M) Σ_p x_p                              (B, C), M pixels
    Σ = (1/M) Σ_p (x_p − μ)(x_p − μ)ᵀ              (B, C, C)

``covariance_definition`` writes this down. ``covariance`` has the same forward, the map centred first: X Xᵀ/M − μμᵀ
would be one product and no centring, and lose the digits that a mean larger than the deviation shares with it. Its
backward is one product where autograd takes two: the gradient is (G + Gᵀ)(x − μ)/M. Its pixels sum to zero as they are,
but for the rounding of μ, which a large mean makes large; it is centred all the same.

Source: Li, Xie, Wang, Zuo, "Is Second-order Information Helpful for Large-scale Visual Recognition?", ICCV 2017,
arXiv:1703.08050.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import operand_dtype
from saccade.ops.counted import counted
from saccade.ops.eager import is_captured, is_transformed

__all__ = ["covariance", "covariance_definition"]


def _macs(x: Tensor) -> int:
    """Multiply-adds of the product of one call."""
    batch, channels, pixels = x.shape
    return batch * channels * channels * pixels


@counted(_macs)
def covariance_definition(x: Tensor) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``covariance``.

    Argument, result and errors are those of ``covariance``.
    """
    _check(x)
    x = x.to(operand_dtype(x))
    centred = x - x.mean(2, keepdim=True)
    return centred @ centred.mT / x.shape[2]


@counted(_macs)
def covariance(x: Tensor) -> Tensor:
    """Covariance of the channels over the pixels of each image, divided by their number.

    Args:
        x: (B, C, M).

    Returns:
        (B, C, C), in the dtype of x, or of autocast.

    Compiled or exported (``torch.compile``, ``torch.export``, ONNX), in ``torch.func`` and in forward mode the call is
    the definition.

    Raises:
        ValueError: x does not have three dimensions.
    """
    if is_captured() or is_transformed():
        return covariance_definition(x)
    _check(x)
    found: Tensor = _Covariance.apply(x.to(operand_dtype(x)))
    return found


class _Covariance(torch.autograd.Function):
    """The definition with a shorter gradient, which is made of differentiable parts."""

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
        change = (grad + grad.mT) / x.shape[2] @ (x - x.mean(2, keepdim=True))
        return change - change.mean(2, keepdim=True)


def _check(x: Tensor) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must have 3 dimensions, (B, C, M), got shape {tuple(x.shape)}")
