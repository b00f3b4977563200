r"""Efficient Multi-scale Attention: two branches in each group of channels weigh each other into a spatial gate.

    x = [x_1, …, x_G]                                      each (B, c, H, W), c = C/G; all layers serve every group
    [h; w] = W₁[mean_w x; mean_h x] + b₁                   (B, c, H), (B, c, W)          one layer for both sides
    u = γ ⊙ norm_{h,w}(x ⊙ σ(h) ⊙ σ(w)) + β                (B, c, H, W)                  1×1 branch
    v = W₃ ∗ x + b₃                                        (B, c, H, W), 3×3             3×3 branch
    s = softmax_c(mean_{h,w} u) · v + softmax_c(mean_{h,w} v) · u      (B, 1, H, W)      cross-spatial learning
    y = x ⊙ σ(s)                                           (B, C, H, W)

norm takes each map to mean 0 and variance 1 (ε = 1e-5), as the authors' group norm does. So the mean of u is β and the
first softmax a constant: its product is one convolution with a single output, Σ_c softmax(β)_c (W₃)_c. The mean of v is
that of a convolution with zeros outside, made of sums of x. v itself is formed only where a hook or wrapper acts on its
layer; values and gradients are the same.

G is ``groups``, the authors' factor, 32 in their listing; ``groups=None`` takes the largest divisor of 32 that divides
C. With c = 1 both softmaxes are 1. The short name, ``emattn``, avoids that of the moving average.

Source: Ouyang, He, Zhang, Luo, Guo, Zhan, Huang, "Efficient Multi-Scale Attention Module with Cross-Spatial Learning",
ICASSP 2023, arXiv:2305.13563.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import is_plain_layer
from saccade.ops.gating import narrow_conv2d, pooled_mean

__all__ = ["EfficientMultiScaleAttention"]

SPEC = {
    "name": "emattn",
    "title": "Efficient Multi-scale Attention",
    "paper": {"authors": "Ouyang, He, Zhang, Luo, Guo, Zhan, Huang",
              "title": "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", "venue": "ICASSP",
              "year": 2023, "arxiv": "2305.13563"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "residual"},
    "limits": ["groups must divide channels"],
    "gate": (0.0, 1.0),
}  # fmt: skip


def parameters(channels: int, groups: int | None) -> int:
    each = channels // (groups or math.gcd(32, channels))
    return 10 * each**2 + 4 * each


class EfficientMultiScaleAttention(nn.Module):
    """A spatial gate for each group of channels, from a branch of means and a 3×3 branch that weigh each other.

    The gates pass through ``tap``, (B, G, H, W).

    Args:
        channels: C of the map (B, C, H, W).
        groups: G; None takes 32, or the largest part of 32 that divides C.

    Raises:
        ValueError: ``channels`` does not divide by ``groups``.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels) if groups is None else groups
        if self.groups < 1 or channels % self.groups:
            raise ValueError(f"groups must divide channels, got {groups} and {channels}")
        each = channels // self.groups
        self.sides = nn.Conv2d(each, each, 1)
        self.near = nn.Conv2d(each, each, 3, padding=1)
        self.norm_weight = nn.Parameter(torch.ones(each))
        self.norm_bias = nn.Parameter(torch.zeros(each))
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, G, H, W)."""
        height, width = x.shape[2:]
        x = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (B·G, c, H, W)
        rows, columns = pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True)  # (…, H, 1), (…, 1, W)
        h, w = self.sides(torch.cat([rows, columns.mT], 2)).sigmoid().split([height, width], 2)
        u = torch.group_norm(x * h.to(x.dtype) * w.mT.to(x.dtype), x.shape[1], self.norm_weight, self.norm_bias)

        first = self.norm_bias.softmax(0)  # the mean of u over the map is β
        if is_plain_layer(self.near):
            assert self.near.bias is not None
            flat = self.near.weight.flatten(1)
            kernel = (first @ flat).view_as(self.near.weight[:1])
            seen_by_u = narrow_conv2d(x, kernel, (first @ self.near.bias)[None])  # (B·G, 1, H, W)
            mean_v = F.linear(_window_means(x, columns).flatten(1), flat, self.near.bias)
        else:
            v = self.near(x)
            seen_by_u = (first[:, None, None] * v).sum(1, keepdim=True)
            mean_v = v.mean((2, 3))
        second = mean_v.softmax(1)
        seen_by_v = (second[:, None] @ u.flatten(2)).unflatten(2, x.shape[2:])
        return (seen_by_u + seen_by_v).sigmoid().unflatten(0, (-1, self.groups))[:, :, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x)).to(x.dtype)
        return (x.unflatten(1, (self.groups, -1)) * gate[:, :, None]).flatten(1, 2)


def _window_means(x: Tensor, columns: Tensor) -> Tensor:
    """What each tap of a 3×3 kernel sees of x (n, c, H, W), zeros outside, in the mean over the map: (n, c, 3, 3).

    ``columns`` (n, c, 1, W) are the means of the columns. The upper taps do not see the last row, the lower ones not
    the first; so with the left, the right and the columns.
    """
    height, width = x.shape[2:]
    down = torch.cat([columns - x[:, :, -1:] / height, columns, columns - x[:, :, :1] / height], 2)  # (n, c, 3, W)
    every = down.mean(3, keepdim=True)
    return torch.cat([every - down[..., -1:] / width, every, every - down[..., :1] / width], 3)
