r"""Sum of a channel, a spatial and a joint gate: our interpretation of OFDet.

    s_c = W₁ ReLU(W₀ mean_{h,w} x + b₀) + b₁                         (B, C, 1, 1)     C -> C·rd_ratio -> C
    s_s = Conv_{k×k}([max_c x; mean_c x])                            (B, 1, H, W)     2 -> 1
    s_j = Conv_{3×3}(ReLU(Conv_{1×1}(x)))                            (B, C, H, W)     C -> C·rd_ratio -> C
    y   = x ⊙ (σ(s_c) + σ(s_s) + σ(s_j))                             (B, C, H, W)

According to the DAS paper, OFDet uses channel, spatial and channel-spatial attention. No paper, code or figure
of that name was found. The branches and their sum are our choice, so a result of this module says nothing about OFDet.

Source: Salajegheh et al., 2023, arXiv:2311.12091, related work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import Gate, reduced_channels
from saccade.ops.gating import max_and_mean, narrow_conv, pooled_mean

__all__ = ["ThreeAttentions"]

SPEC = {
    "name": "ofdet",
    "title": "Channel, spatial and joint attention (our interpretation of OFDet)",
    "kind": "gate",
    "evidence": "reading",
    "position": {"default": "residual"},
    "limits": ["channels * rd_ratio must be at least 1", "kernel_size must be odd and positive"],
    "gate": (0.0, 3.0),
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, kernel_size: int) -> int:
    hidden = int(channels * rd_ratio)
    return 12 * channels * hidden + 2 * channels + 2 * hidden + 2 * kernel_size**2 + 1


class ThreeAttentions(Gate):
    """Sum of three gates.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C.
        kernel_size: odd kernel size of the spatial gate.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)
        self.joint = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), between 0 and 3."""
        channel: Tensor = self.channel(pooled_mean(x, keepdim=True))
        spatial = narrow_conv(self.spatial, torch.cat(max_and_mean(x, (1,)), 1))
        joint: Tensor = self.joint(x)
        return channel.sigmoid() + spatial.sigmoid() + joint.sigmoid()
