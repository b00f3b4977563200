r"""What gates are made of: a map times a gate that broadcasts, and the mean and the maximum over some of its axes.

    gated                y = x · g                  x (B, C, H, W), g (B, C | 1, H | 1, W | 1)
    gated_and_shuffled   the same, its two halves of channels shuffled into each other
    pooled_mean          z = mean x                 over the axes given
    max_and_mean         m = max x, z = mean x      over the axes given, for several choices at once
    mean_and_variance    of each map                over H and W
    narrow_conv          a convolution to one channel

Forward they are PyTorch's own operators, bit for bit but for the variance. Backward, autograd would write a whole map
for what it reduces or expands at once: x · dy before its sum over the axes along which g broadcasts, dz for every place
before it is added to the gradient of x, the mask of the maxima and its products one after the other. Here the first and
the last are worked out in pieces that stay in the cache, and the second is a view. Functions named ``…_definition``
write the others down; where several values are the maximum they share its gradient evenly, as in ``amax``.

When the fast forms run, ``saccade.ops.eager`` says; all else takes the definition.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import is_bare, is_composed, is_eager, part, pieces
from saccade.ops.sizes import at_least_one

__all__ = [
    "gated", "gated_and_shuffled", "gated_and_shuffled_definition", "gated_definition", "max_and_mean",
    "max_and_mean_definition", "mean_and_variance", "mean_and_variance_definition", "narrow_conv", "narrow_conv2d",
    "others", "pooled_mean",
]  # fmt: skip

SMALL = 1 << 16
"""Maps with no more values than this have their maxima and means as soon by PyTorch's own operators."""
SHORT = 64
"""Rows with fewer values than this have a maximum sooner by halves than by PyTorch's reduction."""


def gated_definition(x: Tensor, gate: Tensor) -> Tensor:
    """The product x · gate, differentiated by autograd: the referee of ``gated``."""
    return x * gate


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """A map times a gate, or a gate times another: either may broadcast.

    Args:
        x: (B, C | 1, H | 1, W | 1).
        gate: (B, C | 1, H | 1, W | 1), in the dtype of x.

    Returns:
        (B, C, H, W), x · gate.
    """
    # Sizes are asked last, and not of a graph: it would hold for the sizes that answer alike.
    learns = torch.is_grad_enabled() and is_eager(x, gate) and (x.requires_grad or gate.requires_grad)
    if learns and x.shape != gate.shape and x.shape[0] == gate.shape[0] and x.dtype == gate.dtype:
        product: Tensor = _Gated.apply(x, gate)
        return product
    return gated_definition(x, gate)


