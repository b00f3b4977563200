r"""Dual relation-aware attention: pixels attend to pooled cells, channels to channel combinations.

    z_s = ReLU(BN_s(W_s pool_s(x)))          (B, C, s, s), means over an s×s grid, s = 1, 2, 3, 6
    Z = [z_1, z_2, z_3, z_6]                 (B, 50, C), spatial gathering centres
    q = W_q x + b_q, k = W_k Z, v = W_v Z + b_v      (B, N, c), (B, 50, c), (B, 50, C), N = H·W, c = ⌊C·rd_ratio⌋
    P_i = Σ_j softmax_j(q_iᵀ k_j) v_j        (B, C, N), position attention
    Y = ReLU(BN(W_y x))                      (B, K, N), K = ⌊C·center_ratio⌋, channel gathering centres
    E = x Yᵀ                                 (B, C, K)
    Q_i = Σ_j softmax_j(max_j E_{ij} − E_{ij}) Y_j   (B, C, N), channel attention
    y = x + α P + β Q                        (B, C, H, W), α and β initialised to 0

Cells are those of adaptive pooling. Logits are not scaled; E is computed in float32. As in DANet the *least* similar
channels get the largest weights. The authors' k has a bias, which a softmax ignores. Their branches act between
convolutions, ours on x; their sum is our choice. The DAS paper likely means this mechanism.

Source: Fu et al., "Scene Segmentation With Dual Relation-Aware Attention Network", TNNLS 2021; code in the repository
of DANet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, reduced_channels
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
        "at least one of position and channel must be true",
    ],
    "neutral": True,
    "equivariant": "flip, transpose; only with position=False: permutation",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, center_ratio: float, position: bool, channel: bool) -> int:
    hidden = int(channels * rd_ratio)
    spatial_count = 5 * channels**2 + 2 * channels * hidden + hidden + 9 * channels + 1
    return position * spatial_count + channel * ((channels + 2) * int(channels * center_ratio) + 1)


def equivariant(position: bool) -> tuple[str, ...]:
    return ("flip", "transpose") if position else ("permutation", "flip", "transpose")


_GRID_SIZES = (1, 2, 3, 6)  # s


class DualRelationAttention(Context):
    """Sum of attention to spatial centres and to channel centres.

    Args:
        channels: C.
        rd_ratio: c/C.
        center_ratio: number of channel centres / C.
        position: True lets pixels attend to spatial centres.
        channel: True lets channels attend to channel centres.

    Raises:
        ValueError: a limit of SPEC is violated.
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
            raise ValueError("at least one of position and channel must be true, got False for both")
        self.position = _SpatialCentersAttention(channels, reduced_channels(channels, rd_ratio)) if position else None
        self.channel = (
            _ChannelCentersAttention(channels, reduced_channels(channels, center_ratio, "center_ratio"))
            if channel
            else None
        )

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        outputs = [branch(x) for branch in (self.position, self.channel) if branch is not None]
        context: Tensor = sum(outputs[1:], outputs[0])
        return context


class _SpatialCentersAttention(nn.Module):
    """Position attention, α P."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.centers = nn.ModuleList(_conv_bn_relu(channels, channels) for _ in _GRID_SIZES)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Linear(channels, hidden, bias=False)
        self.value = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.zeros(1))  # α

    def forward(self, x: Tensor) -> Tensor:
        cells = _cells(x)
        centers = torch.cat([layer(z).flatten(2) for layer, z in zip(self.centers, cells, strict=True)], 2).mT
        key, value = self.key(centers), self.value(centers) * self.scale
        value = value.to(key.dtype)
        return attention(self.query(x).flatten(2).mT, key, value, scale=1.0).mT.unflatten(2, x.shape[2:])


class _ChannelCentersAttention(nn.Module):
    """Channel attention, β Q, by the softmax of −E."""

    def __init__(self, channels: int, n_centers: int) -> None:
        super().__init__()
        self.centers = _conv_bn_relu(channels, n_centers)
        self.scale = nn.Parameter(torch.zeros(1))  # β

    def forward(self, x: Tensor) -> Tensor:
        features, centers = x.flatten(2), self.centers(x).flatten(2)
        with without_autocast(x):
            if features.dtype.itemsize < 4 or centers.dtype.itemsize < 4:
                features, centers = features.float(), centers.float()
            output = attention(features, centers, (centers * self.scale).to(features.dtype), scale=-1.0)
        return output.unflatten(2, x.shape[2:]).to(x.dtype)


def _conv_bn_relu(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), BatchNorm2d(out), nn.ReLU())


def _cells(x: Tensor) -> list[Tensor]:
    """Return the means (B, C, s, s) of x (B, C, H, W) over the cells of an s×s grid, for each s."""
    row_weights, column_weights = (_averaging_matrix(x, length) for length in x.shape[2:])  # (12, H), (12, W)
    all_means = row_weights @ (x @ column_weights.mT)  # (B, C, 12, 12)
    return [rows.split(_GRID_SIZES, 3)[index] for index, rows in enumerate(all_means.split(_GRID_SIZES, 2))]


def _averaging_matrix(x: Tensor, length: int) -> Tensor:
    """Return stacked matrices (12, ``length``) that average ``length`` pixels into s cells for each s."""
    pixel = torch.arange(length, device=x.device)
    cell = torch.cat([torch.arange(s, device=x.device) for s in _GRID_SIZES])[:, None]
    grid_size = torch.cat([torch.full((s, 1), s, device=x.device) for s in _GRID_SIZES])
    membership = ((pixel >= cell * length // grid_size) & (pixel < -(-(cell + 1) * length // grid_size))).to(x.dtype)
    return membership / membership.sum(1, keepdim=True)


# Old names, needed to unpickle earlier networks.
_Positions, _Channels = _SpatialCentersAttention, _ChannelCentersAttention
