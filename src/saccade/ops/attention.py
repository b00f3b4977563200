r"""Scaled-dot-product attention: every query takes the mean of the values, weighed by how well their keys match it.

    A = softmax(s · Q Kᵀ + P)      (N, M), each row sums to one            s scale
    Y = A V                        (N, V)
    P_{n, (y, x)} = down_{n, y} + across_{n, x}        where given: the keys are the pixels of an H×W map, M = H·W

``attention_definition`` writes this down and holds A, N·M numbers; ``attention`` is what networks call: its memory
grows with N + M, forward and backward.

On the CPU it is computed block by block: as many rows of A as fit into a buffer of fixed size are formed, used and
forgotten, and formed again backward, whole rows each time, so that results and gradients are those of the definition
to the same rounding. down and across meet the products, and their gradients leave those of the logits, in the buffer.

PyTorch's fused kernel, which works in blocks too, takes only operands of one common width, and backward builds A as
exp(s·QKᵀ − l), l the logarithm of the sum of a row's exponentials, whose rounding in float32 is an error of the whole
row; with queries of C/8 and values of C channels, the widths of SAGAN's and DANet's layers, which it takes padded to C,
it has 1.8 times as much to do forward and twice as much backward. Operands are read and results laid out as they come,
rows or columns side by side, so that the pixels of a map (B, C, H, W) are not copied; gradients of keys and values,
sums over the rows of A, always by columns.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, eq. 1. Logits of a key's row and
column: Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv:2101.11605, figure 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype
from saccade.ops.counted import counted
from saccade.ops.eager import is_captured, is_composed

__all__ = ["attention", "attention_definition"]

softmax_backward = torch.ops.aten._softmax_backward_data.out

_BUFFER = 2**20
"""Numbers of A that are formed at a time, where it is not kept."""
_AT_ONCE = 2**23
"""Numbers of A that are formed at a time where it is: products of few images are slower."""
_KEPT = 4
"""How many times the numbers of operands and result A may have to be kept."""


def _macs(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Multiply-adds of both products of one call; the softmax is not counted."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@counted(_macs)
def attention_definition(
    query: Tensor, key: Tensor, value: Tensor, scale: float, down: Tensor | None = None, across: Tensor | None = None
) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``attention``.

    Arguments, result and errors are those of ``attention``.
    """
    dtype, terms = operand_dtype(query), _check(query, key, value, down, across)
    query, key, value, *terms = (t.to(dtype) for t in (query, key, value, *terms))
    logits = query @ key.transpose(-2, -1) * scale
    if terms:
        logits = logits + (terms[0].unsqueeze(-1) + terms[1].unsqueeze(-2)).flatten(-2)
    return logits.softmax(-1) @ value


