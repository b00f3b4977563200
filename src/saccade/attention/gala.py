r"""Global-and-Local Attention: a channel branch and a spatial branch, added and multiplied, mixed for each channel.

    g = W₂ ReLU(W₁ mean_{h,w} x + b₁) + b₂                           (B, C, 1, 1)     C -> C·rd_ratio -> C
    l = Conv_{1×1}(ReLU(Conv_{1×1}(x)))                              (B, 1, H, W)     C -> C·rd_ratio -> 1
    y = x ⊙ tanh(α ⊙ (g + l) + β ⊙ (g · l))                          (B, C, H, W)     α, β: (C,)

That is the paper, ``variant="paper"``. The authors' code, ``variant="official"``, the default, differs in three places:

    g = ReLU(W₂ ReLU(W₁ mean_{h,w} x + b₁) + b₂)
    l = Conv_{1×1}(ReLU(Conv_{5×5}(ReLU(Conv_{1×1}(x)))))
    y = x ⊙ σ(α ⊙ (g + l) + β ⊙ (g · l))

Its g ends in a ReLU, the default of TensorFlow's ``fully_connected``; a 5×5 convolution stands in the local branch; the
gate is σ. Convolutions have a bias; there is no batch norm. Starts are the code's: local branch, α and β normal with
variance 1/fan_in, which is 1 for α and β, cut at two standard deviations; global branch uniform with variance 2/(fan_in
+ fan_out); biases zero.

The older released network has it at the end of the residual branch of the first block of each stage, the position here;
the newer, pre-activation one on what enters each block of its third stage. The authors' loss on maps of human attention
is not part of a plug-in.

Source: Linsley, Shiebler, Eberhardt, Serre, "Learning what and where to attend", ICLR 2019, arXiv:1805.08819; the
authors' code, serre-lab/gala_tpu.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, one_of, reduced
from saccade.ops.gating import pooled_mean
from saccade.specs import Interval

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
    "equivariant": "permutation, flip, transpose with variant='paper' alone",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, variant: str) -> int:
    hidden = int(channels * rd_ratio)
    near = 25 * hidden**2 + hidden if variant == "official" else 0
    return 3 * channels * hidden + 3 * channels + 3 * hidden + 1 + near


def gate(variant: str) -> Interval:
    return Interval(0, 1) if variant == "official" else Interval(-1, 1)


def equivariant(variant: str) -> tuple[str, ...]:
    return ("permutation", "flip", "transpose") if variant == "paper" else ()


class GlobalAndLocalAttention(Gate):
    """A gate for every value, of a channel branch and a spatial branch.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of both bottlenecks as a part of C, rounded down.
        variant: ``official``: σ, a 5×5 convolution in the local branch, ReLU behind every layer of the global one;
            ``paper``: tanh, and neither.

    Raises:
        ValueError: the bottlenecks would have no unit, or there is no such variant.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 4, variant: Literal["official", "paper"] = "official"
    ) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        one_of("variant", variant, "official", "paper")
        self.released = variant == "official"
        what: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]
        where: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.ReLU()]
        if self.released:
            what.append(nn.ReLU())
            where += [nn.Conv2d(hidden, hidden, 5, padding=2), nn.ReLU()]
        self.what = nn.Sequential(*what)
        self.where = nn.Sequential(*where, nn.Conv2d(hidden, 1, 1))
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))
        for weight in (self.alpha, self.beta):
            nn.init.trunc_normal_(weight)
        for branch in (self.what, self.where):
            for part in branch:
                if isinstance(part, nn.Conv2d):
                    if branch is self.what:
                        nn.init.xavier_uniform_(part.weight)
                    else:
                        std = 1 / math.sqrt(part.weight[0].numel())
                        nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
                    assert part.bias is not None
                    nn.init.zeros_(part.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), between 0 and 1, or -1 and 1 in the paper's variant."""
        what = self.what(pooled_mean(x, keepdim=True))  # (B, C, 1, 1)
        where = self.where(x)  # (B, 1, H, W)
        alpha, beta = self.alpha[:, None, None], self.beta[:, None, None]
        # α(g + l) + βgl = αg + (α + βg)·l: one product and one sum of the map's size
        logits: Tensor = alpha * what + (alpha + beta * what) * where
        return logits.sigmoid() if self.released else logits.tanh()
