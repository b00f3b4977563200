r"""Criss-cross attention: every pixel takes the weighted mean of the values in its own column and its own row.

    e_{p,g} = q_p · k_{(g, w)},  g = 1 … H, g ≠ h          the column of the pixel p = (h, w), but not p itself
    r_{p,g} = q_p · k_{(h, g)},  g = 1 … W                 its row, p included
    [a_p; b_p] = softmax[e_p; r_p]                         one softmax over H + W − 1 pixels
    y_p = Σ_g a_{p,g} v_{(g, w)} + Σ_g b_{p,g} v_{(h, g)}

The logits are not scaled. In ``channels_last`` memory rows of the map are contiguous and columns strided matrices;
products accept both without a copy.

Source: Huang et al., ICCV 2019, arXiv:1811.11721.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype, without_autocast
from saccade.ops.eager import is_captured, is_transformed, needs_composite_backward
from saccade.ops.macs import with_macs

__all__ = ["criss_cross", "criss_cross_definition"]


def _macs(query: Tensor, key: Tensor, value: Tensor) -> int:
    batch, query_channels, height, width = query.shape
    return batch * height * width * (height + width) * (query_channels + value.shape[1])


@with_macs(_macs)
def criss_cross_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Reference implementation of ``criss_cross``."""
    _check_operands(query, key, value)
    query, key, value = (t.to(operand_dtype(query)) for t in (query, key, value))
    height = query.shape[2]
    index = torch.arange(height, device=query.device)
    self_mask = (index[:, None] == index)[:, None]  # (H, 1, H)
    column = query.permute(0, 3, 2, 1) @ key.permute(0, 3, 1, 2)  # (B, W, H, H)
    row = query.permute(0, 2, 3, 1) @ key.permute(0, 2, 1, 3)  # (B, H, W, W)
    weights = torch.cat([column.transpose(1, 2).masked_fill(self_mask, -torch.inf), row], 3).softmax(3)
    column_sum = weights[..., :height].transpose(1, 2) @ value.permute(0, 3, 2, 1)  # (B, W, H, V)
    row_sum = weights[..., height:] @ value.permute(0, 2, 3, 1)  # (B, H, W, V)
    return (column_sum.transpose(1, 2) + row_sum).permute(0, 3, 1, 2)


@with_macs(_macs)
def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of every pixel to its column and its row.

    Args:
        query: (B, E, H, W).
        key: (B, E, H, W).
        value: (B, V, H, W).

    Returns:
        (B, V, H, W) in the dtype of the operands and ``channels_last`` memory; under autocast, in autocast's, for
        operands of any dtype.

    Raises:
        ValueError: shapes or dtypes do not match.
    """
    if is_captured() or is_transformed():
        return criss_cross_definition(query, key, value)
    _check_operands(query, key, value)
    pixels = [pixel_rows(t.to(operand_dtype(query))) for t in (query, key, value)]
    with without_autocast(query):  # on CUDA, autocast would compute the softmax in float32
        y, _ = _CrissCross.apply(*pixels)
    return y.permute(0, 3, 1, 2)


def pixel_rows(x: Tensor) -> Tensor:
    """Return the map (B, C, H, W) as contiguous (B, H, W, C): a view if it is ``channels_last``, else a copy."""
    rows = x.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        return rows
    # Image by image: PyTorch transposes one matrix several times as fast as a batch of one.
    return torch.stack([image.flatten(1).t() for image in x]).unflatten(1, x.shape[2:]) if len(x) else rows


class _CrissCross(torch.autograd.Function):
    """Returns Y and the weights (B, H, W, H + W) for operands (B, H, W, ·)."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        logits = _line_products(query, key)
        logits[..., : query.shape[1]].diagonal(dim1=1, dim2=3).fill_(-torch.inf)
        weights = logits.softmax(3)
        return _line_sums(weights, value), weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        query, key, value, weights = ctx.saved_tensors
        if needs_composite_backward():
            with without_autocast(query):
                vjp = torch.func.vjp(_channels_last_definition, query, key, value)[1]
                return tuple(vjp(grad))
        grad = grad.contiguous()
        grad_logits = torch._softmax_backward_data(_line_products(grad, value), weights, 3, weights.dtype)
        return _line_sums(grad_logits, key), _line_sums_adjoint(grad_logits, query), _line_sums_adjoint(weights, grad)


def _channels_last_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (t.permute(0, 3, 1, 2) for t in (query, key, value))
    return criss_cross_definition(query, key, value).permute(0, 2, 3, 1)


def _line_products(a: Tensor, b: Tensor) -> Tensor:
    """Return each pixel's products (B, H, W, H + W) with the pixels of b in its column, then its row."""
    batch, height, width, _ = a.shape
    products = a.new_empty(batch, height, width, height + width)
    products[..., :height] = _strided_bmm(a.transpose(1, 2), b.permute(0, 2, 3, 1)).transpose(1, 2)
    products[..., height:] = (a.flatten(0, 1) @ b.flatten(0, 1).mT).view(batch, height, width, width)
    return products


def _line_sums(weights: Tensor, b: Tensor) -> Tensor:
    """Return weighted sums (B, H, W, c) of the pixels of b in each pixel's column and row."""
    height = b.shape[1]
    y = torch.empty_like(b, memory_format=torch.contiguous_format)  # contiguous, for ``out=``
    torch.bmm(weights[..., height:].flatten(0, 1), b.flatten(0, 1), out=y.flatten(0, 1))
    return y.add_(_strided_bmm(weights[..., :height].transpose(1, 2), b.transpose(1, 2)).transpose(1, 2))


def _line_sums_adjoint(weights: Tensor, a: Tensor) -> Tensor:
    """Return the adjoint of ``_line_sums``: each pixel of a (B, H, W, c), weighted, summed into its column and row."""
    height = a.shape[1]
    y = torch.bmm(weights[..., height:].flatten(0, 1).mT, a.flatten(0, 1)).view_as(a)
    return y.add_(_strided_bmm(weights[..., :height].permute(0, 2, 3, 1), a.transpose(1, 2)).transpose(1, 2))


def _strided_bmm(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, W, n, m) @ (B, W, m, k), image by image, because flattening strided dimensions would copy."""
    y = a.new_empty(*a.shape[:3], b.shape[3])
    for out, left, right in zip(y, a, b, strict=True):
        torch.bmm(left, right, out=out)
    return y


def _check_operands(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"all operands must have 4 dimensions, got {shapes}")
    if query.shape != key.shape:
        raise ValueError(f"query and key must have the same shape, got {shapes}")
    if (query.shape[0], *query.shape[2:]) != (value.shape[0], *value.shape[2:]):
        raise ValueError(f"there must be one value for each pixel, got {shapes}")
    if not query.dtype == key.dtype == value.dtype and not autocast_enabled(query):
        raise ValueError(
            f"outside autocast all operands must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
