r"""A map times gates of its rows and of its columns, which are made of the means of its rows and of its columns.

    r, c = g(mean_w x, mean_h x)                (B, C, H, 1), (B, C, 1, W)
    y = x · (r · c)                             (B, C, H, W)

Backward, dr = Σ_w dy·x·c, dc = Σ_h dy·x·r and dx = dy·r·c + what comes back through the means, dz_r/W + dz_c/H.
Autograd writes some ten maps for that; here dx is the only one, in pieces that stay in the cache. As in
``saccade.ops.branch`` x is forked before its uses, and the product hands back dy and its factors to the fork, which
writes the sum of all parts.
``cross_gated_definition`` writes the function down. The fast form runs where ``saccade.ops.eager`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_composed, is_eager, part, pieces
from saccade.ops.gating import pooled_mean

__all__ = ["cross_gated", "cross_gated_definition"]

Gates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Handed = dict[int, tuple[Tensor, Tensor]]
"""Both factors on their way from the product's backward to the fork's, by thread: a graph may be walked by several."""


def cross_gated_definition(x: Tensor, gates: Gates) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``cross_gated``."""
    rows, columns = gates(x.mean(3, keepdim=True), x.mean(2, keepdim=True))
    return x * (rows * columns)


def cross_gated(x: Tensor, gates: Gates) -> Tensor:
    """A map times what a function makes of the means of its rows and of its columns.

    Args:
        x: (B, C, H, W).
        gates: called once with (B, C, H, 1) and (B, C, 1, W); its two results have these shapes, in the dtype of x.

    Returns:
        (B, C, H, W).
    """
    if not (is_eager(x) and x.dtype in (torch.float32, torch.float64) and x.numel()):
        return cross_gated_definition(x, gates)
    if torch.is_grad_enabled() and x.requires_grad:
        handed: Handed = {}
        kept, *means = _Fork.apply(x, handed)
        rows, columns = gates(*means)
        if is_eager(rows, columns) and rows.dtype == columns.dtype == x.dtype:
            y: Tensor = _Product.apply(kept, rows, columns, handed)
            return y
        return kept * (rows * columns)
    rows, columns = gates(pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True))
    gate = rows * columns
    return x * gate if gate.requires_grad or gate.dtype != x.dtype else gate.mul_(x)


class _Fork(torch.autograd.Function):
    """x for the product, and its means for the gates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, handed: Handed) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.handed, ctx.shape = handed, x.shape
        return x.view_as(x), pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True)

    @staticmethod
    def backward(ctx: Any, kept: Tensor | None, *of_means: Tensor | None) -> tuple[Tensor | None, None]:
        counts = ctx.shape[3], ctx.shape[2]
        spread = [of / count for of, count in zip(of_means, counts, strict=True) if of is not None]
        factors = None if is_composed() else ctx.handed.pop(get_ident(), None)
        if kept is None or factors is None:  # kept is a gradient like any other
            parts = [each for each in (kept, *spread) if each is not None]
            return sum(parts[1:], parts[0].expand(ctx.shape)) if parts else None, None
        grad_x = torch.empty_like(kept, memory_format=torch.contiguous_format)
        for at in pieces(grad_x):
            torch.mul(*(part(factor, at) for factor in factors), out=grad_x[at]).mul_(kept[at])
            for each in spread:
                grad_x[at].add_(part(each, at))
        return grad_x, None


class _Product(torch.autograd.Function):
    """The product of a fork's first branch and both gates; see the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, handed: Handed) -> Tensor:
        ctx.handed = handed
        ctx.save_for_backward(x, rows, columns)
        return (rows * columns).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, columns = ctx.saved_tensors
        if is_composed():
            slope = grad * x
            by_row, by_column = (slope * columns).sum(3, keepdim=True), (slope * rows).sum(2, keepdim=True)
            return grad * (rows * columns), by_row, by_column, None
        ctx.handed[get_ident()] = rows, columns
        by_row, by_column = torch.empty_like(rows), torch.empty_like(columns)
        for at in pieces(x, 2, 3):
            slope = grad[at] * x[at]
            scratch = slope * columns[at]
            torch.sum(scratch, 3, True, out=by_row[at])
            torch.sum(torch.mul(slope, rows[at], out=scratch), 2, True, out=by_column[at])
        return grad, by_row, by_column, None
