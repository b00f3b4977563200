r"""SimAM: a parameter-free gate that grows with an element's distance from the mean of its channel.

    d = (x − mean_{h,w} x)²                         (B, C, H, W)
    v = Σ_{h,w} d / (H·W − 1)                       (B, C, 1, 1)
    E = d / (4 (v + λ)) + 1/2                       (B, C, H, W)          inverse of the minimal energy, eq. 5
    y = x ⊙ σ(E)                                    (B, C, H, W)

E is at least 1/2, so gates are at least σ(1/2) = 0.622. λ, ``e_lambda``, is 1e-4 in the authors' code; their
ImageNet runs use 0.1. On a map of one pixel v is 0. In half precision the gate is computed in float32, because squares
overflow.

Source: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021,
PMLR 139:11863-11874.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.bases import Gate
from saccade.ops.energy import energy_gate

__all__ = ["SimpleAttention"]

SPEC = {
    "name": "simam",
    "title": "SimAM, a simple parameter-free attention module",
    "paper": {"authors": "Yang, Zhang, Li, Xie",
              "title": "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
              "venue": "ICML", "year": 2021},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["ZjjConan/SimAM"],
    "position": {"default": "conv3x3"},
    "limits": ["e_lambda must be positive"],
    "gate": (0.622, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 25.56, "macs": 4.11, "top1": 77.45, "source": "SimAM README",
         "note": "e_lambda=0.1"},
        {"net": "resnet18", "params": 11.69, "macs": 1.82, "top1": 71.31, "source": "SimAM README",
         "note": "e_lambda=0.1"},
        {"net": "mobilenet_v2", "params": 3.50, "macs": 0.31, "top1": 72.36, "source": "SimAM README",
         "note": "e_lambda=0.1"},
    ],
}  # fmt: skip


def parameters() -> int:
    return 0


class SimpleAttention(Gate):
    """Parameter-free gate per element.

    Args:
        channels: C, unused.
        e_lambda: λ.

    Raises:
        ValueError: ``e_lambda`` is not positive: a constant channel would give 0/0.
    """

    def __init__(self, channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        if e_lambda <= 0:
            raise ValueError(f"e_lambda must be positive, got {e_lambda}")
        self.e_lambda = e_lambda

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        return energy_gate(x.to(torch.promote_types(x.dtype, torch.float32)), self.e_lambda)
