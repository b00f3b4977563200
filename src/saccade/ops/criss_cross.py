r"""Criss-cross attention: every pixel takes the mean of the values in its own column and its own row.

    e_{p,g} = q_p · k_{(g, w)},  g = 1 … H, g ≠ h          the column of the pixel p = (h, w), but not p itself
    r_{p,g} = q_p · k_{(h, g)},  g = 1 … W                 its row, p included
    [a_p; b_p] = softmax[e_p; r_p]                         one softmax over H + W − 1 pixels
    y_p = Σ_g a_{p,g} v_{(g, w)} + Σ_g b_{p,g} v_{(h, g)}

The logits are not scaled. ``criss_cross_definition`` writes this down, the pixel's second mention excluded by a logit
of −∞. ``criss_cross`` is what networks call. It works on pixels whose channels lie side by side (``channels_last``):
there a row of the map is a matrix as it stands, a column is one whose rows are W pixels apart, which a matrix product
takes as well, and nothing is turned round or copied for either direction. Of the (B, H, W, H + W) weights one tensor is
kept for the gradient and one more is made in it.

Source: Huang, Wang, Huang, Huang, Wei, Liu, "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019,
arXiv:1811.11721.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype, without_autocast
from saccade.ops.counted import counted
from saccade.ops.eager import is_captured, is_composed, is_transformed

__all__ = ["criss_cross", "criss_cross_definition"]


def _macs(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Multiply-adds of the four products of one call; the softmax is not counted."""
    batch, narrow, height, width = query.shape
    return batch * height * width * (height + width) * (narrow + value.shape[1])


@counted(_macs)
def criss_cross_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``criss_cross``.

    Arguments, result and errors are those of ``criss_cross``.
    """
    _check(query, key, value)
    query, key, value = (t.to(operand_dtype(query)) for t in (query, key, value))
    height = query.shape[2]
    place = torch.arange(height, device=query.device)
    own = (place[:, None] == place)[:, None]  # (H, 1, H)
    column = query.permute(0, 3, 2, 1) @ key.permute(0, 3, 1, 2)  # (B, W, H, H)
    row = query.permute(0, 2, 3, 1) @ key.permute(0, 2, 1, 3)  # (B, H, W, W)
    weights = torch.cat([column.transpose(1, 2).masked_fill(own, -torch.inf), row], 3).softmax(3)
    of_column = weights[..., :height].transpose(1, 2) @ value.permute(0, 3, 2, 1)  # (B, W, H, V)
    of_row = weights[..., height:] @ value.permute(0, 2, 3, 1)  # (B, H, W, V)
    return (of_column.transpose(1, 2) + of_row).permute(0, 3, 1, 2)


@counted(_macs)
def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of every pixel to its column and its row.

    Args:
        query: (B, E, H, W).
        key: (B, E, H, W).
        value: (B, V, H, W).

    Returns:
        (B, V, H, W) in the dtype of the operands, in memory ``channels_last``; under autocast, as in a matrix product,
        operands may have any dtype and the result has that of autocast.

    Compiled or exported (``torch.compile``, ``torch.export``, ONNX), in ``torch.func`` and in forward mode the call is
    the definition, whose gradients are also those that are to be differentiated again (``create_graph=True``).

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    if is_captured() or is_transformed():
        return criss_cross_definition(query, key, value)
    _check(query, key, value)
    pixels = [pixel_rows(t.to(operand_dtype(query))) for t in (query, key, value)]
    with without_autocast(query):  # on CUDA it would turn the softmax into float32
        y, _ = _CrissCross.apply(*pixels)
    return y.permute(0, 3, 1, 2)


def pixel_rows(x: Tensor) -> Tensor:
    """The map (B, C, H, W) as (B, H, W, C), in memory pixel by pixel; a view where it lies so already."""
    rows = x.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        return rows
    # Image by image: PyTorch's copy of a matrix turned round is several times that of a batch of them.
    return torch.stack([image.flatten(1).t() for image in x]).unflatten(1, x.shape[2:]) if len(x) else rows


class _CrissCross(torch.autograd.Function):
    """The fast form, of operands (B, H, W, ·) of one dtype: Y, and the weights (B, H, W, H + W) for the backward."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        logits = _matched(query, key)
        logits[..., : query.shape[1]].diagonal(dim1=1, dim2=3).fill_(-torch.inf)
        weights = logits.softmax(3)
        return _gathered(weights, value), weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        query, key, value, weights = ctx.saved_tensors
        if is_composed():
            with without_autocast(query):
                pull = torch.func.vjp(_definition_of_pixels, query, key, value)[1]
                return tuple(pull(grad))
        grad = grad.contiguous()
        change = torch._softmax_backward_data(_matched(grad, value), weights, 3, weights.dtype)
        return _gathered(change, key), _spread(change, query), _spread(weights, grad)


def _definition_of_pixels(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (t.permute(0, 3, 1, 2) for t in (query, key, value))
    return criss_cross_definition(query, key, value).permute(0, 2, 3, 1)


def _matched(a: Tensor, b: Tensor) -> Tensor:
    """Products of each pixel of a (B, H, W, c) with those of b in its column, then in its row: (B, H, W, H + W)."""
    batch, height, width, _ = a.shape
    both = a.new_empty(batch, height, width, height + width)
    both[..., :height] = _columns(a.transpose(1, 2), b.permute(0, 2, 3, 1)).transpose(1, 2)
    both[..., height:] = (a.flatten(0, 1) @ b.flatten(0, 1).mT).view(batch, height, width, width)
    return both


def _gathered(weights: Tensor, b: Tensor) -> Tensor:
    """Sums of the pixels of b (B, H, W, c) in the column and the row of each pixel: (B, H, W, c)."""
    height = b.shape[1]
    y = torch.empty_like(b, memory_format=torch.contiguous_format)  # not a view: it may be changed in place
    torch.bmm(weights[..., height:].flatten(0, 1), b.flatten(0, 1), out=y.flatten(0, 1))
    return y.add_(_columns(weights[..., :height].transpose(1, 2), b.transpose(1, 2)).transpose(1, 2))


def _spread(weights: Tensor, a: Tensor) -> Tensor:
    """The transpose of ``_gathered``: each pixel of a (B, H, W, c), handed to those of its column and its row."""
    height = a.shape[1]
    y = torch.bmm(weights[..., height:].flatten(0, 1).mT, a.flatten(0, 1)).view_as(a)
    return y.add_(_columns(weights[..., :height].permute(0, 2, 3, 1), a.transpose(1, 2)).transpose(1, 2))


def _columns(a: Tensor, b: Tensor) -> Tensor:
    """A batched product (B, W, n, m) @ (B, W, m, k) -> (B, W, n, k) of operands whose columns lie apart.

    Image by image: both leading dimensions as one would need a copy.
    """
    y = a.new_empty(*a.shape[:3], b.shape[3])
    for out, left, right in zip(y, a, b, strict=True):
        torch.bmm(left, right, out=out)
    return y


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse operands that do not belong together, with the numbers found and needed."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"all operands must have 4 dimensions, got {shapes}")
    if query.shape != key.shape:
        raise ValueError(f"query and key must have one shape, got {shapes}")
    if (query.shape[0], *query.shape[2:]) != (value.shape[0], *value.shape[2:]):
        raise ValueError(f"there must be one value for each pixel, got {shapes}")
    if not query.dtype == key.dtype == value.dtype and not autocast_enabled(query):
        raise ValueError(
            f"outside autocast all operands must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
