r"""Polarized self-attention: a channel gate and a spatial gate.

    m = softmax_p(w · x_p)                        (B, H·W)             weights of pixels
    A = σ(LN(W_z Σ_p m_p W_v x_p))                (B, C, 1, 1)         C -> C/2 -> C
    t = softmax_c(mean_p W_q x_p)                 (B, C/2)             weights of channels
    S = σ(Σ_c t_c (W_k x)_c)                      (B, 1, H, W)
    y = x ⊙ A + x ⊙ S                             ``layout="parallel"``
    y = x' ⊙ S(x'),  x' = x ⊙ A(x)                ``layout="sequential"``

These are the equations of the paper, the default. ``variant="official"`` follows the authors' code. There the parallel
layout has no LN, and a softmax over the pixels precedes the σ of S. The sequential layout has another S, and a
bottleneck in place of W_z:

    z ↦ W₂ ReLU(LN(W₁ z + b₁)) + b₂               C/2 -> C/8 -> C
    S = σ(Σ_c (mean_p W_q x_p)_c softmax_p(W_k x)_c)

No other layer has a bias.

Source: Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, arXiv:2107.00782. The
paper gates after the first 3×3 convolution of each block.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from saccade.bases import Gate, check_choice
from saccade.ops.eager import is_plain_layer
from saccade.ops.gating import pooled_mean

__all__ = ["PolarizedAttention"]

SPEC = {
    "name": "polarized",
    "title": "Polarized self-attention",
    "paper": {"authors": "Liu, Liu, Fan, Huang",
              "title": "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", "venue": "arXiv",
              "year": 2021, "arxiv": "2107.00782"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "activated"},
    "limits": [
        "channels must be at least 4",
        "channels must be at least 16 with variant='official' and layout='sequential'",
    ],
    "gate": (0.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, layout: str, variant: str) -> int:
    half = channels // 2
    if variant == "paper":
        expand_count = channels * half + 2 * channels
    elif layout == "parallel":
        expand_count = channels * half
    else:
        expand_count = (channels // 8) * (half + 3 + channels) + channels
    return channels + 3 * channels * half + expand_count


class PolarizedAttention(Gate):
    """Sum or product of a channel gate and a spatial gate.

    Args:
        channels: C.
        layout: ``parallel`` or ``sequential``.
        variant: ``paper`` or ``official``.

    Raises:
        ValueError: ``channels`` is too small, or a choice is unknown.
    """

    def __init__(
        self,
        channels: int,
        layout: Literal["parallel", "sequential"] = "parallel",
        variant: Literal["paper", "official"] = "paper",
    ) -> None:
        super().__init__()
        check_choice("layout", layout, "parallel", "sequential")
        check_choice("variant", variant, "paper", "official")
        self.parallel, self.official = layout == "parallel", variant == "official"
        min_channels = 16 if self.official and not self.parallel else 4  # a softmax and a LayerNorm need 2 channels
        if channels < min_channels:
            raise ValueError(f"channels must be at least {min_channels} with {variant=} and {layout=}, got {channels}")
        half = channels // 2
        self.mask = nn.Linear(channels, 1, bias=False)  # w
        self.value = nn.Linear(channels, half, bias=False)
        self.expand = self._make_expansion(half, channels)
        self.query = nn.Linear(channels, half, bias=False)
        self.key = nn.Linear(channels, half, bias=False)
        for layer in (self.mask, self.value, self.query, self.key):
            nn.init.kaiming_normal_(layer.weight)

    def _make_expansion(self, half: int, channels: int) -> nn.Sequential:
        if not self.official:
            return nn.Sequential(nn.Linear(half, channels, bias=False), nn.LayerNorm(channels))
        if self.parallel:
            return nn.Sequential(nn.Linear(half, channels, bias=False))
        hidden = half // 4
        return nn.Sequential(nn.Linear(half, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        pixels = x.flatten(2)
        pixel_weights = self.mask(pixels.mT).mT.softmax(2)  # m
        pooled = (pixels @ pixel_weights.to(x.dtype).mT)[:, :, 0]
        channel_gate: Tensor = self.expand(self.value(pooled)).sigmoid()
        mean = pooled_mean(x)
        if self.parallel:
            spatial_gate = self._spatial_gate(pixels, mean, None)
            return channel_gate[:, :, None, None] + spatial_gate.unflatten(2, x.shape[2:])
        spatial_gate = self._spatial_gate(pixels, mean * channel_gate, channel_gate)
        return channel_gate[:, :, None, None] * spatial_gate.unflatten(2, x.shape[2:])

    def _spatial_gate(self, pixels: Tensor, mean: Tensor, scale: Tensor | None) -> Tensor:
        """Return the spatial gate (B, 1, N) of x = pixels·scale, from the mean (B, C) of x over the pixels."""
        weight = self.query(mean)[:, None]  # (B, 1, C/2)
        if not self.official:
            weight = weight.softmax(2)
        if self.official and not self.parallel:
            assert scale is not None
            attention = self._keys(pixels, scale).softmax(2)  # (B, C/2, N)
            return (weight.to(attention.dtype) @ attention).sigmoid()
        if is_plain_layer(self.key):
            folded_weight = weight.to(self.key.weight.dtype) @ self.key.weight  # (B, 1, C)
            if scale is not None:
                folded_weight = folded_weight * scale[:, None]
            logits = folded_weight.to(pixels.dtype) @ pixels
        else:
            keys = self._keys(pixels, scale)
            logits = weight.to(keys.dtype) @ keys
        return (logits.softmax(2) if self.official else logits).sigmoid()

    def _keys(self, pixels: Tensor, scale: Tensor | None) -> Tensor:
        """Return W_k x (B, C/2, N) for x = pixels·scale."""
        scaled = pixels if scale is None else pixels * scale.to(pixels.dtype)[:, :, None]
        keys: Tensor = self.key(scaled.mT)
        return keys.mT
