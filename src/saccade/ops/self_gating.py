"""Self-gating y = x · g(x) of a map, with one backward pass over both uses of x.

Autograd would write dy · g, then add the gradient through g to that map. Here x is forked before both uses, and the
product passes dy to the fork unmultiplied; the fork writes the sum of both parts in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import can_use_pieces, needs_composite_backward, piece_of, pieces
from saccade.ops.gating import gated

__all__ = ["gated_by", "gated_by_definition"]

GateByThread = dict[int, Tensor]
"""Gate passed from the product's backward to the fork's, by thread id: several threads may run one graph."""


def gated_by_definition(x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """Reference implementation of ``gated_by`` for x (B, C, H, W)."""
    return x * gate(x)


def gated_by(x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """Multiply a map by a gate computed from it.

    Args:
        x: (B, C, H, W).
        gate: function called once; its result (B, C | 1, H | 1, W | 1), in the dtype of x, may broadcast.

    Returns:
        (B, C, H, W), x · gate(x).
    """
    if not (can_use_pieces(x) and torch.is_grad_enabled() and x.requires_grad):
        return gated(x, gate(x))
    gate_by_thread: GateByThread = {}
    x_product, x_gate = _GateFork.apply(x, gate_by_thread)
    g = gate(x_gate)
    if can_use_pieces(g) and g.dtype == x.dtype and g.dim() == x.dim() and g.shape[0] == x.shape[0]:
        y: Tensor = _GateProduct.apply(x_product, g, gate_by_thread)
        return y
    return gated(x_product, g)


class _GateFork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_by_thread: GateByThread) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.gate_by_thread = gate_by_thread
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_product: Tensor | None, grad_gate: Tensor | None) -> tuple[Tensor | None, None]:
        if grad_product is None:
            return grad_gate, None
        gate = None if needs_composite_backward() else ctx.gate_by_thread.pop(get_ident(), None)
        if gate is None:  # the product returned its full gradient
            return grad_product if grad_gate is None else grad_product + grad_gate, None
        if grad_gate is None:
            return grad_product * gate, None
        if gate.shape == grad_product.shape:
            return torch.addcmul(grad_gate, grad_product, gate), None
        grad_x = torch.empty_like(grad_product, memory_format=torch.contiguous_format)
        for piece in pieces(grad_x):  # in pieces, so that the product is still in the cache for the addition
            torch.mul(grad_product[piece], piece_of(gate, piece), out=grad_x[piece]).add_(grad_gate[piece])
        return grad_x, None


class _GateProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, gate_by_thread: GateByThread) -> Tensor:
        ctx.gate_by_thread = gate_by_thread
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, gate = ctx.saved_tensors
        if needs_composite_backward():
            return grad * gate, (grad * x).sum_to_size(gate.shape), None
        needs_x, needs_gate = ctx.needs_input_grad[:2]
        if needs_x:
            ctx.gate_by_thread[get_ident()] = gate
        return grad if needs_x else None, _gate_gradient(grad, x, gate) if needs_gate else None, None


def _gate_gradient(grad: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """Return grad · x, summed over the axes along which the gate broadcasts."""
    axes = [axis for axis in (1, 2, 3) if gate.shape[axis] < x.shape[axis]]
    if not axes:
        return grad * x
    sums = torch.empty_like(gate)
    for piece in pieces(x, *axes):
        torch.sum(grad[piece] * x[piece], axes, True, out=piece_of(sums, piece))
    return sums
