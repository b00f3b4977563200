r"""Relative position bias for keys at any position in a map: a table is sampled for each pair of key and pixel.

    b_h(m, q) = T_h((q − p_m)/2)                 T: (heads, 2H − 1, 2W − 1), corners at ±1, bilinear
    y_h(q) = Σ_m softmax_m(s · k_h(m)ᵀ q_h(q) + b_h(m, q)) v_h(m)                           s scale

q runs over the pixels of an H×W map and p_m are the coordinates of M keys, both in [−1, 1] with ``align_corners=True``.

A key has the same bilinear weights for all pixels, so b_h(m, ·) is a weighted sum of four H×W windows of the table.
``relative_bias`` reads them as runs of W elements. ``relative_attention`` computes the weights for a few map rows at a
time, in both passes: its memory does not grow with M·H·W.

Source: Xia et al., CVPR 2022, arXiv:2201.00520, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.attention import softmax_backward
from saccade.ops.autocast import operand_dtype, without_autocast
from saccade.ops.eager import is_transformed, needs_composite_backward
from saccade.ops.macs import with_macs
from saccade.ops.sizes import at_least_one

__all__ = [
    "coordinates",
    "pixel_coordinates",
    "relative_attention",
    "relative_attention_definition",
    "relative_bias",
    "relative_bias_definition",
    "table_runs",
]

_BLOCK_NUMEL = 2**20
"""Number of attention weights computed at a time; they should fit the cache."""
_BIAS_GRAD_NUMEL = 2**23
"""Number of elements of the bias gradient that are reduced to the table's gradient at a time."""


def coordinates(size: int, like: Tensor) -> Tensor:
    """Return the coordinates (size,) of pixels in [−1, 1] with ``align_corners=True``; 0 for one pixel."""
    index = torch.arange(size, device=like.device, dtype=like.dtype)
    intervals = at_least_one(size - 1)
    return (2 * index - (size - 1)) / intervals


def pixel_coordinates(size: tuple[int, int], rows: slice, like: Tensor) -> Tensor:
    """Return the coordinates (Q, 2), y then x, of the pixels in ``rows`` of a map of ``size``."""
    y, x = coordinates(size[0], like)[rows], coordinates(size[1], like)
    return torch.stack((y[:, None].expand(-1, size[1]), x.expand(y.shape[0], -1)), -1).flatten(0, 1)


