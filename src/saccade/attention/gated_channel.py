r"""Gated Channel Transformation: a channel gate from the norms of the channels.

    s_c = α_c (Σ_{h,w} x_c² + ε)^½                   embedding       (B, C)                       eq. 2
    ŝ_c = s_c/(mean_c s² + ε)^½                      normalisation   (B, C)                       eq. 3
    y_c = x_c (1 + tanh(γ_c ŝ_c + β_c))              gating          (B, C, H, W)                 eq. 4

α starts at 1, γ and β at 0, so the module starts as the identity. ``mode="l1"`` replaces the L2 norm by Σ|x_c| and the
root mean square by mean_c |s|. Equation 3 prints √C s_c/(Σ_c s² + ε)^½; we follow the authors' code. The authors gate
the input of every convolution.

Source: Yang et al., "Gated Channel Transformation for Visual Recognition", CVPR 2020, arXiv:1909.11519.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, check_choice

__all__ = ["GatedChannelTransformation"]

SPEC = {
    "name": "gated_channel",
    "title": "Gated Channel Transformation",
    "paper": {"authors": "Yang, Zhu, Wu, Yang", "title": "Gated Channel Transformation for Visual Recognition",
              "venue": "CVPR", "year": 2020, "arxiv": "1909.11519"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "residual"},
    "limits": ["eps must be positive"],
    "neutral": True,
    "gate": (0.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
}  # fmt: skip


def parameters(channels: int) -> int:
    return 3 * channels


class GatedChannelTransformation(Gate):
    """Channel gate from channel norms.

    Args:
        channels: C.
        mode: norm, ``l2`` or ``l1``.
        eps: ε, positive.

    Raises:
        ValueError: ``mode`` is unknown, or ``eps`` is not positive.
    """

    def __init__(self, channels: int, mode: Literal["l1", "l2"] = "l2", eps: float = 1e-5) -> None:
        super().__init__()
        check_choice("mode", mode, "l1", "l2")
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.eps = eps
        self.squared = mode == "l2"  # L2 norm, else L1
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1), between 0 and 2."""
        norm_dtype = torch.promote_types(x.dtype, torch.float32)  # sums of float16 overflow
        norm = torch.linalg.vector_norm(x, 2 if self.squared else 1, (2, 3), dtype=norm_dtype)
        if self.squared:
            s = self.alpha * (norm.square() + self.eps).sqrt()
            s = s * (s.square().mean(1, keepdim=True) + self.eps).rsqrt()
        else:
            s = self.alpha * norm
            s = s / (s.abs().mean(1, keepdim=True) + self.eps)
        gate = 1 + (self.gamma * s + self.beta).tanh()
        return gate[:, :, None, None]
