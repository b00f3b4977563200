r"""Concurrent spatial and channel squeeze and excitation: a channel gate and a spatial gate side by side.

    c = σ(W₂ ReLU(W₁ mean_{h,w} x))                  cSE    (B, C, 1, 1)
    s = σ(w · x)                                     sSE    (B, 1, H, W)
    y = c ⊙ x + s ⊙ x                                ``combine="add"``
    y = max(c ⊙ x, s ⊙ x)                            ``combine="max"``: the larger gate if x ≥ 0, else the smaller

W₁: C -> C·rd_ratio, W₂: back to C, w: C -> 1, all with bias. Defaults and places in a U-Net, the concatenation with the
skip and the output of each decoder block, follow segmentation_models_pytorch.

Source: Roy et al., "Concurrent Spatial and Channel 'Squeeze & Excitation' in Fully Convolutional Networks", MICCAI
2018, arXiv:1803.02579.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, check_choice, reduced_channels
from saccade.ops.gating import narrow_conv, pooled_mean

__all__ = ["ConcurrentSqueezeExcite"]

SPEC = {
    "name": "scse",
    "title": "Concurrent spatial and channel squeeze and excitation",
    "paper": {"authors": "Roy, Navab, Wachinger",
              "title": "Concurrent Spatial and Channel 'Squeeze & Excitation' in Fully Convolutional Networks",
              "venue": "MICCAI", "year": 2018, "arxiv": "1803.02579"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "stage", "unet": ["skip", "block in decoder"]},
    "limits": ["channels * rd_ratio must be at least 1"],
    "gate": (0.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    hidden = int(channels * rd_ratio)
    return 2 * channels * hidden + hidden + 2 * channels + 1


class ConcurrentSqueezeExcite(Gate):
    """Combination of a channel gate and a spatial gate.

    Args:
        channels: C.
        rd_ratio: bottleneck width of the channel gate / C.
        combine: ``add`` sums the two gated maps; ``max`` takes their maximum.

    Raises:
        ValueError: the bottleneck would have no channel, or ``combine`` is unknown.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16, combine: Literal["add", "max"] = "add") -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        check_choice("combine", combine, "add", "max")
        self.add = combine == "add"  # False: max
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.place = nn.Conv2d(channels, 1, 1)  # w, spatial gate

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), between 0 and 2."""
        channel = self.excite(self.squeeze(pooled_mean(x)).relu()).sigmoid()[:, :, None, None]
        spatial = narrow_conv(self.place, x).sigmoid()
        if self.add:
            return channel + spatial
        return torch.where(x < 0, torch.minimum(channel, spatial), torch.maximum(channel, spatial))
