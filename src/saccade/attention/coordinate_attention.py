r"""Coordinate Attention: a channel gate for each row and each column.

    z^h = mean_w x,  z^w = mean_h x                 (B, C, H, 1), (B, C, 1, W)                  eq. 4, 5
    f   = δ(BN(F₁[z^h, z^w]))                       (B, c, H + W), c = max(8, ⌊C·rd_ratio⌋)     eq. 6
    g^h = σ(F_h f^h),  g^w = σ(F_w f^w)             (B, C, H, 1), (B, C, 1, W)                  eq. 7, 8
    y   = x ⊙ g^h ⊙ g^w                             (B, C, H, W)                                eq. 9

f^h, f^w: the first H, last W positions of f. F₁, F_h, F_w: 1×1 with bias. δ is the h-swish z · ReLU6(z + 3)/6.

Source: Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv:2103.02907.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate
from saccade.ops.cross import cross_gated
from saccade.ops.eager import has_hooks
from saccade.ops.gating import gated, pooled_mean
from saccade.ops.self_gating import gated_by

__all__ = ["CoordinateAttention"]

SPEC = {
    "name": "coord",
    "title": "Coordinate Attention",
    "paper": {"authors": "Hou, Zhou, Feng", "title": "Coordinate Attention for Efficient Mobile Network Design",
              "venue": "CVPR", "year": 2021, "arxiv": "2103.02907"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["houqb/CoordAttention"],
    "position": {"default": "residual", "mobilenetv2": "expanded"},
    "limits": ["rd_ratio must be positive"],
    "gate": (0.0, 1.0),
    "equivariant": ["flip"],
    "published": [
        {"net": "mobilenet_v2", "params": 3.95, "macs": 0.310, "top1": 74.3, "note": "200 epochs, cosine",
         "source": "CoordAttention README"},
    ],
    "timm": "coord",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    hidden = max(8, int(channels * rd_ratio))
    return 3 * channels * hidden + 2 * channels + 3 * hidden


@Gate.register
class CoordinateAttention(nn.Module):
    """Product of a row gate and a column gate.

    The product is only materialised if ``tap`` has a hook or was replaced.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C, with a width of at least 8.

    Raises:
        ValueError: ``rd_ratio`` is not positive.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 32) -> None:
        super().__init__()
        if rd_ratio <= 0:
            raise ValueError(f"rd_ratio must be positive, got {rd_ratio}")
        hidden = max(8, int(channels * rd_ratio))
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.bn = BatchNorm2d(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        if type(self.tap) is nn.Identity and not has_hooks(self.tap):
            return cross_gated(x, self._gates).to(x.dtype)
        return gated_by(x, lambda feature_map: self.tap(self.gate(feature_map)).to(feature_map.dtype))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        return gated(*self._gates(pooled_mean(x, (3,), keepdim=True), pooled_mean(x, (2,), keepdim=True)))

    def _gates(self, row_means: Tensor, column_means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row gate (B, C, H, 1) and column gate (B, C, 1, W) from the means, of the same shapes."""
        height = row_means.shape[2]
        z = torch.cat([row_means, column_means.transpose(2, 3)], 2)  # (B, C, H + W, 1)
        f = F.hardswish(self.bn(self.squeeze(z)))
        row_gate: Tensor = self.rows(f[:, :, :height]).sigmoid()
        column_gate: Tensor = self.columns(f[:, :, height:]).sigmoid().transpose(2, 3)
        return row_gate, column_gate