@counted(_macs)
def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, down: Tensor | None = None, across: Tensor | None = None
) -> Tensor:
    """Scaled-dot-product attention without the matrix of weights in memory.

    Args:
        query: (B, N, E) or, with heads, (B, heads, N, E).
        key: (…, M, E), leading dimensions as of the query.
        value: (…, M, V).
        scale: s, a factor of the products; E^−½ in the paper.
        down: (…, N, H), added to the logits of all keys of a row of the map; together with ``across`` or not at all.
        across: (…, N, W), likewise of a column; H·W = M.

    Returns:
        (…, N, V) in the dtype of the operands; under autocast, as in a matrix product, operands may have any dtype and
        the result has that of autocast.

    On the CPU the matrix is formed all the same, and kept for the backward, where it has no more than four times as
    many numbers as query, key, value and result: that is faster. Half precision is computed in float32 there. On other
    devices, and compiled or exported (``torch.compile``, ``torch.export``, ONNX), the call is
    ``F.scaled_dot_product_attention`` on operands of one width, of which down and across are H + W more columns;
    whether memory is linear there depends on the kernels PyTorch has for the device and the dtype. Gradients that are
    to be differentiated again (``create_graph=True``, ``torch.func``) are those of the definition, and form the matrix;
    ``torch.vmap`` is one call of all. Forward-mode derivatives (``torch.func.jvp``): of ``attention_definition`` only.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    dtype, terms = operand_dtype(query), _check(query, key, value, down, across)
    q, k, v, *terms = (t.to(dtype) for t in (query, key, value, *terms))
    if is_captured() or query.device.type != "cpu":
        return _fused(q, k, v, scale, *terms)
    precise = torch.promote_types(dtype, torch.float32)
    q, k, v, *terms = (_flat(t.to(precise)) for t in (q, k, v, *terms))
    y: Tensor = _Attention.apply(q, k, v, scale, *terms)[0]
    return y.unflatten(0, query.shape[:-2]).to(dtype)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float, *terms: Tensor) -> Tensor:
    """PyTorch's own choice of a kernel, for operands that most of them take."""
    if terms:  # columns of the query, which one-hot columns of the keys pick
        height, width = (t.shape[-1] for t in terms)
        pixel = torch.arange(key.shape[-2], device=key.device)
        places = torch.cat([F.one_hot(pixel // width, height), F.one_hot(pixel % width, width)], 1).to(key.dtype)
        query, scale = torch.cat([query * scale, *terms], -1), 1.0
        key = torch.cat([key, places.expand(*key.shape[:-1], -1)], -1)
    if scale < 0:  # some take the root of it
        query, scale = -query, -scale
    width = max(query.shape[-1], value.shape[-1])
    if query.device.type != "cpu":  # where some need a multiple of 8
        width = -8 * (-width // 8)
    q, k, v = (F.pad(t if t.ndim == 4 else t.unsqueeze(1), (0, width - t.shape[-1])) for t in (query, key, value))
    y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous(), scale=scale)
    return (y if query.ndim == 4 else y.squeeze(1))[..., : value.shape[-1]]


class _Attention(torch.autograd.Function):
    """The fast form on the CPU, of operands (B, ·, ·) of one dtype: Y, and A where it is kept."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float, *terms: Tensor) -> tuple[Tensor, Tensor]:
        (batch, rows, width), columns = query.shape, key.shape[1]
        kept = rows * columns <= _KEPT * (rows + columns) * (width + value.shape[2])
        matrix = query.new_empty((batch, rows, columns) if kept else 0)
        y = _zeros(value, rows)
        with torch.autocast("cpu", enabled=False):
            for at, buffers in _blocks(query, key, 0 if kept else 1, kept):
                weights = _weights(query, key, scale, terms, at, matrix[at] if kept else buffers[0])
                y[at] = weights @ value[at[0]]
        return y, matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, ctx.scale, *terms = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # else zeros would be, as large as A
        ctx.save_for_backward(output[1], query, key, value, *terms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        (matrix, *operands), scale = ctx.saved_tensors, ctx.scale
        if grad is None:
            return (None,) * (len(operands) + 1)
        query, key, value, *terms = operands
        with torch.autocast("cpu", enabled=False):
            if is_composed():  # what follows could be neither differentiated nor batched
                pull = torch.func.vjp(lambda q, k, v, *t: attention_definition(q, k, v, scale, *t), *operands)[1]
                grad_q, grad_k, grad_v, *grad_terms = pull(grad)
                return grad_q, grad_k, grad_v, None, *grad_terms
            grad_q = _zeros(query, query.shape[1])
            # By columns whatever the operands: products add to narrow rows at half their speed and less.
            grad_k, grad_v = (torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (key, value))
            grad_terms = [torch.zeros_like(t) for t in terms]
            kept = matrix.ndim == 3
            for at, (slope, *buffers) in _blocks(query, key, 1 if kept else 2, kept):
                weights = matrix[at] if kept else _weights(query, key, scale, terms, at, buffers[0])
                grad_v[at[0]].baddbmm_(grad[at].mT, weights)
                torch.bmm(grad[at], value[at[0]].mT, out=slope)
                softmax_backward(slope, weights, 2, slope.dtype, grad_input=slope)
                torch.mul(slope @ key[at[0]], scale, out=grad_q[at])
                grad_k[at[0]].baddbmm_(query[at].mT, slope, alpha=scale)
                for of_term, axis in zip(grad_terms, (3, 2), strict=False):
                    torch.sum(_map(slope, terms), axis, out=of_term[at])
            return grad_q, grad_k.mT, grad_v.mT, None, *grad_terms

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, Any]]:
        """The mapped axis becomes part of the batch."""
        query, key, value, *terms = (
            t.expand(info.batch_size, *t.shape) if axis is None else t.movedim(axis, 0)
            for n, (t, axis) in enumerate(zip(inputs, axes, strict=True))
            if n != 3
        )
        q, k, v, *flat = (t.flatten(0, 1) for t in (query, key, value, *terms))
        y, matrix = _Attention.apply(q, k, v, inputs[3], *flat)
        batch = query.shape[:2]
        if matrix.ndim == 3:
            return (y.unflatten(0, batch), matrix.unflatten(0, batch)), (0, 0)
        return (y.unflatten(0, batch), matrix), (0, None)


def _blocks(query: Tensor, key: Tensor, buffers: int, kept: bool) -> Iterator[tuple[tuple[slice, slice], list[Tensor]]]:
    """Which of the batch and which rows of their A are formed at a time, and buffers for them."""
    (batch, rows, _), columns = query.shape, key.shape[1]
    if not columns:
        return
    numbers = _AT_ONCE if kept else _BUFFER
    step = max(1, min(rows, numbers // columns))
    several = max(1, min(batch, numbers // (step * columns)))
    places = [query.new_empty(several * step * columns) for _ in range(buffers)]
    for first in range(0, batch, several):
        for top in range(0, rows, step):
            shape = (min(several, batch - first), min(step, rows - top), columns)
            block = slice(first, first + several), slice(top, top + step)
            yield block, [place[: prod(shape)].view(shape) for place in places]


def _weights(
    query: Tensor, key: Tensor, scale: float, terms: Sequence[Tensor], at: tuple[slice, slice], out: Tensor
) -> Tensor:
    """Rows of A, written to ``out``."""
    if terms:
        down, across = (t[at] for t in terms)
        torch.add(down.unsqueeze(3), across.unsqueeze(2), out=_map(out, terms))
    out.baddbmm_(query[at], key[at[0]].mT, beta=1 if terms else 0, alpha=scale)
    return torch.softmax(out, 2, out=out)


def _map(rows: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """Rows of numbers for each key as maps, (·, ·, H, W)."""
    return rows.unflatten(2, (terms[0].shape[2], terms[1].shape[2]))


def _by_columns(t: Tensor) -> bool:
    """Whether the numbers of a column stand side by side, as the pixels of a map (B, C, H, W) do."""
    return t.stride(-2) == 1 and t.stride(-1) != 1


def _flat(t: Tensor) -> Tensor:
    """(B, ·, ·) of (B, heads, ·, ·), laid out as that is."""
    return t.mT.flatten(0, -3).mT if _by_columns(t) else t.flatten(0, -3)


def _zeros(like: Tensor, rows: int) -> Tensor:
    """Zeros (B, rows, ·), as wide as ``like`` and laid out as it is."""
    batch, _, width = like.shape
    return like.new_zeros(batch, width, rows).mT if _by_columns(like) else like.new_zeros(batch, rows, width)


def _check(query: Tensor, key: Tensor, value: Tensor, down: Tensor | None, across: Tensor | None) -> list[Tensor]:
    """Refuse operands that do not belong together, with the numbers found and needed; down and across, if given."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.ndim not in (3, 4) or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"all operands must have 3 or 4 dimensions, got {shapes}")
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(f"all operands must have the same leading dimensions, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have one width, got {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"there must be one value for each key, got {shapes}")
    terms = [t for t in (down, across) if t is not None]
    if len(terms) == 1:
        raise ValueError(f"down and across go together, got {'down' if across is None else 'across'} alone")
    if terms:
        given = " and ".join(str(tuple(t.shape)) for t in terms)
        if any(t.shape[:-1] != query.shape[:-1] for t in terms):
            raise ValueError(f"down and across must have a row for each query, got {given}, {shapes}")
        if terms[0].shape[-1] * terms[1].shape[-1] != key.shape[-2]:
            raise ValueError(f"the widths of down and across must give the number of keys, got {given}, {shapes}")
    *dtypes, last = (str(t.dtype) for t in (query, key, value, *terms))
    if set(dtypes) != {last} and not autocast_enabled(query):
        raise ValueError(f"outside autocast all operands must have one dtype, got {', '.join(dtypes)} and {last}")
    return terms
