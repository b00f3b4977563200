r"""Triplet Attention: the mean of three spatial gates, over (H, W), (C, W) and (H, C).

    Z_d(x) = [max_d x; mean_d x]                    axis d is replaced by two channels
    g_H = σ(BN(Conv_{k×k}(Z_H(x))))                 over (C, W), permuted back: (B, C, 1, W)
    g_W = σ(BN(Conv_{k×k}(Z_W(x))))                 over (H, C), permuted back: (B, C, H, 1)
    g_C = σ(BN(Conv_{k×k}(Z_C(x))))                 over (H, W):                (B, 1, H, W)
    y   = x ⊙ (g_H + g_W + g_C)/3                   (B, C, H, W)

Convolutions have no bias; k = 7, but 3 in the authors' best MobileNetV2. The authors' code adds the batch norm
(momentum 0.01). Its scale in g_C starts at zero, so g_C starts at 1/2. ``no_spatial=True`` averages g_H
and g_W only.

Source: Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021, arXiv:2010.03045.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate
from saccade.ops.gating import max_and_mean, narrow_conv

__all__ = ["TripletAttention"]

SPEC = {
    "name": "triplet",
    "title": "Triplet Attention",
    "paper": {"authors": "Misra, Nalamada, Arasanipalai, Hou",
              "title": "Rotate to Attend: Convolutional Triplet Attention Module", "venue": "WACV", "year": 2021,
              "arxiv": "2010.03045"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["LandskapeAI/triplet-attention"],
    "position": {"default": "residual"},
    "limits": ["kernel_size must be odd and positive"],
    "gate": (0.0, 1.0),
    "published": [
        {"net": "resnet50", "params": 25.56, "macs": 4.169, "top1": 77.48, "source": "triplet-attention README"},
        {"net": "resnet18", "params": 11.69, "macs": 1.825, "top1": 71.09, "source": "triplet-attention README"},
        {"net": "mobilenet_v2", "params": 3.506, "macs": 0.322, "top1": 72.62, "note": "kernel_size=3",
         "source": "triplet-attention README"},
    ],
}  # fmt: skip


def parameters(kernel_size: int, no_spatial: bool) -> int:
    return (2 if no_spatial else 3) * (2 * kernel_size**2 + 2)


class TripletAttention(Gate):
    """Mean of the gates over (C, W), (H, C) and (H, W).

    Args:
        channels: C, unused.
        kernel_size: k, odd.
        no_spatial: True leaves out g_C.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, channels: int, kernel_size: int = 7, no_spatial: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.height = _Plane(kernel_size)  # g_H
        self.width = _Plane(kernel_size)  # g_W
        self.channel = None if no_spatial else _Plane(kernel_size)  # g_C
        if self.channel is not None:
            nn.init.zeros_(self.channel.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        axes = (2, 3) if self.channel is None else (2, 3, 1)
        pooled = max_and_mean(x, *((axis,) for axis in axes))
        pooled_maps = [torch.stack(pooled[2 * i : 2 * i + 2], 1).squeeze(axis + 1) for i, axis in enumerate(axes)]
        height_gate = self.height(pooled_maps[0]).transpose(1, 2)
        width_gate = self.width(pooled_maps[1].transpose(2, 3)).permute(0, 3, 2, 1)
        gate: Tensor = height_gate / len(axes) + width_gate / len(axes)
        return gate if self.channel is None else gate.add_(self.channel(pooled_maps[2]) / 3)


class _Plane(nn.Module):
    """Gate σ(BN(Conv)) over one plane: (B, 2, ·, ·) -> (B, 1, ·, ·)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = BatchNorm2d(1, momentum=0.01)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")

    def forward(self, z: Tensor) -> Tensor:
        gate: Tensor = self.bn(narrow_conv(self.conv, z.contiguous())).sigmoid()
        return gate
