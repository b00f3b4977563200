r"""Self-attention of SAGAN in place of a convolution.

    q, k, v = W_q x, W_k x, W_v x          (B, c, N), (B, c, N), (B, O, N); c = ⌊C·rd_ratio⌋, N = H·W
    o_j = Σ_i softmax_i(q_jᵀ k_i) v_i      (B, O, N)
    y = γ o + P x                          (B, O, H, W), γ initialised to 0

P is the identity if O = C, else a 1×1 convolution. No layer but the optional bias b, added to y, has a bias.

A report on a U-Net replaces convolutions of its blocks by fastai's ``SelfAttention``. It gives no score, position or
equation for O ≠ C: P and the position are our reading. The cost grows with N², so the default ends at 1/8 of the
image's resolution.

Source: Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019, arXiv:1805.08318.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from saccade.bases import reduced_channels
from saccade.ops.attention import attention
from saccade.ops.memory_format import match_memory_format

__all__ = ["SelfAttentionConvolution"]

SPEC = {
    "name": "self_attention_conv",
    "title": "Self-attention of SAGAN in place of a convolution",
    "paper": {"authors": "Zhang, Goodfellow, Metaxas, Odena", "title": "Self-Attention Generative Adversarial Networks",
              "venue": "ICML", "year": 2019, "arxiv": "1805.08318"},
    "kind": "conv",
    "evidence": "reading",
    "position": {"default": "conv3x3 in stage[-1:]", "unet": "conv3x3 in decoder[:-3]"},
    "neutral": "with out_channels=None",
    "equivariant": ["permutation", "flip", "transpose"],
    "limits": [
        "channels, out_channels and kernel_size must be at least 1",
        "channels * rd_ratio must be at least 1",
        "stride and groups must be 1",
        "padding must be dilation * (kernel_size - 1) / 2",
    ],
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, rd_ratio: float) -> int:
    n_outputs = channels if out_channels is None else out_channels
    matrices = 2 * channels * int(channels * rd_ratio) + channels * n_outputs * (1 + (n_outputs != channels))
    return matrices + 1 + bias * n_outputs


def neutral(out_channels: int | None) -> bool:
    return out_channels is None


class SelfAttentionConvolution(nn.Module):
    """Attention over all pixels, added to the input with a learnt factor.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: kernel size of the replaced convolution.
        stride: must be 1.
        padding: must be dilation·(kernel_size − 1)/2, the default.
        dilation: dilation of the replaced convolution.
        groups: must be 1.
        bias: True adds a bias.
        rd_ratio: c/C.
        spectral_norm: True divides W_q, W_k and W_v by their spectral norms, tracked by power iteration in training.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        rd_ratio: float = 1 / 8,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        n_outputs = channels if out_channels is None else out_channels
        if min(channels, n_outputs, kernel_size) < 1:
            raise ValueError(
                "channels, out_channels and kernel_size must be at least 1, got "
                f"{channels}, {n_outputs} and {kernel_size}"
            )
        if stride != 1 or groups != 1:
            raise ValueError(f"stride and groups must be 1, got {stride} and {groups}")
        if padding is None and dilation * (kernel_size - 1) % 2 == 0:
            padding = dilation * (kernel_size - 1) // 2
        if padding is None or 2 * padding != dilation * (kernel_size - 1):
            raise ValueError(
                "padding must be dilation * (kernel_size - 1) / 2, to keep the size, got "
                f"{padding}, {dilation} and {kernel_size}"
            )
        hidden = reduced_channels(channels, rd_ratio)
        self.query = nn.Conv2d(channels, hidden, 1, bias=False)
        self.key = nn.Conv2d(channels, hidden, 1, bias=False)
        self.value = nn.Conv2d(channels, n_outputs, 1, bias=False)
        if spectral_norm:
            for layer in (self.query, self.key, self.value):
                parametrizations.spectral_norm(layer)
        self.shortcut = nn.Identity() if n_outputs == channels else nn.Conv2d(channels, n_outputs, 1, bias=False)  # P
        self.gamma = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, O, H, W), in the dtype of x."""
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        o = attention(query, key, value, scale=1.0).transpose(1, 2).unflatten(2, x.shape[2:])
        y: Tensor = self.shortcut(x) + self.tap(self.gamma * o)
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return match_memory_format(y.to(x.dtype), x)
