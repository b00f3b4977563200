r"""Dual attention: pixels attend to similar pixels, channels to dissimilar channels.

    q = W_q x + b_q,  k = W_k x    (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    v = W_v x + b_v                (B, C, N)
    S_{ji} = softmax_i(q_jᵀ k_i)   (B, N, N)                                         eq. 1
    E_j = α Σ_i S_{ji} v_i + x_j   (B, C, N), α initialised to 0                     eq. 2
    G = x xᵀ                       (B, C, C)
    X_{ji} = softmax_i(max_i G_{ji} − G_{ji})                                        eq. 3
    F_j = β Σ_i X_{ji} x_i + x_j   (B, C, N), β initialised to 0                     eq. 4
    y = E + F − x                  (B, C, H, W)

The paper prints a softmax of G itself. The authors' code, which our branches match, subtracts G from its row maxima, so
the *least* similar channels get the largest weights. Logits are not scaled; G is computed in float32. The authors' keys
have a bias, which a softmax ignores. Their branches act between convolutions, ours on x.

Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import Context, reduced_channels
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
    "limits": ["channels * rd_ratio must be at least 1", "at least one of position and channel must be true"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, position: bool, channel: bool) -> int:
    hidden = int(channels * rd_ratio)
    return position * ((2 * channels + 1) * hidden + channels**2 + channels + 1) + channel


class DualAttention(Context):
    """Sum of attention over pixels and over channels.

    Args:
        channels: C.
        rd_ratio: c/C.
        position: True enables attention over pixels.
        channel: True enables attention over channels.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 8, position: bool = True, channel: bool = True) -> None:
        super().__init__()
        if not (position or channel):
            raise ValueError("at least one of position and channel must be true, got False for both")
        self.position = _PixelAttention(channels, rd_ratio) if position else None
        self.channel = _ChannelAttention() if channel else None

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        outputs = [branch(x) for branch in (self.position, self.channel) if branch is not None]
        context: Tensor = sum(outputs[1:], outputs[0])
        return context


class _PixelAttention(nn.Module):
    """Attention over pixels, α Σ_i S_{ji} v_i."""

    def __init__(self, channels: int, rd_ratio: float) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))  # α

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2).mT for layer in (self.query, self.key, self.value))
        return self.gamma * attention(query, key, value, scale=1.0).mT.unflatten(2, x.shape[2:])


class _ChannelAttention(nn.Module):
    """Attention over channels, β Σ_i X_{ji} x_i.

    X equals softmax(−G), because a softmax ignores a row's constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))  # β

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(2)
        with without_autocast(x):
            features = features.float() if features.dtype.itemsize < 4 else features
            output = attention(features, features, features, scale=-1.0)
        return self.gamma * output.unflatten(2, x.shape[2:]).to(x.dtype)


# Old names, needed to unpickle earlier networks.
_Positions, _Channels = _PixelAttention, _ChannelAttention
