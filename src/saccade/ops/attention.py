r"""Scaled-dot-product attention: every query takes the mean of the values, weighed by how well their keys match it.

    A = softmax(s · Q Kᵀ)          (N, M), each row sums to one            s scale
    Y = A V                        (N, V)

``attention_definition`` writes this down and holds A, N·M numbers; ``attention`` is what networks call: its memory
grows with N + M, forward and backward.

On the CPU it is computed block by block: as many rows of A as fit into a buffer of fixed size are formed, used and
forgotten, and formed again backward, whole rows each time, so that results and gradients are those of the definition
to the same rounding. PyTorch's fused kernel, which works in blocks too, takes only operands of one common width, and
backward builds A as exp(s·QKᵀ − l), l the logarithm of the sum of a row's exponentials, whose rounding in float32 is
an error of the whole row; with queries of C/8 and values of C channels, the widths of SAGAN's and DANet's layers, it
has half as much again to do forward and three times as much backward. Operands are read and results laid out as they
come, rows or columns side by side: the pixels of a map (B, C, H, W) are not copied.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, eq. 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.counted import counted
from saccade.ops.deform.geometry import autocast_enabled, operand_dtype

__all__ = ["attention", "attention_definition"]

softmax_backward = torch.ops.aten._softmax_backward_data.out

_BUFFER = 2**20
"""Numbers of A that are held at a time, where it is not kept."""


def _macs(query: Tensor, key: Tensor, value: Tensor, scale: float) -> int:
    """Multiply-adds of both products of one call; the softmax is not counted."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@counted(_macs)
