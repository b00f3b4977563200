r"""Scaled-dot-product attention: every query takes the mean of the values, weighed by how well their keys match it.

    A = softmax(s · Q Kᵀ)          (N, M), each row sums to one            s scale
    Y = A V                        (N, V)

``attention_definition`` writes this down and holds A, N·M numbers; ``attention`` is what networks call: its memory
grows with N + M, forward and backward.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, eq. 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.counted import counted

__all__ = ["attention", "attention_definition"]


def _macs(query: Tensor, key: Tensor, value: Tensor, scale: float) -> int:
    """Multiply-adds of both products of one call; the softmax is not counted."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse operands that do not belong together, with the numbers found and needed."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not 3 <= query.ndim <= 4 or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"all operands must have 3 or 4 dimensions, got {shapes}")
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise ValueError(f"all operands must have the same leading dimensions, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have one width, got {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"there must be one value for each key, got {shapes}")


@counted(_macs)
def attention_definition(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``attention``.

    Arguments, result and errors are those of ``attention``.
    """
    _check(query, key, value)
    return (query @ key.transpose(-2, -1) * scale).softmax(-1) @ value


@counted(_macs)
def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Scaled-dot-product attention without the matrix of weights in memory.

    Args:
        query: (B, N, E) or, with heads, (B, heads, N, E).
        key: (…, M, E), leading dimensions as of the query.
        value: (…, M, V).
        scale: s, a factor of the logits; E^−½ in the paper.

    Returns:
        (…, N, V), in the dtype of the operands, under autocast in that of autocast, as a matrix product has it.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    _check(query, key, value)
    heads = [t.unsqueeze(1) if t.ndim == 3 else t for t in (query, key, value)]
    width = max(t.shape[-1] for t in heads)
    # PyTorch's kernel for the CPU takes rows of one common width whose numbers stand side by side; other operands it
    # sends, silently, through the definition. Zeros add nothing to a product and make columns of zeros.
    q, k, v = (F.pad(t, (0, width - t.shape[-1])).contiguous() for t in heads)
    y = F.scaled_dot_product_attention(q, k, v, scale=scale)[..., : value.shape[-1]]
    return y.squeeze(1) if query.ndim == 3 else y