class _Gated(torch.autograd.Function):
    """The product of two operands of which one at least broadcasts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, gate = ctx.saved_tensors
        if is_composed():
            return (grad * gate).sum_to_size(x.shape), (grad * x).sum_to_size(gate.shape)
        pairs = [(x, gate), (gate, x)]
        grads = [torch.empty_like(own) if ctx.needs_input_grad[i] else None for i, (own, _) in enumerate(pairs)]
        broadcast = [[i for i in (1, 2, 3) if own.shape[i] < grad.shape[i]] for own, _ in pairs]
        for at in pieces(grad, *broadcast[0], *broadcast[1]):
            scratch = torch.empty_like(grad[at], memory_format=torch.contiguous_format)
            for (_, other), into, axes in zip(pairs, grads, broadcast, strict=True):
                if into is None:
                    continue
                if axes:
                    torch.sum(torch.mul(grad[at], part(other, at), out=scratch), axes, True, out=part(into, at))
                else:
                    torch.mul(grad[at], part(other, at), out=into[at])
        return grads[0], grads[1]


def gated_and_shuffled_definition(x: Tensor, gate: Tensor) -> Tensor:
    """The product of two maps, then a shuffle of their two halves of channels: the referee of its namesake."""
    return F.channel_shuffle(x * gate, 2)


def gated_and_shuffled(x: Tensor, gate: Tensor) -> Tensor:
    """The product x · gate, its channels in another order: i of the first half goes to 2i, i of the second to 2i + 1.

    Args:
        x: (B, C, H, W), C even.
        gate: (B, C, H, W), in the dtype of x.

    Returns:
        (B, C, H, W).
    """
    if is_eager(x, gate) and x.dtype == gate.dtype and x.numel():
        y: Tensor = _GatedAndShuffled.apply(x, gate)
        return y
    return gated_and_shuffled_definition(x, gate)


class _GatedAndShuffled(torch.autograd.Function):
    """The product is written where the shuffle would put it."""

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
        back = grad.unflatten(1, halves[::-1]).transpose(1, 2)  # (B, 2, C/2, H, W)
        if is_composed():
            return back.flatten(1, 2) * gate, back.flatten(1, 2) * x
        grads = torch.empty_like(x), torch.empty_like(x)
        for into, other in zip(grads, (gate, x), strict=True):
            torch.mul(back, other.unflatten(1, halves), out=into.unflatten(1, halves))
        return grads


def pooled_mean(x: Tensor, axes: tuple[int, ...] = (2, 3), keepdim: bool = False) -> Tensor:
    """The mean of x over ``axes``: the value of ``x.mean``, and a gradient that is a view, not a map."""
    if is_eager(x) and x.dtype in (torch.float32, torch.float64):
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        return x.sum(axes, keepdim) / count
    return x.mean(axes, keepdim)


def mean_and_variance_definition(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each map, differentiated by autograd: the referee of ``mean_and_variance``."""
    mean = x.mean((2, 3))
    return mean, (x - mean[:, :, None, None]).square().sum((2, 3)) / others(x)


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each map.

    Args:
        x: (B, C, H, W).

    Returns:
        Two tensors (B, C); the variance divides by H·W − 1, and is 0 where there is but one pixel.
    """
    if is_eager(x) and x.dtype in (torch.float32, torch.float64):
        mean, variance = _MeanAndVariance.apply(x)
        return mean, variance
    mean, variance = mean_and_variance_definition(x.to(torch.promote_types(x.dtype, torch.float32)))
    return mean.to(x.dtype), variance.to(x.dtype)


def others(x: Tensor) -> int:
    """H·W − 1, but at least 1; a graph can hold it, as it could not hold max()."""
    return at_least_one(x.shape[2] * x.shape[3] - 1)


class _MeanAndVariance(torch.autograd.Function):
    """Both in pieces, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3))
        variance = torch.empty_like(mean)
        for at in pieces(x, 2, 3):
            torch.sum((x[at] - mean[at][..., None, None]).square_(), (2, 3), out=variance[at])
        ctx.save_for_backward(x, mean)
        return mean, variance.div_(others(x))

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        grad_mean = (grad_mean / max(1, x.shape[2] * x.shape[3]))[:, :, None, None]
        slope = (grad_variance * (2 / others(x)))[:, :, None, None]
        # What is centred sums to zero but for the rounding of the mean, which a large mean makes large: centred again.
        if is_composed():
            centred = x - x.mean((2, 3), keepdim=True)
            return (centred - centred.mean((2, 3), keepdim=True)) * slope + grad_mean
        grad_x = torch.empty_like(x)
        for at in pieces(x, 2, 3):
            centred = torch.sub(x[at], mean[at][..., None, None], out=grad_x[at])
            rest = centred.mean((2, 3), keepdim=True)
            centred.mul_(slope[at]).add_(grad_mean[at] - rest * slope[at])
        return grad_x


