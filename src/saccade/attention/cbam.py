r"""Convolutional Block Attention Module: a channel gate, then a spatial gate.

    M_c = σ(MLP(mean_{h,w} x) + MLP(max_{h,w} x))      (B, C, 1, 1)      eq. 2, one MLP for both
    x'  = M_c ⊙ x
    M_s = σ(BN(Conv_{7×7}([max_c x'; mean_c x'])))     (B, 1, H, W)      eq. 3
    y   = M_s ⊙ x'                                     (B, C, H, W)

MLP: C -> C·rd_ratio -> C with biases and a ReLU between. The batch norm (momentum 0.01), its zero-initialised scale
(M_s starts at 1/2) and the order [max; mean] come from the authors' code; equation 3 has no norm.

Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, check_choice, reduced_channels
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
    "equivariant": "only with branches='channel': permutation, flip, transpose",
    "published": [
        {"net": "resnet50", "params": 28.09, "macs": 4.139, "top1": 77.34, "source": "attention-module README"},
        {"net": "resnet18", "params": 11.234, "macs": 1.695, "top1": 70.73, "unit": "2^20, 2^30",
         "source": "EMCA README"},
    ],
    "timm": "cbam",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, spatial_kernel_size: int, branches: str, spatial_pool: str) -> int:
    hidden = int(channels * rd_ratio)
    channel_count = 2 * channels * hidden + channels + hidden
    spatial_count = (2 if spatial_pool == "both" else 1) * spatial_kernel_size**2 + 2
    return channel_count * (branches != "spatial") + spatial_count * (branches != "channel")


def equivariant(branches: str) -> tuple[str, ...]:
    return ("permutation", "flip", "transpose") if branches == "channel" else ()


_POOLS = {"both": (0, 1), "max": (0,), "mean": (1,)}
"""Maps a pooling option to indices into (max, mean)."""


class ConvBlockAttention(Gate):
    """Product of a channel gate and a spatial gate.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C.
        spatial_kernel_size: odd kernel size of the spatial convolution.
        branches: gates to apply: ``both``, ``channel`` or ``spatial``.
        channel_pool: pooling over pixels for the channel gate: ``both``, ``mean`` or ``max``.
        spatial_pool: pooling over channels for the spatial gate, with the same choices.
        order: gate applied first, ``channel`` or ``spatial``; ``parallel`` computes both gates from x.

    Raises:
        ValueError: a limit of SPEC is violated, or a choice is unknown.
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
        hidden = reduced_channels(channels, rd_ratio)
        if spatial_kernel_size < 1 or spatial_kernel_size % 2 == 0:
            raise ValueError(f"spatial_kernel_size must be odd and positive, got {spatial_kernel_size}")
        check_choice("branches", branches, "both", "channel", "spatial")
        for name, pool in (("channel_pool", channel_pool), ("spatial_pool", spatial_pool)):
            if pool not in _POOLS:
                raise ValueError(f"{name} must be 'both', 'mean' or 'max', got {pool!r}")
        check_choice("order", order, "channel", "spatial", "parallel")
        self.branches, self.order = branches, order
        self.of_channel = _POOLS[channel_pool]  # pools of M_c
        self.of_place = _POOLS[spatial_pool]  # pools of M_s
        if branches != "spatial":
            squeeze, excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
            self.mlp = nn.Sequential(squeeze, nn.ReLU(), excite)
            nn.init.zeros_(squeeze.bias)
            nn.init.zeros_(excite.bias)
        if branches != "channel":
            n_pools = len(self.of_place)
            self.conv = nn.Conv2d(n_pools, 1, spatial_kernel_size, padding=spatial_kernel_size // 2, bias=False)
            self.bn = BatchNorm2d(1, momentum=0.01)
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
            nn.init.zeros_(self.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W): the product of the enabled gates."""
        if self.branches == "channel":
            return self._channel_gate(x)
        if self.branches == "spatial":
            return self._spatial_gate(x)
        if self.order == "spatial":
            spatial = self._spatial_gate(x)
            return gated(self._channel_gate(gated(x, spatial.to(x.dtype))), spatial)
        channel = self._channel_gate(x)
        return gated(channel, self._spatial_gate(gated(x, channel.to(x.dtype)) if self.order == "channel" else x))

    def _channel_gate(self, x: Tensor) -> Tensor:
        """Return M_c (B, C, 1, 1)."""
        pooled = max_and_mean(x, (2, 3))
        logits = [self.mlp(pooled[index].flatten(1)) for index in reversed(self.of_channel)]
        return sum(logits[1:], logits[0]).sigmoid()[:, :, None, None]

    def _spatial_gate(self, x: Tensor) -> Tensor:
        """Return M_s (B, 1, H, W)."""
        pooled = max_and_mean(x, (1,))
        inputs = torch.cat([pooled[index] for index in self.of_place], 1)
        spatial: Tensor = self.bn(narrow_conv(self.conv, inputs)).sigmoid()
        return spatial