def relative_bias_definition(table: Tensor, key_yx: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Reference implementation of ``relative_bias``, for a table of any size.

    Args:
        table: (heads, 2H' − 1, 2W' − 1), resampled to ``size``.
        key_yx: (B, M, 2), coordinates of the keys, y then x.
        size: (H, W) of the map.
        rows: slice of map rows; their pixels are the queries.

    Returns:
        (B, heads, M, Q), zero outside the table.
    """
    offsets = (pixel_coordinates(size, rows, key_yx) - key_yx[:, :, None]) / 2  # (B, M, Q, 2)
    return F.grid_sample(
        table.to(key_yx.dtype).expand(key_yx.shape[0], -1, -1, -1), offsets.flip(-1), align_corners=True
    )


def table_runs(table: Tensor) -> Tensor:
    """Return all runs (·, W) of W consecutive elements of a zero-padded table (heads, 2H − 1, 2W − 1)."""
    width = (table.shape[2] + 1) // 2
    return F.pad(table, (0, 1, 0, 1)).flatten().unfold(0, width, 1).contiguous()


def relative_bias(runs: Tensor, key_yx: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Return the bias (B, heads, M, Q) for the ``table_runs`` of a table of the map's size and keys within [−1, 1]."""
    runs = runs.to(key_yx.dtype)
    runs_per_head = 4 * size[0] * size[1]
    run_index = _run_indices(key_yx, size, range(size[0])[rows], -(-len(runs) // runs_per_head), runs_per_head)
    weights = _bilinear_weights(key_yx, size)[:, None, :, None].expand(run_index.shape)
    weighted_sum = _weighted_runs if is_transformed() else _WeightedRuns.apply
    sums: Tensor = weighted_sum(runs, weights.reshape(-1, 4), run_index.view(-1, 4))
    return sums.view(*run_index.shape[:3], -1)


def _weighted_runs(runs: Tensor, weights: Tensor, run_index: Tensor) -> Tensor:
    """Return sums (N, W) of ``runs[run_index]`` (N, 4, W), weighted by ``weights`` (N, 4)."""
    return (F.embedding(run_index, runs) * weights[..., None]).sum(1)


class _WeightedRuns(torch.autograd.Function):
    """``_weighted_runs`` as an embedding bag."""

    @staticmethod
    def forward(runs: Tensor, weights: Tensor, run_index: Tensor) -> Tensor:
        return F.embedding_bag(run_index, runs, mode="sum", per_sample_weights=weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        runs, weights, run_index = ctx.saved_tensors
        if needs_composite_backward():
            return *torch.func.vjp(partial(_weighted_runs, run_index=run_index), runs, weights)[1](grad), None
        bags = torch.arange(len(run_index), dtype=run_index.dtype, device=run_index.device)
        flat_index, bag_of_index = run_index.view(-1), bags.repeat_interleave(4)
        grad_runs = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_runs = torch.ops.aten._embedding_bag_dense_backward(
                grad, flat_index, bag_of_index, bag_of_index, bag_of_index, len(runs), False, 0, weights.reshape(-1)
            )
        if ctx.needs_input_grad[1]:
            products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, runs, flat_index, bags * 4, bag_of_index, 0
            )
            grad_weights = products.view(run_index.shape)
        return grad_runs, grad_weights, None


def _window_starts(key_yx: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the start of each key's window in table pixels (B, M, 2), and its floor."""
    last_pixel = torch.tensor([size[0] - 1, size[1] - 1], device=key_yx.device, dtype=key_yx.dtype)
    start = (1 - key_yx) / 2 * last_pixel
    return start, start.detach().floor()


def _bilinear_weights(key_yx: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the weights (B, M, 4) of each key's windows: upper left, upper right, lower left, lower right."""
    start, floor = _window_starts(key_yx, size)
    (lower, right), (upper, left) = (start - floor).unbind(-1), (1 - start + floor).unbind(-1)
    return torch.stack((upper * left, upper * right, lower * left, lower * right), -1)


def _run_indices(key_yx: Tensor, size: tuple[int, int], rows: range, heads: int, runs_per_head: int) -> Tensor:
    """Return the indices (B, heads, M, rows, 4) of the runs read by each key and row of pixels."""
    device, width = key_yx.device, size[1]
    top, left = _window_starts(key_yx, size)[1].nan_to_num(0.0).int().unbind(-1)  # the bilinear weights propagate a NaN
    row_offset = torch.arange(rows.start, rows.stop, device=device, dtype=torch.int32) * (2 * width)
    corner_offset = torch.tensor([0, 1, 2 * width, 2 * width + 1], device=device, dtype=torch.int32)
    head_offset = torch.arange(heads, device=device, dtype=torch.int32) * runs_per_head
    first = (top * (2 * width) + left)[:, None, :, None, None]
    return first + head_offset[:, None, None, None] + row_offset[:, None] + corner_offset


def _macs(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return query.shape[:2].numel() * query.shape[3] * key.shape[3] * (query.shape[2] + value.shape[2] + 4)


@with_macs(_macs)
def relative_attention_definition(
    query: Tensor, key: Tensor, value: Tensor, key_yx: Tensor, table: Tensor, size: tuple[int, int], scale: float
) -> Tensor:
    """Reference implementation of ``relative_attention``."""
    query, key, value = (t.to(operand_dtype(query)) for t in (query, key, value))
    bias = relative_bias_definition(table, key_yx, size, slice(0, size[0])).to(query.dtype)
    return value @ (key.mT @ query * scale + bias).softmax(2)


@with_macs(_macs)
def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, key_yx: Tensor, table: Tensor, size: tuple[int, int], scale: float
) -> Tensor:
    """Return the attention of a map's pixels to keys at any position, without materialising the attention matrix.

    Args:
        query: (B, heads, E, H·W).
        key: (B, heads, E, M).
        value: (B, heads, V, M).
        key_yx: (B, M, 2), coordinates of the keys in [−1, 1], y then x.
        table: (heads, 2H − 1, 2W − 1).
        size: (H, W).
        scale: s, a factor of the products.

    Returns:
        (B, heads, V, H·W) in the dtype of the operands, or of autocast; half precision is computed in float32.

    Higher-order gradients are the definition's. Unusable under graph capture and ``torch.func``: call the definition.
    """
    dtype = operand_dtype(query)
    compute_dtype = torch.promote_types(dtype, torch.float32)
    operands = (t.to(compute_dtype).contiguous() for t in (query, key, value, key_yx, table))
    y: Tensor = _RelativeAttention.apply(*operands, size, scale)
    return y.to(dtype)


class _RelativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, key_yx: Tensor, table: Tensor, size: tuple[int, int], scale: float
    ) -> Tensor:
        y = query.new_empty(*value.shape[:3], query.shape[3])
        runs = table_runs(table)
        with without_autocast(query):
            for images, rows in _blocks(query, key, size, _BLOCK_NUMEL):
                pixels = slice(rows.start * size[1], rows.stop * size[1])
                weights = _weights(query[images, ..., pixels], key[images], key_yx[images], runs, size, rows, scale)
                y[images, ..., pixels] = (value[images].flatten(0, 1) @ weights).view(y[images, ..., pixels].shape)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.size, ctx.scale = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, key_yx, table = operands = ctx.saved_tensors
        size, scale = ctx.size, ctx.scale
        with without_autocast(query):
            if needs_composite_backward():  # the backward pass of ``embedding_bag`` is not differentiable
                vjp = torch.func.vjp(partial(relative_attention_definition, size=size, scale=scale), *operands)[1]
                return *vjp(grad), None, None
            with torch.enable_grad():
                leaves = key_yx.detach().requires_grad_(), table.detach().requires_grad_()
                bilinear, runs = _bilinear_weights(leaves[0], size), table_runs(leaves[1])
            grad_q, grad_k, grad_v = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
            grad_bilinear, grad_runs = (
                torch.zeros_like(bilinear),
                runs.new_zeros(len(table), 2 * size[0], 2 * size[1], size[1]),
            )
            buffer = query.new_empty(0)
            for images, row_range in _blocks(query, key, size, _BIAS_GRAD_NUMEL):
                k, v = key[images].flatten(0, 1), value[images].flatten(0, 1)
                grad_k_images, grad_v_images = grad_k[images].flatten(0, 1), grad_v[images].flatten(0, 1)
                row_numel = len(k) * k.shape[2] * size[1]
                if buffer.numel() < row_numel * len(row_range):
                    buffer = query.new_empty(row_numel * len(row_range))
                step = max(1, _BLOCK_NUMEL // row_numel)
                row_blocks = [row_range[n : n + step] for n in range(0, len(row_range), step)]
                for rows, chunk in zip(row_blocks, buffer.split(row_numel * step), strict=False):
                    pixels = slice(rows.start * size[1], rows.stop * size[1])
                    query_block = query[images, ..., pixels]
                    weights = _weights(query_block, key[images], key_yx[images], runs.detach(), size, rows, scale)
                    q, g = query_block.flatten(0, 1), grad[images, ..., pixels].flatten(0, 1)
                    grad_v_images.baddbmm_(g, weights.mT)
                    grad_logits = chunk[: row_numel * len(rows)].view_as(weights)
                    torch.bmm(v.mT, g, out=grad_logits)
                    softmax_backward(grad_logits, weights, 1, grad_logits.dtype, grad_input=grad_logits)
                    grad_q[images, ..., pixels] = (k @ grad_logits).mul_(scale).view(query_block.shape)
                    grad_k_images.baddbmm_(q, grad_logits.mT, alpha=scale)
                    grad_bilinear[images] += _bilinear_gradient(
                        grad_logits, key_yx[images], runs.detach(), size, rows, len(table)
                    )
                bias_grads = buffer[: row_numel * len(row_range)]
                _add_run_gradients(bias_grads, key_yx[images], bilinear[images].detach(), size, row_blocks, grad_runs)
            grad_key_yx, grad_table = torch.autograd.grad(
                (bilinear, runs), leaves, (grad_bilinear, grad_runs.flatten(0, 2)[: len(runs)])
            )
        return grad_q, grad_k, grad_v, grad_key_yx, grad_table, None, None


def _blocks(query: Tensor, key: Tensor, size: tuple[int, int], numel: int) -> Iterator[tuple[slice, range]]:
    """Yield slices of images and ranges of map rows with about ``numel`` weights each."""
    row_numel = query.shape[1] * key.shape[3] * size[1]
    rows = max(1, min(size[0], numel // row_numel))
    images = max(1, numel // (row_numel * rows))
    for first in range(0, len(query), images):
        for top in range(0, size[0], rows):
            yield slice(first, first + images), range(top, min(top + rows, size[0]))


def _weights(
    query: Tensor, key: Tensor, key_yx: Tensor, runs: Tensor, size: tuple[int, int], rows: range, scale: float
) -> Tensor:
    logits = relative_bias(runs, key_yx, size, slice(rows.start, rows.stop)).flatten(0, 1)
    logits.baddbmm_(key.flatten(0, 1).mT, query.flatten(0, 1), alpha=scale)
    return torch.softmax(logits, 1, out=logits)


def _bilinear_gradient(
    grad: Tensor, key_yx: Tensor, runs: Tensor, size: tuple[int, int], rows: range, heads: int
) -> Tensor:
    """Return the gradient of the bilinear weights (B, M, 4) from that of the bias of ``rows``, (B·heads, M, Q)."""
    run_index = _run_indices(key_yx, size, rows, heads, 4 * size[0] * size[1])
    bags = torch.arange(run_index.numel() // 4, dtype=torch.int32, device=grad.device)
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad.view(-1, size[1]), runs, run_index.view(-1), bags * 4, bags.repeat_interleave(4), 0
    )
    return products.view(run_index.shape).sum((1, 3))


def _add_run_gradients(
    grad: Tensor, key_yx: Tensor, bilinear: Tensor, size: tuple[int, int], row_blocks: list[range], grad_runs: Tensor
) -> None:
    """Add the runs' gradient to ``grad_runs``, from bias gradients (B·heads, M, Q) of consecutive row blocks."""
    heads, first = len(grad_runs), row_blocks[0].start
    # Restrict the gradient to the table rows that these map rows read.
    n_table_rows = size[0] + row_blocks[-1].stop - first
    run_indices = [
        _run_indices(key_yx, size, range(rows.start - first, rows.stop - first), heads, n_table_rows * 2 * size[1])
        for rows in row_blocks
    ]
    weights = torch.cat([bilinear[:, None, :, None].expand(run_index.shape).flatten() for run_index in run_indices])
    bag_of_index = torch.arange(len(weights) // 4, dtype=torch.int32, device=grad.device).repeat_interleave(4)
    flat_index = torch.cat([run_index.flatten() for run_index in run_indices])
    grad_runs[:, first : first + n_table_rows] += torch.ops.aten._embedding_bag_dense_backward(
        grad.view(-1, size[1]),
        flat_index,
        bag_of_index,
        bag_of_index,
        bag_of_index,
        heads * n_table_rows * 2 * size[1],
        False,
        0,
        weights,
    ).view(heads, n_table_rows, 2 * size[1], size[1])
