r"""The gate of SimAM, σ(d / 4(v + λ) + 1/2), from the squared distance d of each value to the mean of its channel.

    c = x − mean x,  d = c²,  v = Σ d / (H·W − 1),  s = 4 (v + λ)                  over H and W
    g = σ(d / s + 1/2)

Backward, with e = dg · g (1 − g) and q = e · c, N = H·W:

    a = 2/s · q − c · 8 Σ(q · c) / (s² (N − 1)),  dx = a − Σ a / N

Autograd needs some fifteen passes over the map. Here both passes process a few channels at a time, in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import can_use_pieces, needs_composite_backward, pieces
from saccade.ops.gating import degrees_of_freedom

__all__ = ["energy_gate", "energy_gate_definition"]


def energy_gate_definition(x: Tensor, e_lambda: float) -> Tensor:
    """Reference implementation of ``energy_gate`` for x (B, C, H, W)."""
    d = (x - x.mean((2, 3), keepdim=True)).square()
    v = d.sum((2, 3), keepdim=True) / degrees_of_freedom(x)  # (B, C, 1, 1)
    return (d / (4 * (v + e_lambda)) + 0.5).sigmoid()


def energy_gate(x: Tensor, e_lambda: float) -> Tensor:
    """Return the gate of each value, computed from its squared distance to the mean of its channel.

    Args:
        x: (B, C, H, W), float32 or float64.
        e_lambda: λ, in the unit of the variance, positive.

    Returns:
        (B, C, H, W).
    """
    if can_use_pieces(x) and x.dtype in (torch.float32, torch.float64) and x.numel():
        gate: Tensor = _EnergyGate.apply(x, e_lambda)
        return gate
    return energy_gate_definition(x, e_lambda)


class _EnergyGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, e_lambda: float) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        scale, gate = torch.empty_like(mean), torch.empty_like(x)
        for piece in pieces(x, 2, 3):
            d = torch.sub(x[piece], mean[piece], out=gate[piece]).square_()
            torch.sum(d, (2, 3), True, out=scale[piece]).div_(degrees_of_freedom(x)).add_(e_lambda)
            d.div_(scale[piece].mul_(4)).add_(0.5).sigmoid_()
        ctx.e_lambda = e_lambda
        ctx.save_for_backward(x, mean, scale, gate)
        return gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, mean, scale, gate = ctx.saved_tensors
        if needs_composite_backward():
            with torch.enable_grad():
                recomputed = energy_gate_definition(x, ctx.e_lambda)
            return torch.autograd.grad(recomputed, x, grad, create_graph=torch.is_grad_enabled())[0], None
        grad_x = torch.empty_like(x)
        for piece in pieces(x, 2, 3):
            c = x[piece] - mean[piece]
            q = torch.ops.aten.sigmoid_backward(grad[piece], gate[piece]).mul_(c)
            two_over_scale = 2 / scale[piece]
            grad_piece = torch.mul(q, c, out=grad_x[piece])
            correction = (
                grad_piece.sum((2, 3), True).mul_(two_over_scale).div_(scale[piece]).mul_(4 / degrees_of_freedom(x))
            )
            torch.mul(q, two_over_scale, out=grad_piece).sub_(c.mul_(correction))
            grad_piece.sub_(grad_piece.mean((2, 3), keepdim=True))
        return grad_x, None
