r"""Spatial Group-wise Enhance: in each group, places that resemble the group's mean are strengthened.

    z   = mean_{h,w} x_k                             (B, G, c)            x_k (B, c, H, W), k-th of G groups, c = C/G
    s   = Σ_c z ⊙ x_k                                (B, G, H, W)         how alike                      eq. 2
    ŝ   = (s − mean_{h,w} s)/(std_{h,w} s + 1e-5)    (B, G, H, W)                                        eq. 3
    y_k = x_k ⊙ σ(w_k ŝ + b_k)                       (B, c, H, W)                                        eq. 4, 5

w starts at 0 and b at 1: every gate starts at σ(1) = 0.731. The authors' code, and ours, divides the variance by H·W −
1 and adds ε to the root, where the paper has H·W. On a map of one pixel ŝ is 0.

G is ``groups``, 64 in the authors' networks; ``groups=None`` takes the largest divisor of 64 that divides C.

Source: Li, Hu, Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks", 2019,
arXiv:1905.09646.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.ops.eager import is_eager
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
    """Spatial gate of each group of channels; it passes through ``tap``, (B, G, H, W).

    Args:
        channels: C of the map (B, C, H, W).
        groups: G; None takes 64, or the largest part of 64 that divides C.

    Raises:
        ValueError: ``groups`` does not divide the channels.
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
        """Map x (B, C, H, W) to (B, G, H, W)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # products of float16 overflow
        z = pooled_mean(x, keepdim=True)  # (B, C, 1, 1)
        rows = z.unflatten(1, (self.groups, -1)).flatten(2)[:, :, None]  # (B, G, 1, c)
        s = (rows @ x.unflatten(1, (self.groups, -1)).flatten(3)).view(-1, self.groups, *x.shape[2:])  # (B, G, H, W)
        s = s - pooled_mean(s, keepdim=True)
        std = (
            torch.linalg.vector_norm(s, dim=(2, 3), keepdim=True) / degrees_of_freedom(s) ** 0.5
        )  # its gradient at zero is zero
        return (s / (std + 1e-5) * self.weight[:, None, None] + self.bias[:, None, None]).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x)).to(x.dtype)
        groups = x.unflatten(1, (self.groups, -1))  # (B, G, c, H, W)
        if is_eager(x):
            return gated(groups.flatten(0, 1), gate.flatten(0, 1)[:, None]).view_as(x)
        return (groups * gate[:, :, None]).flatten(1, 2)