def attention_definition(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``attention``.

    Arguments, result and errors are those of ``attention``.
    """
    _check(query, key, value)
    query, key, value = (t.to(operand_dtype(query)) for t in (query, key, value))
    return (query @ key.transpose(-2, -1) * scale).softmax(-1) @ value


@counted(_macs)
def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Scaled-dot-product attention without the matrix of weights in memory.

    Args:
        query: (B, N, E) or, with heads, (B, heads, N, E).
        key: (…, M, E), leading dimensions as of the query.
        value: (…, M, V).
        scale: s, a factor of the logits; E^−½ in the paper.

    Returns:
        (…, N, V) in the dtype of the operands; under autocast, as in a matrix product, operands may have any dtype and
        the result has that of autocast.

    On the CPU the matrix is formed all the same, and kept for the backward, where it has no more than twice as many
    numbers as operands and result: that is faster. Half precision is computed in float32 there. On other devices, and
    compiled or exported (``torch.compile``, ``torch.export``, ONNX), the call is ``F.scaled_dot_product_attention`` on
    operands of one width; whether memory is linear there depends on the kernels PyTorch has for the device and the
    dtype. Gradients that are to be differentiated again (``create_graph=True``,
    ``torch.func``) are those of the definition, and form the matrix; ``torch.vmap`` is one call of all. Forward-mode
    derivatives (``torch.func.jvp``): of ``attention_definition`` only.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    _check(query, key, value)
    dtype = operand_dtype(query)
    q, k, v = (t.to(dtype) for t in (query, key, value))
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or query.device.type != "cpu":  # type: ignore[attr-defined]
        return _fused(q, k, v, scale)
    if dtype.itemsize < 4:
        q, k, v = (t.float() for t in (q, k, v))
    y = _Attention.apply(*(t.flatten(0, -3) for t in (q, k, v)), scale)[0]
    return y.unflatten(0, query.shape[:-2]).to(dtype)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """PyTorch's own choice of a kernel, for operands that most of them take."""
    if scale < 0:  # some take the root of it
        query, scale = -query, -scale
    width = max(query.shape[-1], value.shape[-1])
    if query.device.type != "cpu":  # where some need a multiple of 8
        width = -8 * (-width // 8)
    q, k, v = (F.pad(t if t.ndim == 4 else t.unsqueeze(1), (0, width - t.shape[-1])) for t in (query, key, value))
    y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous(), scale=scale)
    return (y if query.ndim == 4 else y.squeeze(1))[..., : value.shape[-1]]


class _Attention(torch.autograd.Function):
    """The fast form on the CPU, of operands (B, ·, ·) of one dtype: Y, and A where the backward shall find it."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        rows, columns = query.shape[1], key.shape[1]
        with torch.autocast("cpu", enabled=False):
            if rows * columns <= 2 * (rows + columns) * (query.shape[2] + value.shape[2]):
                weights = _weights(query, key, scale, query.new_empty(len(query), rows, columns))
                return _product(weights, value, _by_columns(value)), weights
            y = _like(value, rows)
            step, buffer = _block(rows, columns, query)
            for q, k, v, out in zip(query, key, value, y, strict=True):
                for some, place in zip(q.split(step), out.split(step), strict=True):
                    torch.mm(_weights(some, k, scale, buffer[: len(some)]), v, out=place)
        return y, query.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        *operands, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*operands, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():  # these gradients will be differentiated: what follows could not be
                pull = torch.func.vjp(partial(attention_definition, scale=ctx.scale), query, key, value)[1]
                return *pull(grad), None
            if weights.ndim == 3:
                grad_v = _product(weights.mT, grad, _by_columns(value))
                slope = _slope(weights, grad, value, torch.empty_like(weights))
                grad_q = _product(slope, key * ctx.scale, _by_columns(query))
                return grad_q, _product(slope.mT, query * ctx.scale, _by_columns(key)), grad_v, None
            grad_q, grad_k, grad_v = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
            step, first = _block(query.shape[1], key.shape[1], query)
            second = torch.empty_like(first)
            for q, k, v, g, to_q, to_k, to_v in zip(query, key, value, grad, grad_q, grad_k, grad_v, strict=True):
                for some, of_some, place in zip(q.split(step), g.split(step), to_q.split(step), strict=True):
                    weights = _weights(some, k, ctx.scale, first[: len(some)])
                    to_v.addmm_(weights.mT, of_some)
                    slope = _slope(weights, of_some, v, second[: len(some)])
                    torch.addmm(place, slope, k, beta=0, alpha=ctx.scale, out=place)
                    to_k.addmm_(slope.mT, some, alpha=ctx.scale)
            return grad_q, grad_k, grad_v, None

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, Any]]:
        """The mapped axis becomes part of the batch."""
        *operands, scale = inputs
        mapped = [
            t.expand(info.batch_size, *t.shape) if axis is None else t.movedim(axis, 0)
            for t, axis in zip(operands, axes[:3], strict=True)
        ]
        y, weights = _Attention.apply(*(t.flatten(0, 1) for t in mapped), scale)
        batch = mapped[0].shape[:2]
        if weights.ndim == 3:
            return (y.unflatten(0, batch), weights.unflatten(0, batch)), (0, 0)
        return (y.unflatten(0, batch), weights), (0, None)


def _block(rows: int, columns: int, like: Tensor) -> tuple[int, Tensor]:
    """How many rows of A are formed at a time, and the place for them."""
    step = min(rows, max(1, _BUFFER // columns))
    return step, like.new_empty(step, columns)


def _weights(query: Tensor, key: Tensor, scale: float, out: Tensor) -> Tensor:
    """The rows of A of some queries, written to ``out``."""
    add = torch.addmm if out.ndim == 2 else torch.baddbmm
    add(out, query, key.mT, beta=0, alpha=scale, out=out)
    return torch.softmax(out, -1, out=out)


def _slope(weights: Tensor, grad: Tensor, value: Tensor, out: Tensor) -> Tensor:
    """The derivative by the logits of some queries, given that by their results, written to ``out``."""
    torch.matmul(grad, value.mT, out=out)
    softmax_backward(out, weights, -1, out.dtype, grad_input=out)
    return out


def _product(a: Tensor, b: Tensor, by_columns: bool) -> Tensor:
    """A B, in memory column by column or row by row."""
    return (b.mT @ a.mT).mT if by_columns else a @ b


def _by_columns(t: Tensor) -> bool:
    """Whether the numbers of a column stand side by side, as the pixels of a map (B, C, H, W) do."""
    return t.stride(-2) == 1 and t.stride(-1) != 1


def _like(value: Tensor, rows: int) -> Tensor:
    """An empty result (B, rows, V), laid out as the values are."""
    batch, _, width = value.shape
    return value.new_empty(batch, width, rows).mT if _by_columns(value) else value.new_empty(batch, rows, width)


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse operands that do not belong together, with the numbers found and needed."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.ndim not in (3, 4) or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"all operands must have 3 or 4 dimensions, got {shapes}")
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(f"all operands must have the same leading dimensions, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have one width, got {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"there must be one value for each key, got {shapes}")
    if not query.dtype == key.dtype == value.dtype and not autocast_enabled(query):
        raise ValueError(
            f"outside autocast all operands must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
