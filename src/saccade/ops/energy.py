r"""The gate of SimAM: how far each value stands out from its map, σ(d / 4(v + λ) + 1/2).

    c = x − mean x,  d = c²,  v = Σ d / (H·W − 1),  s = 4 (v + λ)                  over H and W
    g = σ(d / s + 1/2)

Backward, with e = dg · g (1 − g) and q = e · c, N = H·W:

    a = 2/s · q − c · 8 Σ(q · c) / (s² (N − 1)),  dx = a − Σ a / N

Autograd needs some fifteen passes over the map for that; here both directions go map by map through the cache. The fast
form is that of contiguous maps of float32 and float64 on the CPU, as ``saccade.ops.eager`` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saccade.ops.eager import is_composed, is_eager, pieces
from saccade.ops.gating import others

__all__ = ["energy_gate", "energy_gate_definition"]


def energy_gate_definition(x: Tensor, e_lambda: float) -> Tensor:
    """The gate as it is written, differentiated by autograd: the referee of ``energy_gate``."""
    d = (x - x.mean((2, 3), keepdim=True)).square()
    v = d.sum((2, 3), keepdim=True) / others(x)  # (B, C, 1, 1)
    return (d / (4 * (v + e_lambda)) + 0.5).sigmoid()


def energy_gate(x: Tensor, e_lambda: float) -> Tensor:
    """The gate of each value by its squared distance from the mean of its map.

    Args:
        x: (B, C, H, W), of float32 or float64.
        e_lambda: λ, in the unit of the variance, positive.

    Returns:
        (B, C, H, W).
    """
    if is_eager(x) and x.dtype in (torch.float32, torch.float64) and x.numel():
        gate: Tensor = _EnergyGate.apply(x, e_lambda)
        return gate
    return energy_gate_definition(x, e_lambda)


class _EnergyGate(torch.autograd.Function):
    """Both directions in pieces of whole maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, e_lambda: float) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        scale, gate = torch.empty_like(mean), torch.empty_like(x)
        for at in pieces(x, 2, 3):
            d = torch.sub(x[at], mean[at], out=gate[at]).square_()
            torch.sum(d, (2, 3), True, out=scale[at]).div_(others(x)).add_(e_lambda)
            d.div_(scale[at].mul_(4)).add_(0.5).sigmoid_()
        ctx.e_lambda = e_lambda
        ctx.save_for_backward(x, mean, scale, gate)
        return gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, mean, scale, gate = ctx.saved_tensors
        if is_composed():
            with torch.enable_grad():
                again = energy_gate_definition(x, ctx.e_lambda)
            return torch.autograd.grad(again, x, grad, create_graph=torch.is_grad_enabled())[0], None
        grad_x = torch.empty_like(x)
        for at in pieces(x, 2, 3):
            c = x[at] - mean[at]
            q = torch.ops.aten.sigmoid_backward(grad[at], gate[at]).mul_(c)
            slope = 2 / scale[at]
            into = torch.mul(q, c, out=grad_x[at])
            pull = into.sum((2, 3), True).mul_(slope).div_(scale[at]).mul_(4 / others(x))
            torch.mul(q, slope, out=into).sub_(c.mul_(pull))
            into.sub_(into.mean((2, 3), keepdim=True))
        return grad_x, None
