r"""Convolutional Block Attention Module: a channel gate, then a spatial gate.

    M_c = σ(MLP(mean_{h,w} x) + MLP(max_{h,w} x))      (B, C, 1, 1)      eq. 2, one MLP for both
    x'  = M_c ⊙ x
    M_s = σ(BN(Conv_{7×7}([max_c x'; mean_c x'])))     (B, 1, H, W)      eq. 3
    y   = M_s ⊙ x'                                     (B, C, H, W)

MLP: C -> C·rd_ratio -> C with bias and a ReLU between. The batch norm (momentum 0.01), the order [max; mean] and the
zero start of its scale, so that M_s is 1/2 everywhere, come from the authors' code, not from equation 3. Where the
authors' code would build layers of no unit, the map is refused.

The paper's ablations are options: ``branches`` leaves a gate out, ``channel_pool`` and ``spatial_pool`` keep one of
mean and maximum, ``order`` says which gate comes first; in ``parallel`` both see x, and y = M_c ⊙ M_s ⊙ x.

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, one_of, reduced
from saccade.ops.gating import gated, max_and_mean, narrow_conv

__all__ = ["ConvBlockAttention"]

SPEC = {
    "name": "cbam",
    "title": "Convolutional Block Attention Module",
    "paper": {"authors": "Woo, Park, Lee, Kweon", "title": "CBAM: Convolutional Block Attention Module",
              "venue": "ECCV", "year": 2018, "arxiv": "1807.06521"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["Jongchan/attention-module (default branches, pools and order)"],
    "position": {"default": "residual"},
    "limits": ["channels * rd_ratio must be at least 1", "spatial_kernel_size must be odd and positive"],
    "gate": (0.0, 1.0),
    "equivariant": "permutation, flip, transpose with branches='channel' alone",
    "published": [
        {"net": "resnet50", "params": 28.09, "macs": 4.139, "top1": 77.34, "source": "attention-module README"},
        {"net": "resnet18", "params": 11.234, "macs": 1.695, "top1": 70.73, "unit": "2^20, 2^30",
         "source": "EMCA README"},
    ],
    "timm": "cbam",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, spatial_kernel_size: int, branches: str, spatial_pool: str) -> int:
    hidden = int(channels * rd_ratio)
    of_channel = 2 * channels * hidden + channels + hidden
    of_place = (2 if spatial_pool == "both" else 1) * spatial_kernel_size**2 + 2
    return of_channel * (branches != "spatial") + of_place * (branches != "channel")


def equivariant(branches: str) -> tuple[str, ...]:
    return ("permutation", "flip", "transpose") if branches == "channel" else ()


_POOLS = {"both": (0, 1), "max": (0,), "mean": (1,)}
"""Which of [max; mean] a gate sees."""


class ConvBlockAttention(Gate):
    """Channel gate, then spatial gate.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of the bottleneck as a part of C, rounded down.
        spatial_kernel_size: side of the spatial convolution, odd.
        branches: ``both`` gates, or the ``channel`` gate or the ``spatial`` one alone.
        channel_pool: what the channel gate sees of a channel, ``both``, ``mean`` or ``max``.
        spatial_pool: what the spatial gate sees of a place, likewise.
        order: ``channel``: the channel gate comes first; ``spatial``: the spatial one; ``parallel``: both look at x.

    Raises:
        ValueError: outside the limits of SPEC, or no such branch, pool or order.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 16,
        spatial_kernel_size: int = 7,
        branches: Literal["both", "channel", "spatial"] = "both",
        channel_pool: Literal["both", "mean", "max"] = "both",
        spatial_pool: Literal["both", "mean", "max"] = "both",
        order: Literal["channel", "spatial", "parallel"] = "channel",
    ) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        if spatial_kernel_size < 1 or spatial_kernel_size % 2 == 0:
            raise ValueError(f"spatial_kernel_size must be odd and positive, got {spatial_kernel_size}")
        one_of("branches", branches, "both", "channel", "spatial")
        for name, pool in (("channel_pool", channel_pool), ("spatial_pool", spatial_pool)):
            if pool not in _POOLS:
                raise ValueError(f"{name} must be 'both', 'mean' or 'max', got {pool!r}")
        one_of("order", order, "channel", "spatial", "parallel")
        self.branches, self.order = branches, order
        self.of_channel, self.of_place = _POOLS[channel_pool], _POOLS[spatial_pool]
        if branches != "spatial":
            squeeze, excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
            self.mlp = nn.Sequential(squeeze, nn.ReLU(), excite)
            nn.init.zeros_(squeeze.bias)
            nn.init.zeros_(excite.bias)
        if branches != "channel":
            summaries, side = len(self.of_place), spatial_kernel_size
            self.conv = nn.Conv2d(summaries, 1, side, padding=side // 2, bias=False)
            self.bn = BatchNorm2d(1, momentum=0.01)
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
            nn.init.zeros_(self.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), the product of the gates that are there."""
        if self.branches == "channel":
            return self._channel(x)
        if self.branches == "spatial":
            return self._spatial(x)
        if self.order == "spatial":
            spatial = self._spatial(x)
            return gated(self._channel(gated(x, spatial.to(x.dtype))), spatial)
        channel = self._channel(x)
        return gated(channel, self._spatial(gated(x, channel.to(x.dtype)) if self.order == "channel" else x))

    def _channel(self, x: Tensor) -> Tensor:
        """M_c, (B, C, 1, 1)."""
        pooled = max_and_mean(x, (2, 3))
        logits = [self.mlp(pooled[which].flatten(1)) for which in reversed(self.of_channel)]
        return sum(logits[1:], logits[0]).sigmoid()[:, :, None, None]

    def _spatial(self, x: Tensor) -> Tensor:
        """M_s, (B, 1, H, W)."""
        pooled = max_and_mean(x, (1,))
        summary = torch.cat([pooled[which] for which in self.of_place], 1)  # (B, 1 | 2, H, W)
        spatial: Tensor = self.bn(narrow_conv(self.conv, summary)).sigmoid()
        return spatial
