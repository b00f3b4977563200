r"""Polarized self-attention: a channel gate that sees every place, and a spatial gate that sees every channel.

    m = softmax_p(w · x_p)                        (B, H·W)             where to look
    A = σ(LN(W_z Σ_p m_p W_v x_p))                (B, C, 1, 1)         C -> C/2 -> C
    t = softmax_c(mean_p W_q' x_p)                (B, C/2)             what to look for
    B = σ(Σ_c t_c (W_v' x)_c)                     (B, 1, H, W)
    y = x ⊙ A + x ⊙ B                             ``layout="parallel"``
    y = x' ⊙ B(x'),  x' = x ⊙ A(x)                ``layout="sequential"``

That is the paper, ``variant="paper"``, the default. The authors' code, ``variant="official"``, differs: its parallel
form has no LN, and its second gate is σ(softmax_p(…)), between 1/2 and σ(1); its sequential form has W₂ ReLU(LN(W₁ · +
b₁)) + b₂ with C/8 units for W_z, and takes the softmax of W_v' x over the places of each channel, weighed by the means
of W_q' x. No other layer has a bias.

Sums over pixels and layers change places, Σ_p m_p W_v x_p = W_v Σ_p m_p x_p and so on, so that no map of C/2 channels
is made, except in the official sequential form and where a hook or wrapper acts on W_v'.

Source: Liu, Liu, Fan, Huang, "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021,
arXiv:2107.00782. The paper puts it behind the first 3×3 convolution of each unit.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from saccade.bases import Gate, one_of
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
    "limits": ["channels must be at least 4", "channels must be at least 16"],
    "gate": (0.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, layout: str, variant: str) -> int:
    half = channels // 2
    if variant == "paper":
        last = channels * half + 2 * channels
    elif layout == "parallel":
        last = channels * half
    else:
        last = (channels // 8) * (half + 3 + channels) + channels
    return channels + 3 * channels * half + last


class PolarizedAttention(Gate):
    """Sum or product of a gate of channels and a gate of places.

    Args:
        channels: C of the map (B, C, H, W).
        layout: ``parallel`` adds the gates, ``sequential`` reads the second off the map that the first has gated.
        variant: ``paper``, or what the authors' code does instead: ``official``.

    Raises:
        ValueError: there is no such layout or variant, or a layer would have no unit.
    """

    def __init__(
        self,
        channels: int,
        layout: Literal["parallel", "sequential"] = "parallel",
        variant: Literal["paper", "official"] = "paper",
    ) -> None:
        super().__init__()
        one_of("layout", layout, "parallel", "sequential")
        one_of("variant", variant, "paper", "official")
        self.parallel, self.official = layout == "parallel", variant == "official"
        least = 16 if self.official and not self.parallel else 4  # softmax and norm of one unit do not look at it
        if channels < least:
            raise ValueError(f"channels must be at least {least} with {variant=} and {layout=}, got {channels}")
        half = channels // 2
        self.mask = nn.Linear(channels, 1, bias=False)
        self.value = nn.Linear(channels, half, bias=False)
        self.expand = self._expansion(half, channels)
        self.query = nn.Linear(channels, half, bias=False)
        self.key = nn.Linear(channels, half, bias=False)
        for layer in (self.mask, self.value, self.query, self.key):
            nn.init.kaiming_normal_(layer.weight)

    def _expansion(self, half: int, channels: int) -> nn.Sequential:
        if not self.official:
            return nn.Sequential(nn.Linear(half, channels, bias=False), nn.LayerNorm(channels))
        if self.parallel:
            return nn.Sequential(nn.Linear(half, channels, bias=False))
        units = half // 4
        return nn.Sequential(nn.Linear(half, units), nn.LayerNorm(units), nn.ReLU(), nn.Linear(units, channels))

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        pixels = x.flatten(2)  # (B, C, N)
        mask = self.mask(pixels.mT).mT.softmax(2)  # (B, 1, N)
        seen = (pixels @ mask.to(x.dtype).mT)[:, :, 0]  # (B, C)
        of_channel: Tensor = self.expand(self.value(seen)).sigmoid()  # (B, C)
        mean = pooled_mean(x)
        if self.parallel:
            of_place = self._places(pixels, mean, None)
            return of_channel[:, :, None, None] + of_place.unflatten(2, x.shape[2:])
        of_place = self._places(pixels, mean * of_channel, of_channel)
        return of_channel[:, :, None, None] * of_place.unflatten(2, x.shape[2:])

    def _places(self, pixels: Tensor, mean: Tensor, scale: Tensor | None) -> Tensor:
        """The gate of places (B, 1, N) of the pixels (B, C, N) times ``scale`` (B, C), whose mean is (B, C)."""
        weight = self.query(mean)[:, None]  # (B, 1, C/2)
        if not self.official:
            weight = weight.softmax(2)
        if self.official and not self.parallel:
            assert scale is not None
            place = self._keys(pixels, scale).softmax(2)  # (B, C/2, N)
            return (weight.to(place.dtype) @ place).sigmoid()
        if is_plain_layer(self.key):
            asked = weight.to(self.key.weight.dtype) @ self.key.weight  # (B, 1, C)
            if scale is not None:
                asked = asked * scale[:, None]
            logits = asked.to(pixels.dtype) @ pixels
        else:
            keys = self._keys(pixels, scale)
            logits = weight.to(keys.dtype) @ keys
        return (logits.softmax(2) if self.official else logits).sigmoid()

    def _keys(self, pixels: Tensor, scale: Tensor | None) -> Tensor:
        """W_v' x (B, C/2, N) of the pixels (B, C, N) times ``scale`` (B, C)."""
        scaled = pixels if scale is None else pixels * scale.to(pixels.dtype)[:, :, None]
        keys: Tensor = self.key(scaled.mT)
        return keys.mT
