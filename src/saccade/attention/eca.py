r"""Efficient Channel Attention: a channel gate from a 1-D convolution over the channels.

    z = mean_{h,w} x                       (B, C)
    s = σ(Conv1d_k(z))                     (B, C), no bias                eq. 9
    k = t if t is odd, else t + 1;  t = ⌊|log₂(C)/γ + b/γ|⌋               eq. 12
    y = s ⊙ x                              (B, C, H, W)

γ is ``gamma`` = 2, b is ``beta`` = 1. The authors' networks set ``kernel_size`` per stage instead of equation 12.

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
arXiv:1910.03151.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from saccade.bases import Gate
from saccade.ops.gating import pooled_mean

__all__ = ["EfficientChannelAttention"]

SPEC = {
    "name": "eca",
    "title": "Efficient Channel Attention",
    "paper": {"authors": "Wang, Wu, Zhu, Li, Zuo, Hu",
              "title": "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", "venue": "CVPR",
              "year": 2020, "arxiv": "1910.03151"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["BangguWu/ECANet"],
    "position": {"default": "residual"},
    "limits": ["gamma must be positive", "kernel_size must be odd and positive"],
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 24.37, "macs": 3.86, "top1": 77.48, "unit": "2^20, 2^30",
         "note": "kernel_size=[3, 5, 5, 7]", "source": "ECA-Net paper, table 3"},
        {"net": "resnet18", "params": 11.15, "macs": 1.70, "top1": 70.92, "unit": "2^20, 2^30",
         "note": "kernel_size=[3, 5, 7, 7]", "source": "ECANet README"},
    ],
    "timm": "eca",
}  # fmt: skip


def parameters(channels: int, kernel_size: int | None, gamma: float, beta: float) -> int:
    return kernel_size or int(abs((math.log2(channels) + beta) / gamma)) | 1


class EfficientChannelAttention(Gate):
    """Channel gate from a 1-D convolution.

    Args:
        channels: C.
        kernel_size: k, odd; None computes it from equation 12.
        gamma: γ of equation 12, positive.
        beta: b of equation 12.

    Raises:
        ValueError: ``kernel_size`` is even or not positive, or ``gamma`` is not positive.
    """

    def __init__(self, channels: int, kernel_size: int | None = None, gamma: float = 2, beta: float = 1) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        k = int(abs((math.log2(channels) + beta) / gamma)) | 1 if kernel_size is None else kernel_size
        if k < 1 or k % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {k}")
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1)."""
        z = pooled_mean(x)
        s = self.conv(z[:, None])[:, 0].sigmoid()
        return s[:, :, None, None]
