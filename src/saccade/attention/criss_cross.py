r"""Criss-cross attention: each pixel attends to its row and column, twice.

    q = W_q x + b_q,  k = W_k x                   (B, c, H, W), c = ⌊C·rd_ratio⌋
    a_p = softmax_{p' ∈ cross(p)}(q_p · k_{p'})   over the H + W − 1 pixels in the row and column of p
    o_p = Σ_{p' ∈ cross(p)} a_{p,p'} (W_v x_{p'} + b_v)                                 (B, C, H, W)
    y = x + γ o                                   (B, C, H, W), γ initialised to 0

The block is applied ``recurrence`` times with shared weights. Logits are not scaled. The authors' keys have a bias,
which a softmax ignores.

Source: Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019, arXiv:1811.11721.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import Context, reduced_channels
from saccade.ops.criss_cross import criss_cross
from saccade.ops.eager import is_plain_layer

__all__ = ["CrissCrossAttention"]

SPEC = {
    "name": "cc",
    "title": "Criss-cross attention",
    "paper": {"authors": "Huang, Wang, Huang, Huang, Wei, Liu",
              "title": "CCNet: Criss-Cross Attention for Semantic Segmentation", "venue": "ICCV", "year": 2019,
              "arxiv": "1811.11721"},
    "kind": "context",
    "evidence": "oracle",
    "code": ["speedinghzl/CCNet"],
    "position": {"default": "stage[-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "recurrence must be at least 1"],
    "neutral": True,
    "equivariant": ["flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    hidden = int(channels * rd_ratio)
    return (2 * channels + 1) * hidden + (channels + 1) * channels + 1


class CrissCrossAttention(Context):
    """Attention of each pixel to its row and column.

    Args:
        channels: C.
        rd_ratio: c/C.
        recurrence: number of times the attention is applied.

    Raises:
        ValueError: c is 0, or ``recurrence`` is not positive.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 8, recurrence: int = 2) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        if recurrence < 1:
            raise ValueError(f"recurrence must be at least 1, got {recurrence}")
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def context(self, x: Tensor) -> Tensor:
        """Return the sum of γ o (B, C, H, W) over the passes."""
        context = self._attend(x)
        for _ in range(self.recurrence - 1):
            context = context + self._attend(x + context.to(x.dtype))
        return context

    def _attend(self, x: Tensor) -> Tensor:
        """Return γ o (B, C, H, W) of one pass."""
        # ``x.to(memory_format=torch.channels_last)`` fails under ``vmap``.
        x_channels_last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        weighted_mean = criss_cross(self.query(x_channels_last), self.key(x_channels_last), x_channels_last)
        if not is_plain_layer(self.value):
            output: Tensor = self.gamma * self.value(weighted_mean)
            return output
        weight = (self.gamma * self.value.weight.flatten(1)).expand(x.shape[0], -1, -1)
        assert self.value.bias is not None
        bias = (self.gamma * self.value.bias)[:, None]
        return torch.baddbmm(bias, weight, weighted_mean.flatten(2)).unflatten(2, x.shape[2:])
