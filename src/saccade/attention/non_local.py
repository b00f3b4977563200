r"""Non-local block: a weighted mean over all pixels is added to each.

    θ = W_θ x + b_θ                (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    φ = W_φ p(x), g = W_g p(x) + b_g            (B, c, M), p = 2×2 max pooling with ``pool``, else the identity
    A = softmax_j(c^−½ θ_iᵀ φ_j)   (B, N, M)
    t_i = Σ_j A_{ij} g_j           (B, c, N)                                                       eq. 1
    y = x + BN(W_t t + b_t)        (B, C, H, W), scale of BN initialised to 0                      eq. 6

The logits are scaled as in the authors' code, unlike the paper. Our output and gradients equal those of PySlowFast, by
the same laboratory; the authors' Caffe2 code was not run. A is not stored for large maps.
``instantiation="dot_product"`` has A = θᵀφ / M and a bias in φ, which a softmax would ignore. timm's ``nl`` has c = C/8
and the scale C^−½.

Source: Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971; PySlowFast, ``nonlocal_helper.Nonlocal``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, check_choice, reduced_channels
from saccade.ops.attention import attention
from saccade.ops.resample import window_starts

__all__ = ["NonLocal"]

SPEC = {
    "name": "nl",
    "title": "Non-local block",
    "paper": {"authors": "Wang, Girshick, Gupta, He", "title": "Non-local Neural Networks", "venue": "CVPR",
              "year": 2018, "arxiv": "1711.07971"},
    "kind": "context",
    "evidence": "port",
    "code": ["facebookresearch/SlowFast"],
    "position": {"default": "stage[-2]"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "neutral": True,
    "equivariant": "permutation, flip, transpose; with pool=True only transpose",
    "timm": "nl",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, instantiation: str) -> int:
    hidden = int(channels * rd_ratio)
    return 4 * channels * hidden + (2 + (instantiation == "dot_product")) * hidden + 3 * channels


def equivariant(pool: bool) -> tuple[str, ...]:
    return ("transpose",) if pool else ("permutation", "flip", "transpose")


class NonLocal(Context):
    """Attention between all pixels, added through a batch norm.

    Args:
        channels: C.
        rd_ratio: c/C.
        instantiation: form of A, ``softmax`` or ``dot_product``.
        pool: True applies 2×2 max pooling before φ and g.

    Raises:
        ValueError: θ, φ and g would have no channel, or ``instantiation`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 2,
        instantiation: Literal["softmax", "dot_product"] = "softmax",
        pool: bool = False,
    ) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        check_choice("instantiation", instantiation, "softmax", "dot_product")
        self.dot_product = instantiation == "dot_product"
        self.pool = pool
        self.theta = nn.Conv2d(channels, hidden, 1)
        self.phi = nn.Conv2d(channels, hidden, 1, bias=self.dot_product)
        self.g = nn.Conv2d(channels, hidden, 1)
        self.out = nn.Conv2d(hidden, channels, 1)
        self.bn = BatchNorm2d(channels)
        for layer in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.bn.weight)

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        pooled = _max_pool(x) if self.pool else x
        theta = self.theta(x).flatten(2).mT
        phi, g = self.phi(pooled).flatten(2).mT, self.g(pooled).flatten(2).mT
        if self.dot_product:
            t = theta @ (phi.mT / phi.shape[1] @ g)
        else:
            t = attention(theta, phi, g, scale=theta.shape[2] ** -0.5)
        context: Tensor = self.bn(self.out(t.mT.unflatten(2, x.shape[2:])))
        return context


def _max_pool(x: Tensor) -> Tensor:
    """Return the 2×2 max pooling of x (B, C, H, W): (B, C, max(1, ⌊H/2⌋), max(1, ⌊W/2⌋))."""
    for axis in (2, 3):
        side = x.shape[axis]
        window_start = window_starts(side, 2, 2, x.device)
        next_pixel = (window_start + 1).clamp(max=side - 1)
        x = torch.maximum(x.index_select(axis, window_start), x.index_select(axis, next_pixel))
    return x
