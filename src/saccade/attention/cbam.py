r"""Convolutional Block Attention Module: first which channels, then which places.

    M_c = σ(MLP(mean_{h,w} x) + MLP(max_{h,w} x))      (B, C, 1, 1)      eq. 2, one MLP for both
    x'  = M_c ⊙ x
    M_s = σ(BN(Conv_{7×7}([max_c x'; mean_c x'])))     (B, 1, H, W)      eq. 3
    y   = M_s ⊙ x'                                     (B, C, H, W)

MLP: C -> C·rd_ratio -> C with bias and a ReLU between. The batch norm (momentum 0.01), the order [max; mean] and
the start of its scale at zero, so that M_s is 1/2 everywhere, come from the authors' code; equation 3 prints none
of them. A map thinner than 1/rd_ratio is refused; the authors' code builds layers of no unit there.

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.form import BatchNorm2d, Gate
from saccade.ops.gating import gated, max_and_mean, narrow_conv

__all__ = ["ConvBlockAttention"]

SPEC = {
    "title": "Convolutional Block Attention Module",
    "paper": {
        "authors": "Woo, Park, Lee, Kweon",
        "title": "CBAM: Convolutional Block Attention Module",
        "venue": "ECCV",
        "year": 2018,
        "arxiv": "1807.06521",
    },
    "kind": "gate",
    "evidence": "oracle",
    "position": {"default": "residual"},
    "params": "2*C*int(C*rd_ratio) + C + int(C*rd_ratio) + 2*spatial_kernel_size**2 + 2",
    "limits": ["C * rd_ratio >= 1", "spatial_kernel_size >= 1 and spatial_kernel_size % 2 == 1"],
    "gate": (0.0, 1.0),
    "published": [
        {"net": "resnet50", "params": 28.09, "macs": 4.139, "top1": 77.34, "source": "attention-module README"},
        {"net": "resnet18", "params": 11.234, "macs": 1.695, "top1": 70.73, "unit": "2^20, 2^30",
         "source": "EMCA README"},
    ],
    "timm": "cbam",
}  # fmt: skip


class ConvBlockAttention(Gate):
    """Channel gate, then spatial gate.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of the bottleneck as a part of C, rounded down.
        spatial_kernel_size: side of the spatial convolution, odd.

    Raises:
        ValueError: the bottleneck would have no unit, or the side is even or not positive.

    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16, spatial_kernel_size: int = 7) -> None:
        super().__init__()
        hidden = int(channels * rd_ratio)
        if hidden < 1:
            raise ValueError(f"channels * rd_ratio must be at least 1, got {channels} * {rd_ratio}")
        if spatial_kernel_size < 1 or spatial_kernel_size % 2 == 0:
            raise ValueError(f"spatial_kernel_size must be odd and positive, got {spatial_kernel_size}")
        squeeze, excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.mlp = nn.Sequential(squeeze, nn.ReLU(), excite)
        self.conv = nn.Conv2d(2, 1, spatial_kernel_size, padding=spatial_kernel_size // 2, bias=False)
        self.bn = BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(squeeze.bias)
        nn.init.zeros_(excite.bias)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.zeros_(self.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), the product of the channel gate and the spatial one."""
        highest, mean = (z.flatten(1) for z in max_and_mean(x, (2, 3)))  # (B, C)
        channel = (self.mlp(mean) + self.mlp(highest)).sigmoid()[:, :, None, None]  # (B, C, 1, 1)
        seen = gated(x, channel.to(x.dtype))
        summary = torch.cat(max_and_mean(seen, (1,)), 1)  # (B, 2, H, W)
        spatial = self.bn(narrow_conv(self.conv, summary)).sigmoid()  # (B, 1, H, W)
        return gated(channel, spatial)
