r"""Self-attention of SAGAN: a weighted mean of similar pixels is added to each.

    f = W_f x,  g = W_g x          (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    h = W_h x                      (B, C, N)
    β_{j,i} = softmax_i(f_iᵀ g_j)  (B, N, N)                               eq. 1
    o_j = Σ_i β_{j,i} h_i          (B, C, N)                               eq. 2
    y = γ o + x                    (B, C, H, W), γ initialised to 0        eq. 3

The logits are not scaled; no layer has a bias. Output and gradients equal those of fastai's ``SelfAttention``, whose
single h replaces the paper's h and v. Paper, authors' code and fastai divide the matrices by their largest singular
value: ``spectral_norm=True``. The authors' code pools f and h by 2×2 and gives h C/2 channels. In a U-Net, fastai puts
it behind the decoder's map at 1/8 of the image's resolution.

Source: Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019, arXiv:1805.08318; fastai,
``layers.SelfAttention``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from saccade.bases import Context, reduced_channels
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
    "position": {"default": "stage[-3]", "unet": "decoder[-4]"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    return 2 * channels * int(channels * rd_ratio) + channels**2 + 1


class SelfAttention(Context):
    """Attention over all pixels, added with a learnt factor.

    Args:
        channels: C.
        rd_ratio: c/C.
        spectral_norm: True divides W_f, W_g and W_h by their spectral norms, tracked by power iteration in training.

    Raises:
        ValueError: queries and keys would have no channel.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 8, spectral_norm: bool = False) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        self.query = nn.Conv2d(channels, hidden, 1, bias=False)  # W_g
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)  # W_f
        self.value = nn.Conv2d(channels, channels, 1, bias=False)  # W_h
        if spectral_norm:
            for layer in (self.query, self.key, self.value):
                parametrizations.spectral_norm(layer)
        self.gamma = nn.Parameter(torch.zeros(1))

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        o = attention(query, key, value, scale=1.0)
        return self.gamma * o.transpose(1, 2).unflatten(2, x.shape[2:])
