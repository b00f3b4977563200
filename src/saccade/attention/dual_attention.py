r"""Dual attention: pixels attend to similar pixels, channels to dissimilar channels.

    q = W_q x + b_q,  k = W_k x    (B, C, H, W) -> (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    v = W_v x + b_v                (B, C, H, W) -> (B, C, N)
    S_{ji} = softmax_i(q_jᵀ k_i)   (B, N, N), each row sums to one                                  eq. 1
    E_j = α Σ_i S_{ji} v_i + x_j   (B, C, N), positions: α = 0 at the start                         eq. 2
    G = x xᵀ                       (B, C, C), products of the channels over all pixels
    X_{ji} = softmax_i(max_i G_{ji} − G_{ji})       each row sums to one                            eq. 3
    F_j = β Σ_i X_{ji} x_i + x_j   (B, C, N), channels: β = 0 at the start                          eq. 4
    y = x + α(…) + β(…)            both added once to the map

The paper prints a softmax of G itself; the authors' code subtracts G from the maximum of its row, so that the *least*
similar channels weigh most, and so does this. Output and gradients of each branch equal theirs. No logits are scaled;
those of the channels are sums over all pixels, formed in float32. The authors' keys have a bias, which a softmax
ignores.

In the authors' head a 3×3 convolution stands before each branch and another behind; here both branches read the map as
it comes, y = E + F − x. Neither S nor its gradient is formed: memory grows with N. ``position=False`` or
``channel=False`` leaves a branch out.

Source: Fu, Liu, Tian, Li, Bao, Fang, Lu, "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import Context, reduced
from saccade.ops.attention import attention
from saccade.ops.autocast import without_autocast

__all__ = ["DualAttention"]

SPEC = {
    "name": "danet",
    "title": "Dual attention",
    "paper": {"authors": "Fu, Liu, Tian, Li, Bao, Fang, Lu", "title": "Dual Attention Network for Scene Segmentation",
              "venue": "CVPR", "year": 2019, "arxiv": "1809.02983"},
    "kind": "context",
    "evidence": "oracle",
    "code": ["junfu1115/DANet"],
    "position": {"default": "stage[-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "one of position and channel must be true"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, position: bool, channel: bool) -> int:
    hidden = int(channels * rd_ratio)
    return position * ((2 * channels + 1) * hidden + channels**2 + channels + 1) + channel


class DualAttention(Context):
    """Position attention and channel attention, added side by side with learnt factors that start at zero.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of queries and keys as a part of C, rounded down.
        position: whether pixels attend to pixels.
        channel: whether channels attend to channels.

    Raises:
        ValueError: queries and keys would have no channel, or neither branch is wanted.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 8, position: bool = True, channel: bool = True) -> None:
        super().__init__()
        if not (position or channel):
            raise ValueError("one of position and channel must be true, got False for both")
        self.position = _Positions(channels, rd_ratio) if position else None
        self.channel = _Channels() if channel else None

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        parts = [branch(x) for branch in (self.position, self.channel) if branch is not None]
        context: Tensor = sum(parts[1:], parts[0])
        return context


class _Positions(nn.Module):
    """α Σ_i S_{ji} v_i."""

    def __init__(self, channels: int, rd_ratio: float) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2).mT for layer in (self.query, self.key, self.value))
        return self.gamma * attention(query, key, value, scale=1.0).mT.unflatten(2, x.shape[2:])


class _Channels(nn.Module):
    """β Σ_i X_{ji} x_i; max_i G_{ji} is the same for the whole row, and the softmax of −G is X."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        with without_autocast(x):
            rows = rows.float() if rows.dtype.itemsize < 4 else rows
            mixed = attention(rows, rows, rows, scale=-1.0)
        return self.gamma * mixed.unflatten(2, x.shape[2:]).to(x.dtype)
