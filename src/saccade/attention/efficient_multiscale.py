r"""Efficient Multi-scale Attention: two branches weight each other to form a spatial gate per channel group.

    x = [x_1, …, x_G]                                      (B, c, H, W) each, c = C/G; groups share all layers
    [h; w] = W₁[mean_w x; mean_h x] + b₁                   (B, c, H), (B, c, W)
    u = γ ⊙ norm_{h,w}(x ⊙ σ(h) ⊙ σ(w)) + β                (B, c, H, W), 1×1 branch
    v = W₃ ∗ x + b₃                                        (B, c, H, W), 3×3 branch
    s = softmax_c(mean_{h,w} u) · v + softmax_c(mean_{h,w} v) · u      (B, 1, H, W)
    y = x ⊙ σ(s)                                           (B, C, H, W)

norm gives each channel mean 0 and variance 1 (ε = 1e-5), so the mean of u is β. Unless the layer W₃ has a hook or
wrapper, softmax_c(β) · v is computed by a convolution with one output channel, without v.

Source: Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
arXiv:2305.13563.
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
    group_channels = channels // (groups or math.gcd(32, channels))
    return 10 * group_channels**2 + 4 * group_channels


class EfficientMultiScaleAttention(nn.Module):
    """Spatial gate per group of channels.

    Args:
        channels: C.
        groups: G; None means gcd(32, C).

    Raises:
        ValueError: ``groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels) if groups is None else groups
        if self.groups < 1 or channels % self.groups:
            raise ValueError(f"groups must divide channels, got {groups} and {channels}")
        group_channels = channels // self.groups
        self.sides = nn.Conv2d(group_channels, group_channels, 1)  # W₁, of row and column means
        self.near = nn.Conv2d(group_channels, group_channels, 3, padding=1)  # W₃
        self.norm_weight = nn.Parameter(torch.ones(group_channels))  # γ
        self.norm_bias = nn.Parameter(torch.zeros(group_channels))  # β
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, G, H, W)."""
        height, width = x.shape[2:]
        x = x.unflatten(1, (self.groups, -1)).flatten(0, 1)
        rows, columns = pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True)  # (…, H, 1), (…, 1, W)
        row_gate, column_gate = self.sides(torch.cat([rows, columns.mT], 2)).sigmoid().split([height, width], 2)
        u = torch.group_norm(
            x * row_gate.to(x.dtype) * column_gate.mT.to(x.dtype), x.shape[1], self.norm_weight, self.norm_bias
        )

        v_weights = self.norm_bias.softmax(0)  # the mean of u over the pixels is β
        if is_plain_layer(self.near):
            assert self.near.bias is not None
            flat_weight = self.near.weight.flatten(1)
            kernel = (v_weights @ flat_weight).view_as(self.near.weight[:1])
            weighted_v = narrow_conv2d(x, kernel, (v_weights @ self.near.bias)[None])
            mean_v = F.linear(_kernel_element_means(x, columns).flatten(1), flat_weight, self.near.bias)
        else:
            v = self.near(x)
            weighted_v = (v_weights[:, None, None] * v).sum(1, keepdim=True)
            mean_v = v.mean((2, 3))
        u_weights = mean_v.softmax(1)
        weighted_u = (u_weights[:, None] @ u.flatten(2)).unflatten(2, x.shape[2:])
        return (weighted_v + weighted_u).sigmoid().unflatten(0, (-1, self.groups))[:, :, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x)).to(x.dtype)
        return (x.unflatten(1, (self.groups, -1)) * gate[:, :, None]).flatten(1, 2)


def _kernel_element_means(x: Tensor, columns: Tensor) -> Tensor:
    """Return the means (n, c, 3, 3) of x (n, c, H, W), zero-padded, under each element of a 3×3 kernel.

    ``columns`` (n, c, 1, W) are the column means. The upper kernel row misses the last row of x, the lower the first.
    """
    height, width = x.shape[2:]
    rows = torch.cat([columns - x[:, :, -1:] / height, columns, columns - x[:, :, :1] / height], 2)  # (n, c, 3, W)
    means = rows.mean(3, keepdim=True)
    return torch.cat([means - rows[..., -1:] / width, means, means - rows[..., :1] / width], 3)
