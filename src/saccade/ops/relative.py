r"""Attention biased by relative position, where keys lie between the pixels: a table sampled once for each pair.

    b_h(m, q) = T_h((q − p_m)/2)                 T: (heads, 2H − 1, 2W − 1), its corners at −1 and 1, linear between
    y_h(q) = Σ_m softmax_m(s · k_h(m)ᵀ q_h(q) + b_h(m, q)) v_h(m)                           s scale

q runs over the pixels of a map of H×W, p_m are the places of M keys, both from −1 to 1, corner on corner.

``relative_bias_definition`` and ``relative_attention_definition`` write this down. A pixel further down the map is a
whole row further down the table, so a key's fractions are the same for all pixels: b_h(m, ·) is the weighted sum of
four H×W windows of the table. So ``relative_bias`` reads four rows of W numbers for a key and a row of pixels, where
the definition computes a place and reads four numbers for each pixel. ``relative_attention`` forms the weights of a few
rows of the map at a time, small enough for the cache, and again in the backward pass: its memory does not grow with
M·H·W.

Source: Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022, arXiv:2201.00520, section 3.2.
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
from saccade.ops.counted import counted
from saccade.ops.eager import is_composed, is_transformed
from saccade.ops.sizes import at_least_one

__all__ = [
    "coordinates",
    "pixels",
    "relative_attention",
    "relative_attention_definition",
    "relative_bias",
    "relative_bias_definition",
    "windows",
]

_AT_ONCE = 2**20
"""Weights that are formed at once; they should stay in the cache."""
_BIASED = 2**23
"""Derivatives by the bias that are gathered before they go to the table together."""


def coordinates(size: int, like: Tensor) -> Tensor:
    """The ``size`` middles of pixels from −1 to 1, corner on corner; 0 where there is one pixel."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    steps = at_least_one(size - 1)
    return (2 * place - (size - 1)) / steps


def pixels(size: tuple[int, int], rows: slice, like: Tensor) -> Tensor:
    """The middles of the pixels of some rows of a map of ``size``, (Q, 2), y then x."""
    y, x = coordinates(size[0], like)[rows], coordinates(size[1], like)
    return torch.stack((y[:, None].expand(-1, size[1]), x.expand(y.shape[0], -1)), -1).flatten(0, 1)


