r"""Scaled-dot-product attention: each query returns the mean of the values, weighted by how well their keys match it.

    A = softmax(s · Q Kᵀ + P)      (N, M), each row sums to one            s scale
    Y = A V                        (N, V)
    P_{n, (y, x)} = row_bias_{n, y} + column_bias_{n, x}        optional: the keys are the pixels of an H×W map, M = H·W

``attention_definition`` materialises A. The memory of ``attention`` grows with N + M: on the CPU, both passes compute
blocks of whole rows of A, so that rounding errors match those of the definition.

PyTorch's fused kernel is not used there: it would pad queries of C/8 channels, as in SAGAN and DANet, to the C of the
values. Results keep the layout of the operands, row- or column-major, so the pixels of a map are not copied.

Source: Vaswani et al., NeurIPS 2017, arXiv:1706.03762, eq. 1. Biases: Srinivas et al., CVPR 2021, arXiv:2101.11605,
figure 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype
from saccade.ops.eager import is_captured, needs_composite_backward
from saccade.ops.macs import with_macs

__all__ = ["attention", "attention_definition"]

softmax_backward = torch.ops.aten._softmax_backward_data.out

_BLOCK_NUMEL = 2**20
"""Number of elements of A computed at a time, if A is not saved for the backward pass."""
_SAVED_BLOCK_NUMEL = 2**23
"""Number of elements of A computed at a time, if A is saved."""
_MAX_SAVED_RATIO = 4
"""Largest ratio of the elements of A to those of operands and result at which A is saved."""


def _macs(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@with_macs(_macs)
def attention_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    row_bias: Tensor | None = None,
    column_bias: Tensor | None = None,
) -> Tensor:
    """Reference implementation of ``attention``."""
    dtype, biases = operand_dtype(query), _check_operands(query, key, value, row_bias, column_bias)
    query, key, value, *biases = (t.to(dtype) for t in (query, key, value, *biases))
    logits = query @ key.transpose(-2, -1) * scale
    if biases:
        logits = logits + (biases[0].unsqueeze(-1) + biases[1].unsqueeze(-2)).flatten(-2)
    return logits.softmax(-1) @ value


@with_macs(_macs)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    row_bias: Tensor | None = None,
    column_bias: Tensor | None = None,
) -> Tensor:
    """Return scaled-dot-product attention without materialising the attention matrix.

    Args:
        query: (B, N, E) or, with heads, (B, heads, N, E).
        key: (…, M, E), leading dimensions as those of the query.
        value: (…, M, V).
        scale: s, a factor of the products; E^−½ in the paper.
        row_bias: (…, N, H), added to the logits of a map row's keys. Give both biases or neither.
        column_bias: (…, N, W), added to the logits of a map column's keys; H·W = M.

    Returns:
        (…, N, V) in the dtype of the operands; under autocast, in autocast's, and operands may have any dtype.

    On the CPU, small matrices are saved for the backward pass, and half precision is computed in float32. Elsewhere and
    under graph capture this is ``F.scaled_dot_product_attention``, whose memory depends on PyTorch's kernel. Gradients
    that are differentiated again materialise A. Only ``attention_definition`` has forward-mode derivatives.

    Raises:
        ValueError: shapes or dtypes do not match.
    """
    dtype, biases = operand_dtype(query), _check_operands(query, key, value, row_bias, column_bias)
    q, k, v, *biases = (t.to(dtype) for t in (query, key, value, *biases))
    if is_captured() or query.device.type != "cpu":
        return _fused(q, k, v, scale, *biases)
    compute_dtype = torch.promote_types(dtype, torch.float32)
    q, k, v, *biases = (_fold_heads(t.to(compute_dtype)) for t in (q, k, v, *biases))
    y: Tensor = _Attention.apply(q, k, v, scale, *biases)[0]
    return y.unflatten(0, query.shape[:-2]).to(dtype)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float, *biases: Tensor) -> Tensor:
    """Call ``F.scaled_dot_product_attention`` on operands padded for its kernels."""
    if biases:  # the biases become extra columns of the query, selected by one-hot columns of the key
        height, map_width = (t.shape[-1] for t in biases)
        pixel = torch.arange(key.shape[-2], device=key.device)
        one_hot_row, one_hot_column = F.one_hot(pixel // map_width, height), F.one_hot(pixel % map_width, map_width)
        one_hot = torch.cat([one_hot_row, one_hot_column], 1).to(key.dtype)
        query, scale = torch.cat([query * scale, *biases], -1), 1.0
        key = torch.cat([key, one_hot.expand(*key.shape[:-1], -1)], -1)
    if scale < 0:  # some kernels multiply both operands by the square root of the scale
        query, scale = -query, -scale
    head_channels = max(query.shape[-1], value.shape[-1])
    if query.device.type != "cpu":  # some GPU kernels need a multiple of 8
        head_channels = -8 * (-head_channels // 8)
    operands = (t if t.ndim == 4 else t.unsqueeze(1) for t in (query, key, value))
    q, k, v = (F.pad(t, (0, head_channels - t.shape[-1])) for t in operands)
    y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous(), scale=scale)
    return (y if query.ndim == 4 else y.squeeze(1))[..., : value.shape[-1]]


class _Attention(torch.autograd.Function):
    """Blockwise attention for CPU operands (B, ·, ·) of one dtype; returns Y, and A if it is saved."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float, *biases: Tensor) -> tuple[Tensor, Tensor]:
        (batch, rows, query_channels), columns = query.shape, key.shape[1]
        is_saved = rows * columns <= _MAX_SAVED_RATIO * (rows + columns) * (query_channels + value.shape[2])
        matrix = query.new_empty((batch, rows, columns) if is_saved else 0)
        y = _zeros_in_layout(value, rows)
        with torch.autocast("cpu", enabled=False):
            for block, buffers in _blocks(query, key, 0 if is_saved else 1, is_saved):
                weights = _weights(query, key, scale, biases, block, matrix[block] if is_saved else buffers[0])
                y[block] = weights @ value[block[0]]
        return y, matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, ctx.scale, *biases = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # otherwise autograd would allocate a zero gradient as large as A
        ctx.save_for_backward(output[1], query, key, value, *biases)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        (matrix, *operands), scale = ctx.saved_tensors, ctx.scale
        if grad is None:
            return (None,) * (len(operands) + 1)
        query, key, value, *biases = operands
        with torch.autocast("cpu", enabled=False):
            if needs_composite_backward():  # the in-place code below can be neither differentiated nor batched
                vjp = torch.func.vjp(lambda q, k, v, *t: attention_definition(q, k, v, scale, *t), *operands)[1]
                grad_q, grad_k, grad_v, *grad_biases = vjp(grad)
                return grad_q, grad_k, grad_v, None, *grad_biases
            grad_q = _zeros_in_layout(query, query.shape[1])
            # Always column-major: ``baddbmm_`` into narrow rows runs at half the speed or less.
            grad_k, grad_v = (torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (key, value))
            grad_biases = [torch.zeros_like(t) for t in biases]
            is_saved = matrix.ndim == 3
            for block, (grad_logits, *buffers) in _blocks(query, key, 1 if is_saved else 2, is_saved):
                weights = matrix[block] if is_saved else _weights(query, key, scale, biases, block, buffers[0])
                grad_v[block[0]].baddbmm_(grad[block].mT, weights)
                torch.bmm(grad[block], value[block[0]].mT, out=grad_logits)
                softmax_backward(grad_logits, weights, 2, grad_logits.dtype, grad_input=grad_logits)
                torch.mul(grad_logits @ key[block[0]], scale, out=grad_q[block])
                grad_k[block[0]].baddbmm_(query[block].mT, grad_logits, alpha=scale)
                for grad_bias, axis in zip(grad_biases, (3, 2), strict=False):
                    torch.sum(_as_maps(grad_logits, biases), axis, out=grad_bias[block])
            return grad_q, grad_k.mT, grad_v.mT, None, *grad_biases

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, Any]]:
        query, key, value, *biases = (
            t.expand(info.batch_size, *t.shape) if axis is None else t.movedim(axis, 0)
            for n, (t, axis) in enumerate(zip(inputs, axes, strict=True))
            if n != 3
        )
        q, k, v, *folded_biases = (t.flatten(0, 1) for t in (query, key, value, *biases))
        y, matrix = _Attention.apply(q, k, v, inputs[3], *folded_biases)
        batch = query.shape[:2]
        if matrix.ndim == 3:
            return (y.unflatten(0, batch), matrix.unflatten(0, batch)), (0, 0)
        return (y.unflatten(0, batch), matrix), (0, None)


