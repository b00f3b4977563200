r"""Strip pooling module: a gate from the means of each row and each column.

    h = BN(Conv_{k×1}(mean_w x))                  (B, C, H, 1)
    v = BN(Conv_{1×k}(mean_h x))                  (B, C, 1, W)
    g = σ(W ReLU(h + v) + b)                      (B, C, H, W)
    y = x ⊙ g                                     (B, C, H, W)

The convolutions along the strips have no bias; k = 3. The paper's six positions in a ResNet-50 are
``where=["activated[last] in stage[:-1]", "activated in stage[-1]"]``; its last two stages have stride 1.

Source: Hou et al., "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", CVPR 2020, arXiv:2003.13328.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate
from saccade.ops.strip import strip_means

__all__ = ["StripPooling"]

SPEC = {
    "name": "spm",
    "title": "Strip pooling module",
    "paper": {"authors": "Hou, Zhang, Cheng, Feng",
              "title": "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", "venue": "CVPR", "year": 2020,
              "arxiv": "2003.13328"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["houqb/SPNet"],
    "position": {"default": "activated[last]"},
    "limits": ["kernel_size must be odd and at least 3"],
    "gate": (0.0, 1.0),
    "published": [
        {"net": "resnet50", "params": 31.674, "source": "our count of the authors' network with a classifier",
         "where": ("activated[last] in stage[:-1]", "activated in stage[-1]"), "note": "six positions"},
    ],
}  # fmt: skip


def parameters(channels: int, kernel_size: int) -> int:
    return (2 * kernel_size + 1) * channels**2 + 5 * channels


class StripPooling(Gate):
    """Gate from row and column means.

    Args:
        channels: C.
        kernel_size: k, odd, at least 3.

    Raises:
        ValueError: ``kernel_size`` is even or below 3.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3, got {kernel_size}")
        half = kernel_size // 2
        self.rows = nn.Conv2d(channels, channels, (kernel_size, 1), padding=(half, 0), bias=False)
        self.rows_bn = BatchNorm2d(channels)
        self.columns = nn.Conv2d(channels, channels, (1, kernel_size), padding=(0, half), bias=False)
        self.columns_bn = BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        rows, columns = strip_means(x)
        strip_sum = self.rows_bn(self.rows(rows)) + self.columns_bn(self.columns(columns))
        gate: Tensor = self.mix(F.relu(strip_sum, inplace=True)).sigmoid()
        return gate
