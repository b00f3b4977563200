r"""A visual-transformer block: a transformer over a few tokens pooled from the map, which every pixel reads.

    T  = softmax_{h,w}(X W_A)ᵀ X                 (B, L, C)       X: the map as (B, H·W, C), W_A: C -> L       eq. 1
    T' = T + softmax_L((T K)(T Q)ᵀ) T            (B, L, C)       a transformer over L tokens                  eq. 3
    T″ = T' + ReLU(T' F₁) F₂                     (B, L, C)                                                    eq. 4
    Y  = X + softmax_L((X W_Q)(T″ W_K)ᵀ) T″      (B, H·W, C)     every pixel asks, the tokens answer          eq. 5

K, Q, F₁, F₂, W_Q, W_K: C -> C. As printed: no value matrix, no scaling, no normalisation, no bias. ``scaled=True``
divides all logits by √C, as the pseudo-code of the first arXiv version does, which has heads and grouped layers
besides. The authors published no code, and no known reading has all the printed sizes.

The tokenizer is the filter-based one; the recurrent one (eq. 2) needs the tokens of another module. In the paper
modules replace the last stage; here one stands behind the stage at 1/16 of the picture's size, and the last stage
stays.

(X W_Q)(T″ W_K)ᵀ is computed as X (T″ W_K W_Qᵀ)ᵀ, unless a hook or wrapper acts on W_Q.

Source: Wu, Xu, Dai, Wan, Zhang, Yan, Tomizuka, Gonzalez, Keutzer, Vajda, "Visual Transformers: Where Do Transformers
Really Belong in Vision Models?", ICCV 2021, arXiv:2006.03677.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Context
from saccade.ops.eager import is_plain_layer

__all__ = ["VisualTransformer"]

SPEC = {
    "name": "vt",
    "title": "Visual-transformer block",
    "paper": {"authors": "Wu, Xu, Dai, Wan, Zhang, Yan, Tomizuka, Gonzalez, Keutzer, Vajda",
              "title": "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", "venue": "ICCV",
              "year": 2021, "arxiv": "2006.03677"},
    "kind": "context",
    "evidence": "paper",
    "position": {"default": "stage[-2]"},
    "limits": ["tokens must be at least 2"],
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int, tokens: int) -> int:
    return tokens * channels + 6 * channels**2


class VisualTransformer(Context):
    """Filter tokenizer, transformer over the tokens, projector back to the pixels.

    Args:
        channels: C of the map (B, C, H, W), and of the tokens.
        tokens: L, at least two.
        scaled: whether logits are divided by √C.

    Raises:
        ValueError: ``tokens`` is less than two, and a softmax over one is constant.
    """

    def __init__(self, channels: int, tokens: int = 16, scaled: bool = False) -> None:
        super().__init__()
        if tokens < 2:
            raise ValueError(f"tokens must be at least 2, got {tokens}")
        self.scale = channels**-0.5 if scaled else 1.0
        self.tokenize = nn.Linear(channels, tokens, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.query = nn.Linear(channels, channels, bias=False)
        self.widen = nn.Linear(channels, channels, bias=False)
        self.narrow = nn.Linear(channels, channels, bias=False)
        self.pixel_query = nn.Linear(channels, channels, bias=False)
        self.token_key = nn.Linear(channels, channels, bias=False)

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to what is added, (B, C, H, W)."""
        pixels = x.flatten(2)  # (B, C, N)
        weights = (self.tokenize(pixels.mT).mT * self.scale).softmax(2)  # (B, L, N)
        t = weights.to(x.dtype) @ pixels.transpose(1, 2)  # (B, L, C)
        read = (self.key(t) @ self.query(t).transpose(1, 2) * self.scale).softmax(2)  # (B, L, L)
        t = t + read.to(t.dtype) @ t
        t = t + self.narrow(self.widen(t).relu())
        keys = self.token_key(t)  # (B, L, C)
        if is_plain_layer(self.pixel_query):
            logits = keys @ self.pixel_query.weight @ pixels  # W_Q taken over from the pixels
        else:
            logits = keys @ self.pixel_query(pixels.mT).mT
        answers = (logits * self.scale).softmax(1)  # (B, L, N)
        return (t.transpose(1, 2) @ answers.to(t.dtype)).unflatten(2, x.shape[2:])
