r"""Dual relation-aware attention: pixels attend to fifty pooled places, channels to a few mixtures of channels.

    z_s = ReLU(BN_s(W_s pool_s(x)))          (B, C, s, s), means over s×s cells, s = 1, 2, 3, 6
    Z = [z_1, z_2, z_3, z_6]                 (B, 50, C), the centres of places
    q = W_q x + b_q, k = W_k Z, v = W_v Z + b_v      (B, N, c), (B, 50, c), (B, 50, C), N = H·W, c = ⌊C·rd_ratio⌋
    P_i = Σ_j softmax_j(q_iᵀ k_j) v_j        (B, C, N), position attention
    Y = ReLU(BN(W_y x))                      (B, K, N), K = ⌊C·center_ratio⌋, the centres of channels
    E = x Yᵀ                                 (B, C, K), products over all pixels
    C_i = Σ_j softmax_j(max_j E_{ij} − E_{ij}) Y_j   (B, C, N), channel attention
    y = x + α P + β C                        (B, C, H, W), α = β = 0 at the start

Cells are those of adaptive pooling, ⌊iH/s⌋ to ⌈(i+1)H/s⌉. No logits are scaled; the second ones are sums over the map,
formed in float32, and as in DANet the *least* alike weighs most. The authors' k has a bias, which a softmax ignores.

In the authors' network convolutions stand before and behind each branch, and a decoder follows; here both branches read
the map as it comes. Output and gradients of each branch equal theirs; the sum is ours. ``position=False`` or
``channel=False`` leaves one out. That the DAS article means this mechanism is likely, not sure.

Source: Fu, Liu, Jiang, Li, Bao, Lu, "Scene Segmentation With Dual Relation-Aware Attention Network", TNNLS 2021 (IEEE
Transactions on Neural Networks and Learning Systems 32); its code in the repository of DANet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, reduced
from saccade.ops.attention import attention
from saccade.ops.autocast import without_autocast

__all__ = ["DualRelationAttention"]

SPEC = {
    "name": "dra",
    "title": "Dual relation-aware attention",
    "paper": {"authors": "Fu, Liu, Jiang, Li, Bao, Lu",
              "title": "Scene Segmentation With Dual Relation-Aware Attention Network", "venue": "TNNLS", "year": 2021},
    "kind": "context",
    "evidence": "oracle",
    "code": ["junfu1115/DANet"],
    "position": {"default": "stage[-1]"},
    "limits": [
        "channels * rd_ratio must be at least 1",
        "channels * center_ratio must be at least 1",
        "one of position and channel must be true",
    ],
    "neutral": True,
    "equivariant": "flip, transpose; permutation with position=False alone",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, center_ratio: float, position: bool, channel: bool) -> int:
    hidden = int(channels * rd_ratio)
    of_places = 5 * channels**2 + 2 * channels * hidden + hidden + 9 * channels + 1
    return position * of_places + channel * ((channels + 2) * int(channels * center_ratio) + 1)


def equivariant(position: bool) -> tuple[str, ...]:
    return ("flip", "transpose") if position else ("permutation", "flip", "transpose")


_SIDES = (1, 2, 3, 6)


class DualRelationAttention(Context):
    """Compact position attention and compact channel attention, added with learnt factors that start at zero.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of queries and keys as a part of C, rounded down.
        center_ratio: number of the channels' centres as a part of C, rounded down.
        position: whether pixels attend to centres of places.
        channel: whether channels attend to centres of channels.

    Raises:
        ValueError: a branch would have no unit, or neither is wanted.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 4,
        center_ratio: float = 1 / 16,
        position: bool = True,
        channel: bool = True,
    ) -> None:
        super().__init__()
        if not (position or channel):
            raise ValueError("one of position and channel must be true, got False for both")
        self.position = _Positions(channels, reduced(channels, rd_ratio)) if position else None
        self.channel = _Channels(channels, reduced(channels, center_ratio, "center_ratio")) if channel else None

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        parts = [branch(x) for branch in (self.position, self.channel) if branch is not None]
        context: Tensor = sum(parts[1:], parts[0])
        return context


class _Positions(nn.Module):
    """α P."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.centers = nn.ModuleList(_mixed(channels, channels) for _ in _SIDES)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Linear(channels, hidden, bias=False)
        self.value = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        cells = _cells(x)
        centers = torch.cat([mix(z).flatten(2) for mix, z in zip(self.centers, cells, strict=True)], 2).mT
        key, value = self.key(centers), self.value(centers) * self.scale  # (B, 50, c), (B, 50, C)
        value = value.to(key.dtype)
        return attention(self.query(x).flatten(2).mT, key, value, scale=1.0).mT.unflatten(2, x.shape[2:])


class _Channels(nn.Module):
    """β C; max_j E_{ij} is the same for the whole row, and the softmax of −E is that of the difference."""

    def __init__(self, channels: int, centers: int) -> None:
        super().__init__()
        self.centers = _mixed(channels, centers)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        rows, centers = x.flatten(2), self.centers(x).flatten(2)
        with without_autocast(x):
            if rows.dtype.itemsize < 4 or centers.dtype.itemsize < 4:
                rows, centers = rows.float(), centers.float()
            mixed = attention(rows, centers, (centers * self.scale).to(rows.dtype), scale=-1.0)
        return mixed.unflatten(2, x.shape[2:]).to(x.dtype)


def _mixed(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), BatchNorm2d(out), nn.ReLU())


def _cells(x: Tensor) -> list[Tensor]:
    """Means of x (B, C, H, W) over s×s cells, (B, C, s, s) for each s, in one pass and for any H and W."""
    down, across = (_means(x, side) for side in x.shape[2:])  # (12, H), (12, W)
    every = down @ (x @ across.mT)  # (B, C, 12, 12)
    parts = zip(every.split(_SIDES, 2), range(len(_SIDES)), strict=True)
    return [rows.split(_SIDES, 3)[place] for rows, place in parts]


def _means(x: Tensor, length: int) -> Tensor:
    """Matrices that take means over s parts of ``length`` pixels, one above the other, (12, ``length``)."""
    pixel = torch.arange(length, device=x.device)
    part = torch.cat([torch.arange(s, device=x.device) for s in _SIDES])[:, None]
    number = torch.cat([torch.full((s, 1), s, device=x.device) for s in _SIDES])
    inside = ((pixel >= part * length // number) & (pixel < -(-(part + 1) * length // number))).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)
