r"""Shuffle Attention: half the channels get a channel gate, half a spatial gate; a shuffle follows.

    x = [x_1, …, x_G], x_k = [a_k; b_k]                      a_k, b_k: (B, c, H, W), c = C/(2G)
    a_k' = a_k ⊙ σ(w_a ⊙ mean_{h,w} a_k + u_a)               gate (B, c, 1, 1)                     eq. 2
    b_k' = b_k ⊙ σ(w_b ⊙ GN(b_k) + u_b)                      gate (B, c, H, W)                     eq. 3
    y    = shuffle₂[a_1'; b_1'; …; a_G'; b_G']               channel 2i + j is channel j·C/2 + i of [·], i < C/2, j < 2

GN normalises each channel, then scales and shifts it. The groups share all parameters; w start at 0 and u at 1, so
every gate starts at σ(1) = 0.731. The paper has G = 64.

Source: Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021, arXiv:2102.00240.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.ops.gating import gated_and_shuffled, pooled_mean

__all__ = ["ShuffleAttention"]

SPEC = {
    "name": "sa",
    "title": "Shuffle Attention",
    "paper": {"authors": "Zhang, Yang", "title": "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
              "venue": "ICASSP", "year": 2021, "arxiv": "2102.00240"},
    "kind": "transform",
    "evidence": "oracle",
    "code": ["wofmanaf/SA-Net"],
    "position": {"default": "residual"},
    "limits": ["channels must be even", "2 * groups must divide channels"],
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 25.56, "top1": 77.88, "source": "SA-Net README"},
    ],
}  # fmt: skip


def parameters(channels: int, groups: int | None) -> int:
    return 3 * channels // (groups or math.gcd(64, channels // 2))


class ShuffleAttention(nn.Module):
    """Channel gates and spatial gates, followed by a channel shuffle.

    Args:
        channels: C, even.
        groups: G; None means gcd(64, C/2).

    Raises:
        ValueError: ``channels`` is odd or not divisible by 2 · ``groups``.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even, got {channels}")
        self.groups = math.gcd(64, channels // 2) if groups is None else groups
        if self.groups < 1 or channels % (2 * self.groups):
            raise ValueError(f"2 * groups must divide channels, got 2 * {groups} and {channels}")
        branch_channels = channels // (2 * self.groups)
        self.channel_weight = nn.Parameter(torch.zeros(branch_channels))
        self.channel_bias = nn.Parameter(torch.ones(branch_channels))
        self.spatial_weight = nn.Parameter(torch.zeros(branch_channels))
        self.spatial_bias = nn.Parameter(torch.ones(branch_channels))
        self.norm_weight = nn.Parameter(torch.ones(branch_channels))
        self.norm_bias = nn.Parameter(torch.zeros(branch_channels))
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), before the shuffle."""
        a, b = x.unflatten(1, (self.groups, 2, -1)).unbind(2)  # (B, G, c, H, W) each
        # Fold w_b and u_b into the scale and the shift of the group norm.
        scale = (self.spatial_weight * self.norm_weight).repeat(self.groups)
        shift = (self.spatial_weight * self.norm_bias + self.spatial_bias).repeat(self.groups)
        b_maps = b.flatten(1, 2)
        spatial = torch.group_norm(b_maps, len(scale), scale, shift, 1e-5).sigmoid().view_as(b)
        mean = pooled_mean(a, (3, 4), keepdim=True)
        channel = (mean * self.channel_weight[:, None, None] + self.channel_bias[:, None, None]).sigmoid()
        return torch.stack([channel.expand_as(spatial), spatial], 2).flatten(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x))
        return gated_and_shuffled(x, gate.to(x.dtype))