def relative_bias_definition(table: Tensor, places: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The equation at the head of the module, by ``F.grid_sample``, for a table of any size.

    Args:
        table: (heads, 2H' − 1, 2W' − 1); it is stretched where (H', W') is not ``size``.
        places: (B, M, 2) of the keys, y then x.
        size: (H, W) of the map.
        rows: of the map; their pixels are the queries.

    Returns:
        (B, heads, M, Q), zero where q − p_m lies outside the table.
    """
    apart = (pixels(size, rows, places) - places[:, :, None]) / 2  # (B, M, Q, 2)
    return F.grid_sample(table.to(places.dtype).expand(places.shape[0], -1, -1, -1), apart.flip(-1), align_corners=True)


def windows(table: Tensor) -> Tensor:
    """What ``relative_bias`` reads of a table (heads, 2H − 1, 2W − 1): each run of W numbers of it, (·, W)."""
    width = (table.shape[2] + 1) // 2
    return F.pad(table, (0, 1, 0, 1)).flatten().unfold(0, width, 1).contiguous()


def relative_bias(runs: Tensor, places: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """``relative_bias_definition`` of a table that has the map's size, and of places within −1 and 1.

    ``runs`` are the ``windows`` of the table, the same for all calls; the other arguments and the result are the
    definition's. Gradients that are to be differentiated again are those of a gather.
    """
    runs = runs.to(places.dtype)
    plane = 4 * size[0] * size[1]
    run = _runs(places, size, range(size[0])[rows], -(-len(runs) // plane), plane)
    weights = _shares(places, size)[:, None, :, None].expand(run.shape)
    bagged = _weighted_rows if is_transformed() else _Bags.apply
    bags: Tensor = bagged(runs, weights.reshape(-1, 4), run.view(-1, 4))
    return bags.view(*run.shape[:3], -1)


def _weighted_rows(runs: Tensor, weights: Tensor, run: Tensor) -> Tensor:
    """The sum (N, W) of the four rows ``run`` (N, 4) of ``runs`` (·, W) times their ``weights`` (N, 4)."""
    return (F.embedding(run, runs) * weights[..., None]).sum(1)


class _Bags(torch.autograd.Function):
    """``_weighted_rows`` as an embedding bag, whose gradients torch cannot differentiate."""

    @staticmethod
    def forward(runs: Tensor, weights: Tensor, run: Tensor) -> Tensor:
        return F.embedding_bag(run, runs, mode="sum", per_sample_weights=weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        runs, weights, run = ctx.saved_tensors
        if is_composed():
            return *torch.func.vjp(partial(_weighted_rows, run=run), runs, weights)[1](grad), None
        bags = torch.arange(len(run), dtype=run.dtype, device=run.device)
        index, of = run.view(-1), bags.repeat_interleave(4)
        grad_runs = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_runs = torch.ops.aten._embedding_bag_dense_backward(
                grad, index, of, of, of, len(runs), False, 0, weights.view(-1)
            )
        if ctx.needs_input_grad[1]:
            products = torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, runs, index, bags * 4, of, 0)
            grad_weights = products.view(run.shape)
        return grad_runs, grad_weights, None


def _starts(places: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the keys' windows start, in pixels of the table (B, M, 2), and the whole pixel before."""
    limits = torch.tensor([size[0] - 1, size[1] - 1], device=places.device, dtype=places.dtype)
    start = (1 - places) / 2 * limits
    return start, start.detach().floor()


def _shares(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Of each key, what share its four windows have, (B, M, 4): upper left, upper right, lower left, lower right."""
    start, whole = _starts(places, size)
    (lower, right), (upper, left) = (start - whole).unbind(-1), (1 - start + whole).unbind(-1)
    return torch.stack((upper * left, upper * right, lower * left, lower * right), -1)


def _runs(places: Tensor, size: tuple[int, int], rows: range, heads: int, plane: int) -> Tensor:
    """Which four runs a key and a row of pixels read, (B, heads, M, rows, 4), ``plane`` runs to a head."""
    device, width = places.device, size[1]
    top, first = _starts(places, size)[1].nan_to_num(0.0).int().unbind(-1)  # a NaN is no index; the shares keep it
    taken = torch.arange(rows.start, rows.stop, device=device, dtype=torch.int32) * (2 * width)
    corner = torch.tensor([0, 1, 2 * width, 2 * width + 1], device=device, dtype=torch.int32)
    head = torch.arange(heads, device=device, dtype=torch.int32) * plane
    return (top * (2 * width) + first)[:, None, :, None, None] + head[:, None, None, None] + taken[:, None] + corner


def _macs(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Multiply-adds of one call: of both products, and four for each bilinear number of the bias."""
    return query.shape[:2].numel() * query.shape[3] * key.shape[3] * (query.shape[2] + value.shape[2] + 4)


@counted(_macs)
def relative_attention_definition(
    query: Tensor, key: Tensor, value: Tensor, places: Tensor, table: Tensor, size: tuple[int, int], scale: float
) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``relative_attention``.

    Arguments and result are those of ``relative_attention``.
    """
    query, key, value = (t.to(operand_dtype(query)) for t in (query, key, value))
    bias = relative_bias_definition(table, places, size, slice(0, size[0])).to(query.dtype)
    return value @ (key.mT @ query * scale + bias).softmax(2)


@counted(_macs)
def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, places: Tensor, table: Tensor, size: tuple[int, int], scale: float
) -> Tensor:
    """Attention of all pixels of a map to keys that lie between them, without the matrix of weights in memory.

    Args:
        query: (B, heads, E, H·W), of the map's pixels.
        key: (B, heads, E, M).
        value: (B, heads, V, M).
        places: (B, M, 2) of the keys, y then x, from −1 to 1.
        table: (heads, 2H − 1, 2W − 1).
        size: (H, W).
        scale: s, a factor of the products.

    Returns:
        (B, heads, V, H·W) in the dtype of the operands, under autocast in that of autocast. Half precision is computed
        in float32.

    Gradients that are to be differentiated again (``create_graph=True``) are those of the definition. It takes the
    gradient itself: neither compiled nor traced, and no ``torch.func``; those are for the definition.
    """
    dtype = operand_dtype(query)
    precise = torch.promote_types(dtype, torch.float32)
    operands = (t.to(precise).contiguous() for t in (query, key, value, places, table))
    y: Tensor = _RelativeAttention.apply(*operands, size, scale)
    return y.to(dtype)


class _RelativeAttention(torch.autograd.Function):
    """The fast form, of operands of one dtype that lie row by row."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, places: Tensor, table: Tensor, size: tuple[int, int], scale: float
    ) -> Tensor:
        y = query.new_empty(*value.shape[:3], query.shape[3])
        runs = windows(table)
        with without_autocast(query):
            for images, rows in _blocks(query, key, size, _AT_ONCE):
                at = slice(rows.start * size[1], rows.stop * size[1])
                weights = _weights(query[images, ..., at], key[images], places[images], runs, size, rows, scale)
                y[images, ..., at] = (value[images].flatten(0, 1) @ weights).view(y[images, ..., at].shape)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.size, ctx.scale = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, places, table = operands = ctx.saved_tensors
        size, scale = ctx.size, ctx.scale
        with without_autocast(query):
            if is_composed():  # the bags' own gradients cannot be differentiated
                pull = torch.func.vjp(partial(relative_attention_definition, size=size, scale=scale), *operands)[1]
                return *pull(grad), None, None
            with torch.enable_grad():
                leaves = places.detach().requires_grad_(), table.detach().requires_grad_()
                shares, runs = _shares(leaves[0], size), windows(leaves[1])
            grad_q, grad_k, grad_v = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
            grad_shares, grad_runs = (
                torch.zeros_like(shares),
                runs.new_zeros(len(table), 2 * size[0], 2 * size[1], size[1]),
            )
            gathered = query.new_empty(0)
            for images, several in _blocks(query, key, size, _BIASED):
                k, v = key[images].flatten(0, 1), value[images].flatten(0, 1)
                to_k, to_v = grad_k[images].flatten(0, 1), grad_v[images].flatten(0, 1)
                row = len(k) * k.shape[2] * size[1]
                if gathered.numel() < row * len(several):
                    gathered = query.new_empty(row * len(several))
                step = max(1, _AT_ONCE // row)
                parts = [several[n : n + step] for n in range(0, len(several), step)]
                for rows, room in zip(parts, gathered.split(row * step), strict=False):
                    at = slice(rows.start * size[1], rows.stop * size[1])
                    some = query[images, ..., at]
                    weights = _weights(some, key[images], places[images], runs.detach(), size, rows, scale)
                    q, g = some.flatten(0, 1), grad[images, ..., at].flatten(0, 1)
                    to_v.baddbmm_(g, weights.mT)
                    slope = room[: row * len(rows)].view_as(weights)
                    torch.bmm(v.mT, g, out=slope)
                    softmax_backward(slope, weights, 1, slope.dtype, grad_input=slope)
                    grad_q[images, ..., at] = (k @ slope).mul_(scale).view(some.shape)
                    to_k.baddbmm_(q, slope.mT, alpha=scale)
                    grad_shares[images] += _to_shares(slope, places[images], runs.detach(), size, rows, len(table))
                part_of = gathered[: row * len(several)]
                _to_runs(part_of, places[images], shares[images].detach(), size, parts, grad_runs)
            grad_places, grad_table = torch.autograd.grad(
                (shares, runs), leaves, (grad_shares, grad_runs.flatten(0, 2)[: len(runs)])
            )
        return grad_q, grad_k, grad_v, grad_places, grad_table, None, None


def _blocks(query: Tensor, key: Tensor, size: tuple[int, int], numbers: int) -> Iterator[tuple[slice, range]]:
    """Images and rows of the map, so many that their weights are about ``numbers``."""
    row = query.shape[1] * key.shape[3] * size[1]
    rows = max(1, min(size[0], numbers // row))
    images = max(1, numbers // (row * rows))
    for first in range(0, len(query), images):
        for top in range(0, size[0], rows):
            yield slice(first, first + images), range(top, min(top + rows, size[0]))


def _weights(
    query: Tensor, key: Tensor, places: Tensor, runs: Tensor, size: tuple[int, int], rows: range, scale: float
) -> Tensor:
    """The weights of the pixels of some rows, (B·heads, M, Q)."""
    logits = relative_bias(runs, places, size, slice(rows.start, rows.stop)).flatten(0, 1)
    logits.baddbmm_(key.flatten(0, 1).mT, query.flatten(0, 1), alpha=scale)
    return torch.softmax(logits, 1, out=logits)


def _to_shares(grad: Tensor, places: Tensor, runs: Tensor, size: tuple[int, int], rows: range, heads: int) -> Tensor:
    """The gradient of the shares, (B, M, 4), from that of the bias of some rows, (B·heads, M, Q)."""
    read = _runs(places, size, rows, heads, 4 * size[0] * size[1])
    bags = torch.arange(read.numel() // 4, dtype=torch.int32, device=grad.device)
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad.view(-1, size[1]), runs, read.view(-1), bags * 4, bags.repeat_interleave(4), 0
    )
    return products.view(read.shape).sum((1, 3))


def _to_runs(
    grad: Tensor, places: Tensor, shares: Tensor, size: tuple[int, int], parts: list[range], grad_runs: Tensor
) -> None:
    """Add to the gradient of the runs that of the bias of some parts' rows, a part (B·heads, M, Q) after another."""
    heads, first = len(grad_runs), parts[0].start
    # Rows of the table that these rows of the map do not read have no part in it.
    reach = size[0] + parts[-1].stop - first
    runs = [_runs(places, size, range(p.start - first, p.stop - first), heads, reach * 2 * size[1]) for p in parts]
    weights = torch.cat([shares[:, None, :, None].expand(r.shape).flatten() for r in runs])
    of = torch.arange(len(weights) // 4, dtype=torch.int32, device=grad.device).repeat_interleave(4)
    run = torch.cat([r.flatten() for r in runs])
    grad_runs[:, first : first + reach] += torch.ops.aten._embedding_bag_dense_backward(
        grad.view(-1, size[1]), run, of, of, of, heads * reach * 2 * size[1], False, 0, weights
    ).view(heads, reach, 2 * size[1], size[1])
