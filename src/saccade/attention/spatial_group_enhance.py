r"""Spatial Group-wise Enhance: in each group, positions similar to the group's mean are strengthened.

    z_k = mean_{h,w} x_k                             (B, c)               x_k (B, c, H, W), k-th of G groups, c = C/G
    s_k = Σ_c z_k ⊙ x_k                              (B, H, W)            similarity                     eq. 2
    ŝ_k = (s_k − mean_{h,w} s_k)/(std_{h,w} s_k + 1e-5)    (B, H, W)                                      eq. 3
    y_k = x_k ⊙ σ(w_k ŝ_k + b_k)                     (B, c, H, W)                                        eq. 4, 5

w starts at 0 and b at 1, so every gate starts at σ(1) = 0.731. The variance has H·W − 1 degrees of freedom, as in the
authors' code; the paper has H·W. On a map of one pixel ŝ_k = 0.

Source: Li et al., "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks", 2019,
arXiv:1905.09646.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.ops.eager import can_use_pieces
from saccade.ops.gating import degrees_of_freedom, gated, pooled_mean

__all__ = ["SpatialGroupEnhance"]

SPEC = {
    "name": "sge",
    "title": "Spatial Group-wise Enhance",
    "paper": {"authors": "Li, Hu, Yang",
              "title": "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
              "venue": "arXiv", "year": 2019, "arxiv": "1905.09646"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["implus/PytorchInsight"],
    "position": {"default": "residual"},
    "limits": ["groups must divide channels"],
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, groups: int | None) -> int:
    return 2 * (groups or math.gcd(64, channels))


class SpatialGroupEnhance(nn.Module):
    """Spatial gate per group of channels.

    Args:
        channels: C.
        groups: G; None means gcd(64, C).

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = math.gcd(64, channels) if groups is None else groups
        if self.groups < 1 or channels % self.groups:
            raise ValueError(f"groups must divide channels, got {groups} and {channels}")
        self.weight = nn.Parameter(torch.zeros(self.groups))
        self.bias = nn.Parameter(torch.ones(self.groups))
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, G, H, W)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # products of float16 overflow
        z = pooled_mean(x, keepdim=True)
        group_means = z.unflatten(1, (self.groups, -1)).flatten(2)[:, :, None]  # (B, G, 1, c)
        s = (group_means @ x.unflatten(1, (self.groups, -1)).flatten(3)).view(-1, self.groups, *x.shape[2:])
        s = s - pooled_mean(s, keepdim=True)
        # At s = 0 ``vector_norm`` has gradient 0, ``sqrt`` an infinite one.
        std = torch.linalg.vector_norm(s, dim=(2, 3), keepdim=True) / degrees_of_freedom(s) ** 0.5
        return (s / (std + 1e-5) * self.weight[:, None, None] + self.bias[:, None, None]).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x)).to(x.dtype)
        grouped_x = x.unflatten(1, (self.groups, -1))
        if can_use_pieces(x):  # ``gated`` has a backward pass in pieces
            return gated(grouped_x.flatten(0, 1), gate.flatten(0, 1)[:, None]).view_as(x)
        return (grouped_x * gate[:, :, None]).flatten(1, 2)
