r"""Concurrent spatial and channel squeeze and excitation: a channel gate and a spatial gate side by side.

    c = σ(W₂ ReLU(W₁ mean_{h,w} x))                  cSE    (B, C, 1, 1)     squeeze the places, excite the channels
    s = σ(w · x)                                     sSE    (B, 1, H, W)     squeeze the channels, excite the places
    y = c ⊙ x + s ⊙ x                                ``add``, the default
    y = max(c ⊙ x, s ⊙ x)                            ``max``: where x < 0 that is the smaller gate

W₁: C -> C·rd_ratio, W₂: back to C, w: C -> 1, all with bias. rd_ratio 1/16 and the sum are those of
segmentation_models_pytorch. The papers put it behind every encoder and decoder block of a segmentation network.

Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel 'Squeeze & Excitation' in Fully Convolutional Networks",
MICCAI 2018, arXiv:1803.02579.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, one_of, reduced
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
    "position": {"default": "stage"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "gate": (0.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    hidden = int(channels * rd_ratio)
    return 2 * channels * hidden + hidden + 2 * channels + 1


class ConcurrentSqueezeExcite(Gate):
    """Channel gate and spatial gate side by side.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of the bottleneck of the channel gate as a part of C, rounded down.
        combine: ``add``: the two gated maps are added; ``max``: the larger value of the two is taken.

    Raises:
        ValueError: the bottleneck would have no unit, or there is no such way to combine.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16, combine: Literal["add", "max"] = "add") -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        one_of("combine", combine, "add", "max")
        self.add = combine == "add"
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.place = nn.Conv2d(channels, 1, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), between 0 and 2, with ``max`` between 0 and 1."""
        channel = self.excite(self.squeeze(pooled_mean(x)).relu()).sigmoid()[:, :, None, None]  # (B, C, 1, 1)
        place = narrow_conv(self.place, x).sigmoid()  # (B, 1, H, W)
        if self.add:
            return channel + place
        return torch.where(x < 0, torch.minimum(channel, place), torch.maximum(channel, place))
