r"""Large Kernel Attention: a gate of the map's own shape, from a decomposed 21×21 convolution.

    u = Conv_{1×1}(DWConv_{k×k, d}(DWConv_{(2d−1)×(2d−1)}(x)))       (B, C, H, W)                     eq. 1
    y = x ⊙ u                                                                                          eq. 2

A K×K depthwise convolution is cut into a depthwise one of 2d − 1, a depthwise one of k = ⌈K/d⌉ taps at distance d, and
1×1; K = 21, d = 3 give 5×5, 7×7 dilated by 3, and 1×1. All have a bias; zeros stand outside the map; k is odd, or the
map would shift. The gate is unbounded and may be negative.

This is ``AttentionModule`` of the authors' code, without the 1×1 layers, GELU, sum and batch norm of their block. The
paper plugs it into no CNN: the position is ours.

Source: Guo, Lu, Liu, Cheng, Hu, "Visual Attention Network", Computational Visual Media 2023, arXiv:2202.09741; the
authors' code, Visual-Attention-Network/VAN-Classification.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from saccade.bases import Gate

__all__ = ["LargeKernelAttention"]

SPEC = {
    "name": "lka",
    "title": "Large Kernel Attention",
    "paper": {"authors": "Guo, Lu, Liu, Cheng, Hu", "title": "Visual Attention Network",
              "venue": "Computational Visual Media", "year": 2023, "arxiv": "2202.09741"},
    "kind": "transform",
    "evidence": "paper",
    "position": {"default": "residual"},
    "limits": ["dilation must be positive", "kernel_size / dilation must be odd and positive, rounded up"],
}  # fmt: skip


def parameters(channels: int, kernel_size: int, dilation: int) -> int:
    return channels * ((2 * dilation - 1) ** 2 + math.ceil(kernel_size / dilation) ** 2 + channels + 3)


class LargeKernelAttention(Gate):
    """x times what two depthwise convolutions, one of them dilated, and a 1×1 convolution make of x.

    Args:
        channels: C of the map (B, C, H, W).
        kernel_size: K, the side of the convolution that the depthwise two stand for, in pixels.
        dilation: d, the distance between the taps of the second; the first has 2d − 1.

    Raises:
        ValueError: ``dilation`` or ``kernel_size`` is not positive, or ⌈kernel_size/dilation⌉ is even.
    """

    def __init__(self, channels: int, kernel_size: int = 21, dilation: int = 3) -> None:
        super().__init__()
        if dilation < 1:
            raise ValueError(f"dilation must be positive, got {dilation}")
        taps = -(-kernel_size // dilation)
        if kernel_size < 1 or taps % 2 == 0:
            raise ValueError(
                f"kernel_size / dilation must be odd and positive, rounded up, got {kernel_size} / {dilation}: {taps}"
            )
        near, reach = 2 * dilation - 1, dilation * (taps // 2)
        self.near = nn.Conv2d(channels, channels, near, padding=dilation - 1, groups=channels)
        self.far = nn.Conv2d(channels, channels, taps, padding=reach, dilation=dilation, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        for conv in (self.near, self.far, self.mix):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.weight[:, 0].numel() * conv.groups))
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), unbounded."""
        gate: Tensor = self.mix(self.far(self.near(x)))
        return gate
