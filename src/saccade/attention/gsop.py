r"""Global second-order pooling: a gate from a covariance matrix of channels or positions.

``variant="channel"``, with d = ``dim`` and stride s:

    z = ReLU(BN(W₁ ReLU(x_{::s,::s}) + b₁))       (B, d, ⌈H/s⌉, ⌈W/s⌉)
    Σ = cov(z)                                    (B, d, d)        over the pixels, see ``saccade.ops.covariance``
    r_{4i+k} = w_{i,k} · BN(Σ)_i + b_{4i+k}       (B, 4d)          four dot products with each row of Σ
    y = x ⊙ σ(W₂ r + b₂)                          (B, C, H, W)     gate (B, C, 1, 1)

``variant="position"``, on a grid of 8×8:

    Z = pool_{8×8} BN(W₁ ReLU(x) + b₁)            (B, d, 64)       adaptive average pooling
    Σ = ZᵀZ/64 − t tᵀ/64²,  t = Σ_c Z_c           (B, 64, 64)      over the channels
    r_{4i+k} = ReLU(w_{i,k} · BN(Σ)_i + b_{4i+k}) (B, 256)
    g = σ(W₂ r + b₂), pooled to H×W               (B, 1, H, W)
    y = ReLU(x ⊙ g)                               (B, C, H, W)

BN normalises each row of Σ. Both variants follow the authors' code, whose position variant divides a sum over channels
by the number of positions. ``stride=None`` chooses s as in the authors' ResNets. At s = 2 a map of at most 2×2 has
covariance zero.

Source: Gao et al., "Global Second-order Pooling Convolutional Networks", CVPR 2019, arXiv:1811.12006.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, check_choice
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
    "equivariant": "only with variant='channel': transpose, and with stride 1 permutation and flip",
    "published": [
        {"net": "resnet50", "top1": 77.98, "note": "last stage with stride 1", "source": "GSoP README"},
    ],
}  # fmt: skip


def parameters(channels: int, dim: int, variant: str) -> int:
    reduce_count = dim * (channels + 3)
    if variant == "position":
        n = _GRID**2
        return reduce_count + 2 * n + 4 * n * (n + 1) + n * (4 * n + 1)
    return reduce_count + 2 * dim + 4 * dim * (dim + 1) + channels * (4 * dim + 1)


def equivariant(channels: int, variant: str, stride: int | None) -> tuple[str, ...]:
    if variant == "position":
        return ()
    return ("permutation", "flip", "transpose") if _channel_stride(channels, stride) == 1 else ("transpose",)


def _channel_stride(channels: int, stride: int | None) -> int:
    """Return the stride of the channel variant."""
    return stride or (2 if channels <= 256 else 1)


_GRID = 8
"""Side length of the grid of the position variant."""


class SecondOrderPooling(nn.Module):
    """Channel gate or spatial gate from a covariance matrix.

    Args:
        channels: C.
        dim: d, number of channels in the covariance.
        variant: ``channel`` for a channel gate, ``position`` for a spatial gate.
        stride: s; None means 2 up to 256 channels, else 1.

    Raises:
        ValueError: a limit of SPEC is violated, or ``variant`` is unknown.
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
        check_choice("variant", variant, "channel", "position")
        self.of_channels = variant == "channel"  # True for a channel gate
        self.stride = _channel_stride(channels, stride) if self.of_channels else 1
        n_rows, n_outputs = (dim, channels) if self.of_channels else (_GRID**2, _GRID**2)
        self.reduce = nn.Conv2d(channels, dim, 1)
        self.reduce_bn = BatchNorm2d(dim)
        self.row_bn = BatchNorm2d(n_rows)
        self.row = nn.Conv2d(n_rows, 4 * n_rows, (n_rows, 1), groups=n_rows)
        self.expand = nn.Conv2d(4 * n_rows, n_outputs, 1)
        for conv in (self.reduce, self.row, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.tap = nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1), or (B, 1, H, W)."""
        z = self.reduce_bn(self.reduce(F.relu(_subsample(x, self.stride))))
        if self.of_channels:
            gate: Tensor = self.expand(self._row_products(covariance(F.relu(z).flatten(2)))).sigmoid()
            return gate
        z = window_means(z, (_GRID, _GRID)).flatten(2)
        scaled_sum = z.sum(1, keepdim=True) / _GRID**2
        grid = self.expand(F.relu(self._row_products(z.mT @ z / _GRID**2 - scaled_sum.mT @ scaled_sum))).sigmoid()
        return window_means(grid.view(-1, 1, _GRID, _GRID), (x.shape[2], x.shape[3]))

    def _row_products(self, matrix: Tensor) -> Tensor:
        """Return four dot products with each normalised row of a matrix (B, n, n): (B, 4n, 1, 1)."""
        products: Tensor = self.row(self.row_bn(matrix.unsqueeze(3)))
        return products

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        gate: Tensor = self.tap(self.gate(x))
        y = x * gate.to(x.dtype)
        return y if self.of_channels else F.threshold(y, 0, 0)  # a ReLU that saves no output for the backward pass


def _subsample(x: Tensor, stride: int) -> Tensor:
    """Return the pixels of x (B, C, H, W) whose row and column indices are multiples of ``stride``."""
    if stride == 1:
        return x
    if not torch.compiler.is_exporting():
        return x[:, :, ::stride, ::stride]
    row_index, column_index = (window_starts(length, stride, 1, x.device) for length in x.shape[2:])
    return x.index_select(2, row_index).index_select(3, column_index)
