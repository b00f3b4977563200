r"""DAS, Deformable Attention to capture Salient information: a gate whose every value has looked where it chose to.

    z    = GELU(IN(PW_{C→c}(DW_{3×3}(x))) + b)          (B, c, H, W), c = ⌊αC⌋                    eq. 1
    Δ, m = Conv_{3×3, c→27}(z), m through σ             18 offsets, 9 modulations a pixel
    d    = DeformConv_{3×3, c→C}(z, Δ, m)               (B, C, H, W)                              eq. 2
    A    = σ(LN_C(d))                                   LN over the channels of each pixel        eq. 3
    y    = x ⊙ A                                        (B, C, H, W)                              eq. 4

No code of the authors could be found: this is the reading that reproduces the sizes they print. Those counts leave
the deformable kernel (9·c·C weights) out, as the usual counter does; ``saccade measure`` counts it. The article does
not say which layers have a bias: in front of the instance norm IN (no scale, mean and variance of the map) a bias
could never act, so the shift b stands behind it, and the deformable convolution has its own. The offset convolution
starts at zero: a regular grid, m = 1/2.

Source: Salajegheh, Asadi, Saryazdi, Mudur, "DAS: A Deformable Attention to Capture Salient Information in CNNs",
2023, arXiv:2311.12091.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.form import Gate
from saccade.ops.deform import deform_conv2d

__all__ = ["DeformableSalience"]

SPEC = {
    "title": "Deformable Attention to capture Salient information",
    "paper": {
        "authors": "Salajegheh, Asadi, Saryazdi, Mudur",
        "title": "DAS: A Deformable Attention to Capture Salient Information in CNNs",
        "venue": "arXiv",
        "year": 2023,
        "arxiv": "2311.12091",
    },
    "kind": "gate",
    "evidence": "reading",
    "position": {"default": "stage"},
    "params": "9*C + C*int(C*alpha) + int(C*alpha) + 27*(9*int(C*alpha) + 1) + 9*int(C*alpha)*C + C + 2*C",
    "limits": ["C * alpha >= 1"],
    "gate": (0.0, 1.0),
    "published": [
        {"net": "resnet50", "params": 26.90, "macs": 4.39, "top1": 78.04, "note": "without the deformable kernels",
         "source": "DAS paper; sizes derived from its differences to GSoP"},
        {"net": "resnet18", "params": 11.82, "macs": 1.86, "top1": 72.03, "note": "without the deformable kernels",
         "source": "DAS paper; sizes derived from its differences to ResNet-50"},
    ],
}  # fmt: skip


class DeformableSalience(Gate):
    """Gate of a deformable convolution over compressed channels.

    Args:
        channels: C of the map (B, C, H, W).
        alpha: α, compressed channels as a part of C, rounded down.

    Raises:
        ValueError: no compressed channel would be left.

    """

    def __init__(self, channels: int, alpha: float = 0.2) -> None:
        super().__init__()
        compressed = int(channels * alpha)
        if compressed < 1:
            raise ValueError(f"channels * alpha must be at least 1, got {channels} * {alpha}")
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, compressed, 1, bias=False)
        self.shift = nn.Parameter(torch.zeros(compressed))
        self.offset = nn.Conv2d(compressed, 27, 3, padding=1)
        # A plain convolution holds the deformable kernel and its bias; only its numbers are used.
        self.deform = nn.Conv2d(compressed, channels, 3, padding=1)
        self.norm = nn.LayerNorm(channels)
        for start in self.offset.parameters():
            nn.init.zeros_(start)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        z = self.pointwise(self.depthwise(x))  # (B, c, H, W)
        var, mean = torch.var_mean(z, (2, 3), correction=0, keepdim=True)
        z = F.gelu((z - mean) * (var + 1e-5).rsqrt() + self.shift[:, None, None])
        offset, mask = self.offset(z).split([18, 9], 1)
        d = deform_conv2d(z, offset, self.deform.weight, self.deform.bias, padding=1, mask=mask.sigmoid())
        return self.norm(d.permute(0, 2, 3, 1)).sigmoid().permute(0, 3, 1, 2)