def max_and_mean_definition(x: Tensor, *poolings: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Maximum and mean of x over the axes of each pooling, which stay with size 1: the referee of ``max_and_mean``."""
    return tuple(pool(x, axes, keepdim=True) for axes in poolings for pool in (torch.amax, torch.mean))


def max_and_mean(x: Tensor, *poolings: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Maximum and mean of a map over several choices of axes.

    Args:
        x: (B, C, H, W).
        poolings: for each, the axes that are pooled away, of 1, 2 and 3, not all of them.

    Returns:
        For each of the poolings two tensors, max x and mean x, with size 1 at its axes.
    """
    if is_eager(x) and x.numel() > SMALL:
        return _MaxAndMean.apply(x, poolings)
    return max_and_mean_definition(x, *poolings)


class _MaxAndMean(torch.autograd.Function):
    """All poolings, and their gradients in one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, poolings: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        highest = [_highest(x, axes) for axes in poolings]
        ctx.poolings = poolings
        ctx.save_for_backward(x, *highest)
        means = [x.mean(axes, keepdim=True) for axes in poolings]
        return tuple(each for pair in zip(highest, means, strict=True) for each in pair)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, *highest = ctx.saved_tensors
        of_means = [grads[2 * i + 1] * (top.numel() / max(1, x.numel())) for i, top in enumerate(highest)]
        if is_composed():  # where the maxima are is constant
            grad_x = torch.zeros_like(x)
            for i, (axes, top) in enumerate(zip(ctx.poolings, highest, strict=True)):
                mask = (x == top).to(x.dtype)
                grad_x = grad_x + mask * (grads[2 * i] / mask.sum(axes, keepdim=True)) + of_means[i]
            return grad_x, None
        grad_x = torch.empty_like(x)
        for at in pieces(x, *(axis for axes in ctx.poolings for axis in axes)):
            mask, total = torch.empty_like(x[at]), grad_x[at]
            for i, (axes, top) in enumerate(zip(ctx.poolings, highest, strict=True)):
                torch.eq(x[at], part(top, at), out=mask)
                share = part(grads[2 * i], at) / mask.sum(axes, keepdim=True)
                if i:
                    total.add_(mask.mul_(share))
                else:
                    torch.mul(mask, share, out=total)
                total.add_(part(of_means[i], at))
        return grad_x, None


def _highest(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``x.amax(axes, keepdim=True)``; over short rows or columns, where that is slow, halving takes its place."""
    (axis, *others) = axes
    if others or axis == 1 or not 1 < x.shape[axis] < SHORT:
        return x.amax(axes, keepdim=True)
    while (length := x.shape[axis]) > 1:
        half = (length + 1) // 2  # of an odd length the middle is in both
        x = torch.maximum(x.narrow(axis, 0, half), x.narrow(axis, length - half, half))
    return x


def narrow_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` for a convolution with one output channel, whose gradient for x is slow on the CPU as PyTorch has it.

    That gradient is the convolution of the output's with the kernel turned round; a convolution forward takes a tenth
    of the time of the backward kernel here. A layer that is more than its kernel and bias (hooks, weights that are
    computed, a forward of its own) is called as it is.

    Args:
        conv: (C -> 1), stride 1, an odd kernel, zeros outside that keep the size.
        x: (B, C, H, W).

    Returns:
        (B, 1, H, W).
    """
    if is_eager(x) and is_bare(conv):  # not asked of a graph
        return narrow_conv2d(x, conv.weight, conv.bias)
    result: Tensor = conv(x)
    return result


def narrow_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``narrow_conv`` with a kernel (1, C, k, k) and a bias (1) that are no layer's own."""
    half = [side // 2 for side in weight.shape[2:]]
    learns = torch.is_grad_enabled() and is_eager(x, weight) and x.requires_grad
    if learns and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu"):
        y: Tensor = _NarrowConv.apply(x, weight, bias)
        return y
    return F.conv2d(x, weight, bias, padding=half)


class _NarrowConv(torch.autograd.Function):
    """A convolution of stride 1 that keeps the size, with one output channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=[side // 2 for side in weight.shape[2:]])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        padding = [side // 2 for side in weight.shape[2:]]
        of_x, of_weight = ctx.needs_input_grad[:2]
        by_kernel = of_x and is_composed()
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [by_kernel, of_weight, False]
        )
        if of_x and not by_kernel:
            grad_x = F.conv2d(grad, weight.flip(2, 3).transpose(0, 1), padding=padding)
        grad_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias
