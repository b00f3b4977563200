"""A map times a gate that is made of it, y = x · g(x), with one gradient of x for both of its uses.

Autograd writes dy · g, and then adds to that map what comes back through g. Here x is forked before either use, and
what the product hands back to the fork is dy as it came: the fork has both parts then and writes their sum in one pass.
Nobody else sees that gradient, for the branch of the product ends where it begins.

The fast form is that of contiguous maps on the CPU, as ``saccade.ops.eager`` says; where a gradient is to be
differentiated again (``create_graph=True``), the product hands back its own.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_composed, is_eager, part, pieces
from saccade.ops.gating import gated

__all__ = ["gated_by", "gated_by_definition"]

Handed = dict[int, Tensor]
"""The gate on its way from the product's backward to the fork's, by thread: a graph may be walked by several."""


def gated_by_definition(x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """The product x · gate(x), differentiated by autograd: the referee of ``gated_by``."""
    return x * gate(x)


def gated_by(x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """A map times what a function makes of it.

    Args:
        x: (B, C, H, W).
        gate: called once; its result (B, C | 1, H | 1, W | 1), in the dtype of x, may broadcast.

    Returns:
        (B, C, H, W), x · gate(x).
    """
    if not (is_eager(x) and torch.is_grad_enabled() and x.requires_grad):
        return gated(x, gate(x))
    handed: Handed = {}
    kept, seen = _Fork.apply(x, handed)
    g = gate(seen)
    if is_eager(g) and g.dtype == x.dtype and g.dim() == x.dim() and g.shape[0] == x.shape[0]:
        y: Tensor = _Product.apply(kept, g, handed)
        return y
    return gated(kept, g)


class _Fork(torch.autograd.Function):
    """x for the product and x for the gate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, handed: Handed) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.handed = handed
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, kept: Tensor | None, seen: Tensor | None) -> tuple[Tensor | None, None]:
        if kept is None:
            return seen, None
        gate = None if is_composed() else ctx.handed.pop(get_ident(), None)
        if gate is None:  # kept is a gradient like any other
            return kept if seen is None else kept + seen, None
        if seen is None:
            return kept * gate, None
        if gate.shape == kept.shape:
            return torch.addcmul(seen, kept, gate), None
        grad_x = torch.empty_like(kept, memory_format=torch.contiguous_format)
        for at in pieces(grad_x):  # while a piece of the product is in the cache
            torch.mul(kept[at], part(gate, at), out=grad_x[at]).add_(seen[at])
        return grad_x, None


class _Product(torch.autograd.Function):
    """The product of a fork's first branch and the gate; see the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, handed: Handed) -> Tensor:
        ctx.handed = handed
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, gate = ctx.saved_tensors
        if is_composed():
            return grad * gate, (grad * x).sum_to_size(gate.shape), None
        of_x, of_gate = ctx.needs_input_grad[:2]
        if of_x:
            ctx.handed[get_ident()] = gate
        return grad if of_x else None, _of_gate(grad, x, gate) if of_gate else None, None


def _of_gate(grad: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """The sum of grad · x over the axes along which the gate broadcasts."""
    axes = [axis for axis in (1, 2, 3) if gate.shape[axis] < x.shape[axis]]
    if not axes:
        return grad * x
    sums = torch.empty_like(gate)
    for at in pieces(x, *axes):
        torch.sum(grad[at] * x[at], axes, True, out=part(sums, at))
    return sums
