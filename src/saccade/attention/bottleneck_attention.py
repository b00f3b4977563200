r"""Bottleneck Attention Module: a gate above 1 from a channel branch and a spatial branch.

    M_c = W₁ ReLU(BN(W₀ mean_{h,w} x + b₀)) + b₁                     (B, C, 1, 1)
    M_s = f₃(f₂(f₁(f₀(x))))                                          (B, 1, H, W)
    y   = x ⊙ (1 + σ(M_c ⊙ M_s))                                     (B, C, H, W)     eq. 1

W₀, f₀: C -> C·rd_ratio; W₁: back to C; f₁, f₂: 3×3, dilated; f₃: 1×1, to one channel. BN and ReLU follow f₀, f₁, f₂.
These are the equations of the authors' code, ``variant="official"``. The paper, ``variant="paper"``, adds the branches
and ends each with a batch norm:

    M_c = BN(W₁ ReLU(W₀ mean_{h,w} x + b₀) + b₁)                                      eq. 3
    M_s = BN(f₃(f₂(f₁(f₀(x)))))                                                       eq. 4
    y   = x ⊙ (1 + σ(M_c + M_s))                                                      eq. 1, 2

Equations 3 and 4 print no activation; the ReLUs are the code's. On a non-square map the authors' global pooling omits
pixels, unlike ours.

Source: Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, check_choice, reduced_channels
from saccade.ops.gating import pooled_mean

__all__ = ["BottleneckAttention"]

SPEC = {
    "name": "bam",
    "title": "Bottleneck Attention Module",
    "paper": {"authors": "Park, Woo, Lee, Kweon", "title": "BAM: Bottleneck Attention Module", "venue": "BMVC",
              "year": 2018, "arxiv": "1807.06514"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["Jongchan/attention-module (variant='official')"],
    "position": {"default": "stage[:-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "dilation must be at least 1"],
    "gate": (1.0, 2.0),
    "published": [
        {"net": "resnet50", "top1": 76.86, "source": "README of the authors' code, its checkpoint"},
        {"net": "resnet50", "params": 25.92, "macs": 4.205, "top1": 76.90, "source": "PytorchInsight README"},
        {"net": "resnet101", "params": 44.91, "macs": 7.933, "top1": 78.22, "source": "PytorchInsight README"},
    ],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, variant: str) -> int:
    hidden = int(channels * rd_ratio)
    linear_terms = channels + 13 * hidden + 1 if variant == "official" else 3 * channels + 5 * hidden + 3
    return 3 * channels * hidden + 18 * hidden**2 + linear_terms


class BottleneckAttention(Gate):
    """Gate 1 + σ(·) from a channel branch and a spatial branch.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C.
        dilation: dilation of the two 3×3 convolutions, in pixels.
        variant: ``official`` or ``paper``.

    Raises:
        ValueError: a limit of SPEC is violated, or ``variant`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 16,
        dilation: int = 4,
        variant: Literal["paper", "official"] = "official",
    ) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        if dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {dilation}")
        check_choice("variant", variant, "paper", "official")
        self.product = variant == "official"  # False: sum
        self.channel = nn.Sequential(
            *self._hidden_layer(nn.Conv2d(channels, hidden, 1)),
            *self._output_layer(nn.Conv2d(hidden, channels, 1)),
        )
        self.spatial = nn.Sequential(
            *self._hidden_layer(nn.Conv2d(channels, hidden, 1)),
            *self._hidden_layer(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)),
            *self._hidden_layer(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)),
            *self._output_layer(nn.Conv2d(hidden, 1, 1)),
        )

    def _hidden_layer(self, conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, BatchNorm2d(conv.out_channels), nn.ReLU()] if self.product else [conv, nn.ReLU()]

    def _output_layer(self, conv: nn.Conv2d) -> list[nn.Module]:
        return [conv] if self.product else [conv, BatchNorm2d(conv.out_channels)]

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), between 1 and 2."""
        channel = self.channel(pooled_mean(x, keepdim=True))
        spatial = self.spatial(x)
        logits: Tensor = channel * spatial if self.product else channel + spatial
        return 1 + logits.sigmoid()
