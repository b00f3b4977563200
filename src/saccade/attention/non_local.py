r"""Non-local block: each pixel adds a weighted mean of all pixels, through narrow layers and a batch norm.

    θ = W_θ x + b_θ                (B, C, H, W) -> (B, c, N), c = ⌊C·rd_ratio⌋, N = H·W
    φ = W_φ p(x), g = W_g p(x) + b_g            -> (B, c, M), p = max pool 2×2 with ``pool``, else M = N
    A = softmax_j(c^−½ θ_iᵀ φ_j)   (B, N, M), each row sums to one
    t_i = Σ_j A_{ij} g_j           (B, c, N)                                                       eq. 1
    y = x + BN(W_t t + b_t)        (B, C, H, W), the scale of BN is 0 at the start                 eq. 6

That is the embedded Gaussian of the authors' code, which scales the logits where the paper does not. Theirs is Caffe2
and was not run; output and gradients equal PySlowFast, by others at the same laboratory.
``instantiation="dot_product"``: A = θᵀφ / M; Σ_j φ_j g_jᵀ, c×c, is formed first, so that cost and memory grow with N.
The softmax's A is never formed: memory grows with N, time with N·M. φ has a bias for the dot product alone, as a
softmax ignores it. Pooling drops an odd border and keeps a map of one row or column.

The published networks have one block at the end of res4, the default, or five: behind every second unit of res3 and
res4. timm's ``nl`` has c = C/8 and the scale C^−½.

Source: Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971; PySlowFast,
``nonlocal_helper.Nonlocal``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, one_of, reduced
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
    "equivariant": "permutation, flip, transpose; with pool=True transpose alone",
    "timm": "nl",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, instantiation: str) -> int:
    hidden = int(channels * rd_ratio)
    return 4 * channels * hidden + (2 + (instantiation == "dot_product")) * hidden + 3 * channels


def equivariant(pool: bool) -> tuple[str, ...]:
    return ("transpose",) if pool else ("permutation", "flip", "transpose")


class NonLocal(Context):
    """Attention of all pixels to all, added through a batch norm whose scale starts at zero.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of θ, φ and g as a part of C, rounded down.
        instantiation: ``softmax``: the scaled embedded Gaussian; ``dot_product``: products divided by their number.
        pool: whether φ and g see the map at half its resolution.

    Raises:
        ValueError: θ, φ and g would have no channel, or there is no such instantiation.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 2,
        instantiation: Literal["softmax", "dot_product"] = "softmax",
        pool: bool = False,
    ) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        one_of("instantiation", instantiation, "softmax", "dot_product")
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
        """Map x (B, C, H, W) to (B, C, H, W)."""
        seen = _halved(x) if self.pool else x
        theta = self.theta(x).flatten(2).mT  # (B, N, c)
        phi, g = self.phi(seen).flatten(2).mT, self.g(seen).flatten(2).mT  # (B, M, c)
        if self.dot_product:
            t = theta @ (phi.mT / phi.shape[1] @ g)
        else:
            t = attention(theta, phi, g, scale=theta.shape[2] ** -0.5)
        added: Tensor = self.bn(self.out(t.mT.unflatten(2, x.shape[2:])))
        return added


def _halved(x: Tensor) -> Tensor:
    """The largest of each 2×2 pixels of x (B, C, H, W): (B, C, max(1, ⌊H/2⌋), max(1, ⌊W/2⌋))."""
    for axis in (2, 3):
        side = x.shape[axis]
        first = window_starts(side, 2, 2, x.device)
        x = torch.maximum(x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=side - 1)))
    return x