def _blocks(
    query: Tensor, key: Tensor, n_buffers: int, is_saved: bool
) -> Iterator[tuple[tuple[slice, slice], list[Tensor]]]:
    """Yield slices of images and of rows for each block of A, with ``n_buffers`` tensors of the block's shape."""
    (batch, rows, _), columns = query.shape, key.shape[1]
    if not columns:
        return
    numel = _SAVED_BLOCK_NUMEL if is_saved else _BLOCK_NUMEL
    step = max(1, min(rows, numel // columns))
    images_per_block = max(1, min(batch, numel // (step * columns)))
    storage = [query.new_empty(images_per_block * step * columns) for _ in range(n_buffers)]
    for first_image in range(0, batch, images_per_block):
        for first_row in range(0, rows, step):
            shape = (min(images_per_block, batch - first_image), min(step, rows - first_row), columns)
            block = slice(first_image, first_image + images_per_block), slice(first_row, first_row + step)
            yield block, [buffer[: prod(shape)].view(shape) for buffer in storage]


def _weights(
    query: Tensor, key: Tensor, scale: float, biases: Sequence[Tensor], block: tuple[slice, slice], out: Tensor
) -> Tensor:
    if biases:
        row_bias, column_bias = (t[block] for t in biases)
        torch.add(row_bias.unsqueeze(3), column_bias.unsqueeze(2), out=_as_maps(out, biases))
    out.baddbmm_(query[block], key[block[0]].mT, beta=1 if biases else 0, alpha=scale)
    return torch.softmax(out, 2, out=out)


def _as_maps(rows: Tensor, biases: Sequence[Tensor]) -> Tensor:
    return rows.unflatten(2, (biases[0].shape[2], biases[1].shape[2]))


def _is_column_major(t: Tensor) -> bool:
    """Return True if columns are contiguous, like the pixels of a map (B, C, H, W)."""
    return t.stride(-2) == 1 and t.stride(-1) != 1


def _fold_heads(t: Tensor) -> Tensor:
    """Fold the heads of (B, heads, ·, ·) into the batch without changing the layout."""
    return t.mT.flatten(0, -3).mT if _is_column_major(t) else t.flatten(0, -3)


def _zeros_in_layout(like: Tensor, rows: int) -> Tensor:
    """Return zeros (B, rows, ·) with last dimension and memory layout of ``like``."""
    batch, _, width = like.shape
    return like.new_zeros(batch, width, rows).mT if _is_column_major(like) else like.new_zeros(batch, rows, width)


def _check_operands(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor | None, column_bias: Tensor | None
) -> list[Tensor]:
    """Return the given biases; raise ValueError if shapes or dtypes do not match."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.ndim not in (3, 4) or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"all operands must have 3 or 4 dimensions, got {shapes}")
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(f"all operands must have the same leading dimensions, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same last dimension, got {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"there must be one value for each key, got {shapes}")
    biases = [t for t in (row_bias, column_bias) if t is not None]
    if len(biases) == 1:
        raise ValueError(
            f"give both row_bias and column_bias, got only {'row_bias' if column_bias is None else 'column_bias'}"
        )
    if biases:
        bias_shapes = " and ".join(str(tuple(t.shape)) for t in biases)
        if any(t.shape[:-1] != query.shape[:-1] for t in biases):
            raise ValueError(f"row_bias and column_bias must have one row per query, got {bias_shapes}, {shapes}")
        if biases[0].shape[-1] * biases[1].shape[-1] != key.shape[-2]:
            raise ValueError(f"row_bias (…, H) and column_bias (…, W) need H·W keys, got {bias_shapes}, {shapes}")
    *dtypes, last_dtype = (str(t.dtype) for t in (query, key, value, *biases))
    if set(dtypes) != {last_dtype} and not autocast_enabled(query):
        raise ValueError(f"outside autocast all operands must have one dtype, got {', '.join(dtypes)} and {last_dtype}")
    return biases
