r"""A visual-transformer block: pixels attend to a few tokens pooled from x.

    T  = softmax_{h,w}(X W_A)ᵀ X                 (B, L, C)       X: x as (B, H·W, C), W_A: C -> L             eq. 1
    T' = T + softmax_L((T K)(T Q)ᵀ) T            (B, L, C)                                                    eq. 3
    T″ = T' + ReLU(T' F₁) F₂                     (B, L, C)                                                    eq. 4
    Y  = X + softmax_L((X W_Q)(T″ W_K)ᵀ) T″      (B, H·W, C)     pixels are queries, tokens keys and values   eq. 5

K, Q, F₁, F₂, W_Q, W_K: C -> C. The paper prints no value matrix, scaling, normalisation or bias; ``scaled=True``
divides all logits by √C, as in the first arXiv version. The authors published no code. The recurrent tokenizer (eq. 2)
is left out. The paper replaces the last stage by such blocks; here one precedes it.

Source: Wu et al., "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", ICCV 2021,
arXiv:2006.03677.
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
    """Attention of pixels to tokens.

    Args:
        channels: C.
        tokens: L, at least 2.
        scaled: True divides logits by √C.

    Raises:
        ValueError: ``tokens`` is below 2: a softmax over one token is constant.
    """

    def __init__(self, channels: int, tokens: int = 16, scaled: bool = False) -> None:
        super().__init__()
        if tokens < 2:
            raise ValueError(f"tokens must be at least 2, got {tokens}")
        self.scale = channels**-0.5 if scaled else 1.0
        self.tokenize = nn.Linear(channels, tokens, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.query = nn.Linear(channels, channels, bias=False)
        self.widen = nn.Linear(channels, channels, bias=False)  # F₁
        self.narrow = nn.Linear(channels, channels, bias=False)  # F₂
        self.pixel_query = nn.Linear(channels, channels, bias=False)
        self.token_key = nn.Linear(channels, channels, bias=False)

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        pixels = x.flatten(2)
        weights = (self.tokenize(pixels.mT).mT * self.scale).softmax(2)
        tokens = weights.to(x.dtype) @ pixels.transpose(1, 2)
        token_attention = (self.key(tokens) @ self.query(tokens).transpose(1, 2) * self.scale).softmax(2)
        tokens = tokens + token_attention.to(tokens.dtype) @ tokens
        tokens = tokens + self.narrow(self.widen(tokens).relu())
        keys = self.token_key(tokens)
        if is_plain_layer(self.pixel_query):
            # Projecting every pixel would cost more.
            logits = keys @ self.pixel_query.weight @ pixels
        else:
            logits = keys @ self.pixel_query(pixels.mT).mT
        pixel_attention = (logits * self.scale).softmax(1)
        return (tokens.transpose(1, 2) @ pixel_attention.to(tokens.dtype)).unflatten(2, x.shape[2:])
