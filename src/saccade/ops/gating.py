r"""Building blocks of gates: products of a map with a broadcasting gate, and means and maxima of a map over axes.

    gated                y = x · g                  x (B, C, H, W), g (B, C | 1, H | 1, W | 1)
    gated_and_shuffled   y = x · g, with the two halves of y's channels interleaved
    pooled_mean          z = mean x                 over given axes
    max_and_mean         m = max x, z = mean x      over several choices of axes
    mean_and_variance    of each channel            over H and W
    narrow_conv          a convolution layer with one output channel

In the forward pass all but the variance equal PyTorch's own operators bit for bit. The backward pass works in pieces
that stay in the cache, where autograd would write full maps only to reduce them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import can_use_pieces, is_plain_layer, needs_composite_backward, piece_of, pieces
from saccade.ops.sizes import at_least_one

__all__ = [
    "degrees_of_freedom", "gated", "gated_and_shuffled", "gated_and_shuffled_definition", "gated_definition",
    "max_and_mean", "max_and_mean_definition", "mean_and_variance", "mean_and_variance_definition", "narrow_conv",
    "narrow_conv2d", "pooled_mean",
]  # fmt: skip

SMALL_MAP_NUMEL = 1 << 16
"""Number of elements up to which PyTorch's own maximum and mean of a map are as fast."""
SHORT_ROW = 64
"""Length below which repeated halving finds a row's maximum faster than ``amax``."""


def gated_definition(x: Tensor, gate: Tensor) -> Tensor:
    """Reference implementation of ``gated`` for x (B, C, H, W)."""
    return x * gate


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """Multiply a map by a gate; either may broadcast.

    Args:
        x: (B, C | 1, H | 1, W | 1).
        gate: (B, C | 1, H | 1, W | 1), in the dtype of x.

    Returns:
        (B, C, H, W), x · gate.
    """
    # Shapes are compared last and never under graph capture, which would specialise the graph to these sizes.
    uses_pieces = torch.is_grad_enabled() and can_use_pieces(x, gate) and (x.requires_grad or gate.requires_grad)
    if uses_pieces and x.shape != gate.shape and x.shape[0] == gate.shape[0] and x.dtype == gate.dtype:
        product: Tensor = _Gated.apply(x, gate)
        return product
    return gated_definition(x, gate)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, gate = ctx.saved_tensors
        if needs_composite_backward():
            return (grad * gate).sum_to_size(x.shape), (grad * x).sum_to_size(gate.shape)
        pairs = [(x, gate), (gate, x)]
        grads = [torch.empty_like(operand) if ctx.needs_input_grad[i] else None for i, (operand, _) in enumerate(pairs)]
        broadcast_axes = [[i for i in (1, 2, 3) if operand.shape[i] < grad.shape[i]] for operand, _ in pairs]
        for piece in pieces(grad, *broadcast_axes[0], *broadcast_axes[1]):
            scratch = torch.empty_like(grad[piece], memory_format=torch.contiguous_format)
            for (_, other), out, axes in zip(pairs, grads, broadcast_axes, strict=True):
                if out is None:
                    continue
                if axes:
                    torch.sum(
                        torch.mul(grad[piece], piece_of(other, piece), out=scratch),
                        axes,
                        True,
                        out=piece_of(out, piece),
                    )
                else:
                    torch.mul(grad[piece], piece_of(other, piece), out=out[piece])
        return grads[0], grads[1]


def gated_and_shuffled_definition(x: Tensor, gate: Tensor) -> Tensor:
    """Reference implementation of ``gated_and_shuffled`` for x (B, C, H, W)."""
    return F.channel_shuffle(x * gate, 2)


def gated_and_shuffled(x: Tensor, gate: Tensor) -> Tensor:
    """Multiply two maps and interleave the halves of their channels: i becomes 2i, C/2 + i becomes 2i + 1.

    Args:
        x: (B, C, H, W), C even.
        gate: (B, C, H, W), in the dtype of x.

    Returns:
        (B, C, H, W).
    """
    if can_use_pieces(x, gate) and x.dtype == gate.dtype and x.numel():
        y: Tensor = _GatedAndShuffled.apply(x, gate)
        return y
    return gated_and_shuffled_definition(x, gate)


