r"""Global second-order pooling: a gate made of the covariance of the channels, or of places.

``variant="channel"``, with d = ``dim`` and stride s:

    z = ReLU(BN(W₁ ReLU(x_{::s,::s}) + b₁))       (B, C, H, W) -> (B, d, ⌈H/s⌉, ⌈W/s⌉)
    Σ = cov(z)                                    (B, d, d)        over the pixels, see ``saccade.ops.covariance``
    r_{4i+k} = w_{i,k} · BN(Σ)_i + b_{4i+k}       (B, 4d)          four dot products with each row of Σ
    y = x ⊙ σ(W₂ r + b₂)                          (B, C, H, W)     gate (B, C, 1, 1)

``variant="position"``, on a grid of 8×8:

    Z = pool_{8×8} BN(W₁ ReLU(x) + b₁)            (B, d, 64)       means over windows; no ReLU here
    Σ = ZᵀZ/64 − s sᵀ/64²,  s = Σ_i Z_i           (B, 64, 64)      over the channels
    r_{4i+k} = ReLU(w_{i,k} · BN(Σ)_i + b_{4i+k}) (B, 256)
    g = σ(W₂ r + b₂), 8×8, pooled to H×W          (B, 1, H, W)
    y = ReLU(x ⊙ g)                               (B, C, H, W)

BN(Σ) norms row i over all its entries. Both are the authors' code: its channel variant has no activation between the
dot products and W₂; its position variant divides by the number of places where it sums over channels, which centres Z
only if d = 64, and enlarges the grid by averaging windows.

``stride=None`` is the authors' rule for ResNets: 2 up to C = 256, else 1. Their units are the last of each stage, and
their last stage has stride 1, which adds 2.1·10⁹ multiply-adds to a ResNet-50; a plug leaves the host's strides alone.
The covariance of one pixel is zero: at stride 2 a map needs three rows or columns.

Source: Gao, Xie, Wang, Li, "Global Second-order Pooling Convolutional Networks", CVPR 2019, arXiv:1811.12006.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, one_of
from saccade.ops.covariance import covariance
from saccade.ops.resample import window_means, window_starts

__all__ = ["SecondOrderPooling"]

SPEC = {
    "name": "gsop",
    "title": "Global second-order pooling",
    "paper": {"authors": "Gao, Xie, Wang, Li", "title": "Global Second-order Pooling Convolutional Networks",
              "venue": "CVPR", "year": 2019, "arxiv": "1811.12006"},
    "kind": "transform",
    "evidence": "oracle",
    "code": ["ZilinGao/Global-Second-order-Pooling-Convolutional-Networks"],
    "position": {"default": "residual[last]"},
    "limits": ["dim must be at least 2", "stride must be at least 1"],
    "gate": (0.0, 1.0),
    "equivariant": "variant='channel': transpose, with a stride of 1 also permutation and flip",
    "published": [
        {"net": "resnet50", "top1": 77.98, "note": "last stage with stride 1", "source": "GSoP README"},
    ],
}  # fmt: skip


def parameters(channels: int, dim: int, variant: str) -> int:
    first = dim * (channels + 3)
    if variant == "position":
        return first + 33216
    return first + 2 * dim + 4 * dim * (dim + 1) + channels * (4 * dim + 1)


def equivariant(channels: int, variant: str, stride: int | None) -> tuple[str, ...]:
    if variant == "position":
        return ()
    return ("permutation", "flip", "transpose") if _step(channels, stride) == 1 else ("transpose",)


def _step(channels: int, stride: int | None) -> int:
    """The stride of the channel variant."""
    return stride or (2 if channels <= 256 else 1)


_GRID = 8
"""Side of the grid of the position variant."""


class SecondOrderPooling(nn.Module):
    """Gate of channels, or of places, out of a covariance matrix.

    The gate passes through ``tap``: (B, C, 1, 1), or (B, 1, H, W).

    Args:
        channels: C of the map (B, C, H, W).
        dim: d, the channels of which the covariance is taken.
        variant: ``channel`` or ``position``.
        stride: of the pixels that the covariance of channels is taken over; None is 2 up to 256 channels, else 1.

    Raises:
        ValueError: ``dim`` is below 2, ``stride`` below 1, or there is no such variant.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 128,
        variant: Literal["channel", "position"] = "channel",
        stride: int | None = None,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim must be at least 2, got {dim}")
        if stride is not None and stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        one_of("variant", variant, "channel", "position")
        self.of_channels = variant == "channel"
        self.stride = _step(channels, stride) if self.of_channels else 1
        rows, outputs = (dim, channels) if self.of_channels else (_GRID**2, _GRID**2)
        self.reduce = nn.Conv2d(channels, dim, 1)
        self.reduce_bn = BatchNorm2d(dim)
        self.row_bn = BatchNorm2d(rows)
        self.row = nn.Conv2d(rows, 4 * rows, (rows, 1), groups=rows)
        self.expand = nn.Conv2d(4 * rows, outputs, 1)
        for conv in (self.reduce, self.row, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, 1, 1), or (B, 1, H, W)."""
        z = self.reduce_bn(self.reduce(F.relu(_every(x, self.stride))))
        if self.of_channels:
            gate: Tensor = self.expand(self._rows(covariance(F.relu(z).flatten(2)))).sigmoid()
            return gate
        z = window_means(z, (_GRID, _GRID)).flatten(2)  # (B, d, 64)
        total = z.sum(1, keepdim=True) / _GRID**2
        grid = self.expand(F.relu(self._rows(z.mT @ z / _GRID**2 - total.mT @ total))).sigmoid()  # (B, 64, 1, 1)
        return window_means(grid.view(-1, 1, _GRID, _GRID), (x.shape[2], x.shape[3]))

    def _rows(self, matrix: Tensor) -> Tensor:
        """Dot products with each normed row of a matrix (B, n, n): (B, 4n, 1, 1)."""
        rows: Tensor = self.row(self.row_bn(matrix.unsqueeze(3)))
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x))
        y = x * gate.to(x.dtype)
        return y if self.of_channels else F.threshold(y, 0, 0)  # a ReLU that does not keep what it returns


def _every(x: Tensor, stride: int) -> Tensor:
    """The pixels of x (B, C, H, W) whose row and column divide by ``stride``."""
    if stride == 1:
        return x
    if not torch.compiler.is_exporting():
        return x[:, :, ::stride, ::stride]
    height, width = (window_starts(side, stride, 1, x.device) for side in x.shape[2:])
    return x.index_select(2, height).index_select(3, width)
