r"""Self-attention of SAGAN: each pixel adds a weighted mean of the pixels that match it.

    f = W_f x,  g = W_g x          (B, C, H, W) -> (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    h = W_h x                      (B, C, H, W) -> (B, C, N)
    β_{j,i} = softmax_i(f_iᵀ g_j)  (B, N, N), for each pixel j a mean over all pixels i       eq. 1
    o_j = Σ_i β_{j,i} h_i          (B, C, N)                                                  eq. 2
    y = γ o + x                    (B, C, H, W), γ = 0 at the start                           eq. 3

The logits are not scaled; no layer has a bias. As in fastai's ``SelfAttention``, whose output and gradients this
equals, h stands for the paper's two layers v and h; fastai calls f the query, here g is. There is no spectral
normalisation. The authors' own code pools f and h by 2×2 and puts h through C/2 channels: another layer.

β is never formed: memory grows with N, time with N². The position is that of fastai's U-Net on a ResNet: one, where the
map has an eighth of the picture's size.

Source: Zhang, Goodfellow, Metaxas, Odena, "Self-Attention Generative Adversarial Networks", ICML 2019,
arXiv:1805.08318; fastai, ``layers.SelfAttention`` and ``vision.models.unet.DynamicUnet``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import Context, reduced
from saccade.ops.attention import attention

__all__ = ["SelfAttention"]

SPEC = {
    "name": "self_attention",
    "title": "Self-attention of SAGAN",
    "paper": {"authors": "Zhang, Goodfellow, Metaxas, Odena", "title": "Self-Attention Generative Adversarial Networks",
              "venue": "ICML", "year": 2019, "arxiv": "1805.08318"},
    "kind": "context",
    "evidence": "paper",
    "code": ["fastai/fastai"],
    "position": {"default": "stage[-3]"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    return 2 * channels * int(channels * rd_ratio) + channels**2 + 1


class SelfAttention(Context):
    """Weighted mean over all pixels, added with a learnt factor that starts at zero.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of queries and keys as a part of C, rounded down.

    Raises:
        ValueError: queries and keys would have no channel.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 8) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        self.query = nn.Conv2d(channels, hidden, 1, bias=False)
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        o = attention(query, key, value, scale=1.0)  # (B, N, C)
        return self.gamma * o.transpose(1, 2).unflatten(2, x.shape[2:])
