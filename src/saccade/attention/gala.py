r"""Global-and-Local Attention: a channel branch g and a spatial branch l, with a learnt mix of g + l and g · l.

    g = W₂ ReLU(W₁ mean_{h,w} x + b₁) + b₂                           (B, C, 1, 1)     C -> C·rd_ratio -> C
    l = Conv_{1×1}(ReLU(Conv_{1×1}(x)))                              (B, 1, H, W)     C -> C·rd_ratio -> 1
    y = x ⊙ tanh(α ⊙ (g + l) + β ⊙ (g · l))                          (B, C, H, W)     α, β: (C,)

These are the equations of ``variant="paper"``. The default, ``variant="official"``, follows the authors' code: g ends
in a ReLU, l has a 5×5 convolution, and the gate is a sigmoid:

    g = ReLU(W₂ ReLU(W₁ mean_{h,w} x + b₁) + b₂)
    l = Conv_{1×1}(ReLU(Conv_{5×5}(ReLU(Conv_{1×1}(x)))))
    y = x ⊙ σ(α ⊙ (g + l) + β ⊙ (g · l))

Initialisation follows the code: α, β and the weights of l normal with variance 1/fan_in (1 for α and β), truncated at
two standard deviations; the weights of g uniform with variance 2/(fan_in + fan_out); biases zero.

Source: Linsley et al., "Learning what and where to attend", ICLR 2019, arXiv:1805.08819; code: serre-lab/gala_tpu.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, check_choice, reduced_channels
from saccade.ops.gating import pooled_mean
from saccade.specs import GateRange

__all__ = ["GlobalAndLocalAttention"]

SPEC = {
    "name": "gala",
    "title": "Global-and-Local Attention",
    "paper": {"authors": "Linsley, Shiebler, Eberhardt, Serre", "title": "Learning what and where to attend",
              "venue": "ICLR", "year": 2019, "arxiv": "1805.08819"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "residual[first]"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "gate": "(0, 1); (-1, 1) with variant='paper'",
    "equivariant": "only with variant='paper': permutation, flip, transpose",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, variant: str) -> int:
    hidden = int(channels * rd_ratio)
    conv5x5 = 25 * hidden**2 + hidden if variant == "official" else 0
    return 3 * channels * hidden + 3 * channels + 3 * hidden + 1 + conv5x5


def gate(variant: str) -> GateRange:
    return GateRange(0, 1) if variant == "official" else GateRange(-1, 1)


def equivariant(variant: str) -> tuple[str, ...]:
    return ("permutation", "flip", "transpose") if variant == "paper" else ()


class GlobalAndLocalAttention(Gate):
    """Gate per element from a channel branch and a spatial branch.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C.
        variant: ``official`` or ``paper``.

    Raises:
        ValueError: the bottlenecks would have no channel, or ``variant`` is unknown.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 4, variant: Literal["official", "paper"] = "official"
    ) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        check_choice("variant", variant, "official", "paper")
        self.released = variant == "official"  # True for the authors' code
        global_layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]
        local_layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.ReLU()]
        if self.released:
            global_layers.append(nn.ReLU())
            local_layers += [nn.Conv2d(hidden, hidden, 5, padding=2), nn.ReLU()]
        self.what = nn.Sequential(*global_layers)  # branch g
        self.where = nn.Sequential(*local_layers, nn.Conv2d(hidden, 1, 1))  # branch l
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))
        for weight in (self.alpha, self.beta):
            nn.init.trunc_normal_(weight)
        for branch in (self.what, self.where):
            for layer in branch:
                if isinstance(layer, nn.Conv2d):
                    if branch is self.what:
                        nn.init.xavier_uniform_(layer.weight)
                    else:
                        std = 1 / math.sqrt(layer.weight[0].numel())
                        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), in (0, 1), or (-1, 1) with ``variant="paper"``."""
        g, local = self.what(pooled_mean(x, keepdim=True)), self.where(x)
        alpha, beta = self.alpha[:, None, None], self.beta[:, None, None]
        # α(g + l) + βgl = αg + (α + βg)·l
        logits: Tensor = alpha * g + (alpha + beta * g) * local
        return logits.sigmoid() if self.released else logits.tanh()
