r"""Scaled-dot-product attention: every query takes the mean of the values, weighed by how well their keys match it.

    A = softmax(s · Q Kᵀ)          (N, M), each row sums to one            s scale
    Y = A V                        (N, V)

``attention_definition`` writes this down and holds A, N·M numbers; ``attention`` is what networks call: its memory
grows with N + M, forward and backward.

On the CPU it is PyTorch's own fused kernel, which never forms A, made usable and exact. Usable: the kernel takes only
rows of one common width whose numbers stand side by side, and for others ``F.scaled_dot_product_attention`` silently
forms A; zeros at the end of the rows change no product, so all are filled up to the widest. Exact: backward, the kernel
builds A again as exp(s·QKᵀ − l), l the logarithm of the sum of a row's exponentials. The rounding of l in float32 is a
common factor of the whole row, and where logits are large ten times the error of the definition. Softmax does not
change if a row is shifted, so the logits are shifted by −l, in one more column of the operands, and l is determined
anew: it is then so close to zero that its rounding is nothing. That costs one more forward; Y is taken from it too,
for gradients hold their digits only where A, l and Y are rounded alike.

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

aten = torch.ops.aten


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

    On the CPU the matrix is formed all the same where it has no more numbers than the operands: that is faster. On
    other devices, and compiled or exported (``torch.compile``, ``torch.export``, ONNX), the call is
    ``F.scaled_dot_product_attention`` on operands of one width; whether memory is linear there depends on the kernels
    PyTorch has for the device and the dtype. Gradients that are to be differentiated again (``create_graph=True``,
    ``torch.func``) are those of the definition, and form the matrix; ``torch.vmap`` is one call of all. Forward-mode
    derivatives (``torch.func.jvp``): of ``attention_definition`` only.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    _check(query, key, value)
    rows, columns, dtype = query.shape[-2], key.shape[-2], operand_dtype(query)
    compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    fused = compiled or query.device.type != "cpu"
    if not fused and rows * columns <= (rows + columns) * (query.shape[-1] + value.shape[-1]):
        return attention_definition(query, key, value, scale)
    q, k, v = (t.to(dtype) if t.ndim == 4 else t.to(dtype).unsqueeze(1) for t in (query, key, value))
    y = _fused(q, k, v, scale) if fused else _Attention.apply(q, k, v, scale)[0]
    return y if query.ndim == 4 else y.squeeze(1)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """PyTorch's own choice of a kernel, for operands (B, heads, …) that most of them take."""
    width = -8 * (-max(query.shape[-1], value.shape[-1]) // 8)  # on GPUs some need a multiple of 8
    q, k, v = (_filled(t, width) for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[..., : value.shape[-1]]


class _Attention(torch.autograd.Function):
    """The fast form on the CPU, of operands (B, heads, …) of one dtype: Y, and l for the backward."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        width = max(query.shape[-1], value.shape[-1])
        y, total = aten._scaled_dot_product_flash_attention_for_cpu(
            _filled(query, width), _filled(key, width), _filled(value, width), scale=scale
        )
        return y[..., : value.shape[-1]], total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        *operands, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*operands, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, total = ctx.saved_tensors
        if torch.is_grad_enabled():  # these gradients will be differentiated: the kernel's own could not be
            with torch.autocast(query.device.type, enabled=False):
                pull = torch.func.vjp(partial(attention_definition, scale=ctx.scale), query, key, value)[1]
                return *pull(grad), None
        narrow, wide = query.shape[-1], value.shape[-1]
        width = max(narrow + 1, wide)
        q, k, v, grad_y = (_filled(t, width) for t in (query * ctx.scale, key, value, grad))
        q[..., narrow] = -total
        k[..., narrow] = 1
        y, total = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=1.0)
        grad_q, grad_k, grad_v = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_y, q, k, v, y, total, 0.0, False, scale=1.0
        )
        return grad_q[..., :narrow] * ctx.scale, grad_k[..., :narrow], grad_v[..., :wide], None

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """The mapped axis becomes part of the batch."""
        *operands, scale = inputs
        mapped = [
            t.expand(info.batch_size, *t.shape) if axis is None else t.movedim(axis, 0)
            for t, axis in zip(operands, axes[:3], strict=True)
        ]
        y, total = _Attention.apply(*(t.flatten(0, 1) for t in mapped), scale)
        batch = mapped[0].shape[:2]
        return (y.unflatten(0, batch), total.unflatten(0, batch)), (0, 0)


def _filled(rows: Tensor, width: int) -> Tensor:
    """A copy of (…, n, m) with zeros at the end of each row, (…, n, width), in memory row by row."""
    return F.pad(rows, (0, width - rows.shape[-1])).contiguous()


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
