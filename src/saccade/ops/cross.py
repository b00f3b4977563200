r"""A map times a row gate and a column gate, both computed from the means of its rows and columns.

    r, c = g(mean_w x, mean_h x)                (B, C, H, 1), (B, C, 1, W)
    y = x · (r · c)                             (B, C, H, W)

In the backward pass dr = Σ_w dy·x·c and dc = Σ_h dy·x·r; dx is dy·r·c plus the gradients through both means. Only dx is
written as a map: as in ``saccade.ops.self_gating``, x is forked before its uses, and the product passes dy and both
gates to the fork.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import can_use_pieces, needs_composite_backward, piece_of, pieces
from saccade.ops.gating import pooled_mean

__all__ = ["cross_gated", "cross_gated_definition"]

Gates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
GatesByThread = dict[int, tuple[Tensor, Tensor]]
"""Gates passed from the product's backward to the fork's, by thread id: several threads may run one graph."""


def cross_gated_definition(x: Tensor, gates: Gates) -> Tensor:
    """Reference implementation of ``cross_gated`` for x (B, C, H, W)."""
    row_gate, column_gate = gates(x.mean(3, keepdim=True), x.mean(2, keepdim=True))
    return x * (row_gate * column_gate)


def cross_gated(x: Tensor, gates: Gates) -> Tensor:
    """Multiply a map by gates computed from the means of its rows and columns.

    Args:
        x: (B, C, H, W).
        gates: function called once with the means (B, C, H, 1) and (B, C, 1, W); returns two gates of these shapes, in
            the dtype of x.

    Returns:
        (B, C, H, W).
    """
    if not (can_use_pieces(x) and x.dtype in (torch.float32, torch.float64) and x.numel()):
        return cross_gated_definition(x, gates)
    if torch.is_grad_enabled() and x.requires_grad:
        gates_by_thread: GatesByThread = {}
        x_product, *means = _MeansFork.apply(x, gates_by_thread)
        row_gate, column_gate = gates(*means)
        if can_use_pieces(row_gate, column_gate) and row_gate.dtype == column_gate.dtype == x.dtype:
            y: Tensor = _CrossProduct.apply(x_product, row_gate, column_gate, gates_by_thread)
            return y
        return x_product * (row_gate * column_gate)
    row_gate, column_gate = gates(pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True))
    gate = row_gate * column_gate
    return x * gate if gate.requires_grad or gate.dtype != x.dtype else gate.mul_(x)


class _MeansFork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gates_by_thread: GatesByThread) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.gates_by_thread, ctx.shape = gates_by_thread, x.shape
        return x.view_as(x), pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad_product: Tensor | None, *grad_means: Tensor | None) -> tuple[Tensor | None, None]:
        counts = ctx.shape[3], ctx.shape[2]
        mean_grads = [grad / count for grad, count in zip(grad_means, counts, strict=True) if grad is not None]
        gates = None if needs_composite_backward() else ctx.gates_by_thread.pop(get_ident(), None)
        if grad_product is None or gates is None:  # the product returned its full gradient
            grads = [grad for grad in (grad_product, *mean_grads) if grad is not None]
            return sum(grads[1:], grads[0].expand(ctx.shape)) if grads else None, None
        grad_x = torch.empty_like(grad_product, memory_format=torch.contiguous_format)
        for piece in pieces(grad_x):
            torch.mul(*(piece_of(gate, piece) for gate in gates), out=grad_x[piece]).mul_(grad_product[piece])
            for grad in mean_grads:
                grad_x[piece].add_(piece_of(grad, piece))
        return grad_x, None


class _CrossProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, row_gate: Tensor, column_gate: Tensor, gates_by_thread: GatesByThread) -> Tensor:
        ctx.gates_by_thread = gates_by_thread
        ctx.save_for_backward(x, row_gate, column_gate)
        return (row_gate * column_gate).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, row_gate, column_gate = ctx.saved_tensors
        if needs_composite_backward():
            grad_gate = grad * x
            grad_rows, grad_columns = (
                (grad_gate * column_gate).sum(3, keepdim=True),
                (grad_gate * row_gate).sum(2, keepdim=True),
            )
            return grad * (row_gate * column_gate), grad_rows, grad_columns, None
        ctx.gates_by_thread[get_ident()] = row_gate, column_gate
        grad_rows, grad_columns = torch.empty_like(row_gate), torch.empty_like(column_gate)
        for piece in pieces(x, 2, 3):
            grad_gate = grad[piece] * x[piece]
            scratch = grad_gate * column_gate[piece]
            torch.sum(scratch, 3, True, out=grad_rows[piece])
            torch.sum(torch.mul(grad_gate, row_gate[piece], out=scratch), 2, True, out=grad_columns[piece])
        return grad, grad_rows, grad_columns, None