class _GatedAndShuffled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        y = torch.empty_like(x)
        halves = (2, x.shape[1] // 2)
        torch.mul(x.unflatten(1, halves), gate.unflatten(1, halves), out=y.unflatten(1, halves[::-1]).transpose(1, 2))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gate = ctx.saved_tensors
        halves = (2, x.shape[1] // 2)
        grad_product = grad.unflatten(1, halves[::-1]).transpose(1, 2)  # (B, 2, C/2, H, W)
        if needs_composite_backward():
            return grad_product.flatten(1, 2) * gate, grad_product.flatten(1, 2) * x
        grads = torch.empty_like(x), torch.empty_like(x)
        for out, other in zip(grads, (gate, x), strict=True):
            torch.mul(grad_product, other.unflatten(1, halves), out=out.unflatten(1, halves))
        return grads


def pooled_mean(x: Tensor, axes: tuple[int, ...] = (2, 3), keepdim: bool = False) -> Tensor:
    """Return ``x.mean(axes, keepdim)`` of x (B, C, H, W); its gradient is an expanded view instead of a map."""
    if can_use_pieces(x) and x.dtype in (torch.float32, torch.float64):
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        return x.sum(axes, keepdim) / count
    return x.mean(axes, keepdim)


def mean_and_variance_definition(x: Tensor) -> tuple[Tensor, Tensor]:
    """Reference implementation of ``mean_and_variance`` for x (B, C, H, W)."""
    mean = x.mean((2, 3))
    return mean, (x - mean[:, :, None, None]).square().sum((2, 3)) / degrees_of_freedom(x)


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of each channel of each image.

    Args:
        x: (B, C, H, W).

    Returns:
        Two tensors (B, C); the variance of one pixel is 0.
    """
    if can_use_pieces(x) and x.dtype in (torch.float32, torch.float64):
        mean, variance = _MeanAndVariance.apply(x)
        return mean, variance
    mean, variance = mean_and_variance_definition(x.to(torch.promote_types(x.dtype, torch.float32)))
    return mean.to(x.dtype), variance.to(x.dtype)


def degrees_of_freedom(x: Tensor) -> int:
    """Return H·W − 1, at least 1, of x (B, C, H, W)."""
    return at_least_one(x.shape[2] * x.shape[3] - 1)


class _MeanAndVariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3))
        variance = torch.empty_like(mean)
        for piece in pieces(x, 2, 3):
            torch.sum((x[piece] - mean[piece][..., None, None]).square_(), (2, 3), out=variance[piece])
        ctx.save_for_backward(x, mean)
        return mean, variance.div_(degrees_of_freedom(x))

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        grad_mean = (grad_mean / max(1, x.shape[2] * x.shape[3]))[:, :, None, None]
        two_grad_over_df = (grad_variance * (2 / degrees_of_freedom(x)))[:, :, None, None]
        # Centred values sum to zero only up to the rounding of the mean, so they are centred again.
        if needs_composite_backward():
            centred = x - x.mean((2, 3), keepdim=True)
            return (centred - centred.mean((2, 3), keepdim=True)) * two_grad_over_df + grad_mean
        grad_x = torch.empty_like(x)
        for piece in pieces(x, 2, 3):
            centred = torch.sub(x[piece], mean[piece][..., None, None], out=grad_x[piece])
            residual_mean = centred.mean((2, 3), keepdim=True)
            centred.mul_(two_grad_over_df[piece]).add_(grad_mean[piece] - residual_mean * two_grad_over_df[piece])
        return grad_x


def max_and_mean_definition(x: Tensor, *poolings: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Reference implementation of ``max_and_mean`` for x (B, C, H, W)."""
    return tuple(pool(x, axes, keepdim=True) for axes in poolings for pool in (torch.amax, torch.mean))


def max_and_mean(x: Tensor, *poolings: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return maximum and mean of a map over several choices of axes.

    Args:
        x: (B, C, H, W).
        poolings: tuples of one or two axes to reduce, out of 1, 2 and 3.

    Returns:
        max x and mean x for each of ``poolings``, with size 1 along the reduced axes. Several equal maxima share the
        gradient evenly, as in ``amax``.
    """
    if can_use_pieces(x) and x.numel() > SMALL_MAP_NUMEL:
        return _MaxAndMean.apply(x, poolings)
    return max_and_mean_definition(x, *poolings)


class _MaxAndMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, poolings: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        maxima = [_amax(x, axes) for axes in poolings]
        ctx.poolings = poolings
        ctx.save_for_backward(x, *maxima)
        means = [x.mean(axes, keepdim=True) for axes in poolings]
        return tuple(result for pair in zip(maxima, means, strict=True) for result in pair)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, *maxima = ctx.saved_tensors
        mean_grads = [grads[2 * i + 1] * (maximum.numel() / max(1, x.numel())) for i, maximum in enumerate(maxima)]
        if needs_composite_backward():  # the positions of the maxima count as constant
            grad_x = torch.zeros_like(x)
            for i, (axes, maximum) in enumerate(zip(ctx.poolings, maxima, strict=True)):
                mask = (x == maximum).to(x.dtype)
                grad_x = grad_x + mask * (grads[2 * i] / mask.sum(axes, keepdim=True)) + mean_grads[i]
            return grad_x, None
        grad_x = torch.empty_like(x)
        for piece in pieces(x, *(axis for axes in ctx.poolings for axis in axes)):
            mask, total = torch.empty_like(x[piece]), grad_x[piece]
            for i, (axes, maximum) in enumerate(zip(ctx.poolings, maxima, strict=True)):
                torch.eq(x[piece], piece_of(maximum, piece), out=mask)
                grad_per_maximum = piece_of(grads[2 * i], piece) / mask.sum(axes, keepdim=True)
                if i:
                    total.add_(mask.mul_(grad_per_maximum))
                else:
                    torch.mul(mask, grad_per_maximum, out=total)
                total.add_(piece_of(mean_grads[i], piece))
        return grad_x, None


def _amax(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ``x.amax(axes, keepdim=True)``, by repeated halving over short rows or columns."""
    (axis, *other_axes) = axes
    if other_axes or axis == 1 or not 1 < x.shape[axis] < SHORT_ROW:
        return x.amax(axes, keepdim=True)
    while (length := x.shape[axis]) > 1:
        half = (length + 1) // 2  # the halves of an odd length share the middle
        x = torch.maximum(x.narrow(axis, 0, half), x.narrow(axis, length - half, half))
    return x


def narrow_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``conv(x)`` for a convolution with one output channel, with a faster CPU backward pass.

    The gradient of x is a forward convolution with the flipped kernel. A layer that is not plain is called as usual.

    Args:
        conv: (C -> 1), stride 1, an odd kernel, zero padding that keeps the size.
        x: (B, C, H, W).

    Returns:
        (B, 1, H, W).
    """
    if can_use_pieces(x) and is_plain_layer(conv):
        return narrow_conv2d(x, conv.weight, conv.bias)
    result: Tensor = conv(x)
    return result


def narrow_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``narrow_conv`` of x (B, C, H, W) for a weight (1, C, k, k) and a bias (1) given as tensors."""
    padding = [side // 2 for side in weight.shape[2:]]
    uses_pieces = torch.is_grad_enabled() and can_use_pieces(x, weight) and x.requires_grad
    if uses_pieces and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu"):
        y: Tensor = _NarrowConv.apply(x, weight, bias)
        return y
    return F.conv2d(x, weight, bias, padding=padding)


class _NarrowConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=[side // 2 for side in weight.shape[2:]])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        padding = [side // 2 for side in weight.shape[2:]]
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        use_torch_kernel = needs_x and needs_composite_backward()
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [use_torch_kernel, needs_weight, False]
        )
        if needs_x and not use_torch_kernel:
            grad_x = F.conv2d(grad, weight.flip(2, 3).transpose(0, 1), padding=padding)
        grad_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias
