r"""Squeeze-and-Excitation: a channel gate from the mean of each channel.

    z = mean_{h,w} x                 squeeze   (B, C)                      eq. 2
    s = σ(W₂ ReLU(W₁ z))             excite    (B, C)                      eq. 3
    y = s ⊙ x                        scale     (B, C, H, W)                eq. 4

W₁: C -> C·rd_ratio, W₂: back to C. The authors' Caffe networks have a bias in both layers (``bias=True``); equation 3
and most PyTorch ports have none (``bias=False``). Output and gradients equal those of two ports; the Caffe code was
not run. ``squeeze`` and ``excitation`` are ablations of the journal version (IEEE TPAMI 2020).

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from saccade.bases import Gate, check_choice, reduced_channels
from saccade.ops.gating import max_and_mean, pooled_mean
from saccade.specs import GateRange

__all__ = ["SqueezeExcite"]

SPEC = {
    "name": "se",
    "title": "Squeeze-and-Excitation",
    "paper": {"authors": "Hu, Shen, Sun", "title": "Squeeze-and-Excitation Networks", "venue": "CVPR", "year": 2018,
              "arxiv": "1709.01507"},
    "kind": "gate",
    "evidence": "port",
    "code": ["implus/PytorchInsight (bias=True)", "moskomule/senet.pytorch (bias=False)"],
    "position": {"default": "residual"},
    "limits": ["channels * rd_ratio must be at least 1"],
    "gate": "(0, 1); with excitation='relu' [0, inf), with 'tanh' (-1, 1)",
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 28.09, "macs": 4.130, "top1": 77.18, "source": "PytorchInsight README"},
        {"net": "resnet50", "params": 26.77, "macs": 3.87, "top1": 76.71, "unit": "2^20, 2^30", "note": "bias=False",
         "source": "ECA-Net paper, table 3"},
        {"net": "resnet18", "params": 11.231, "macs": 1.695, "top1": 70.59, "unit": "2^20, 2^30", "note": "bias=False",
         "source": "EMCA README"},
    ],
    "timm": "se",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, bias: bool) -> int:
    hidden = int(channels * rd_ratio)
    return 2 * channels * hidden + bias * (channels + hidden)


def gate(excitation: str) -> GateRange:
    return {"sigmoid": GateRange(0, 1), "relu": GateRange(0, math.inf, includes_low=True), "tanh": GateRange(-1, 1)}[
        excitation
    ]


class SqueezeExcite(Gate):
    """Channel gate from a bottleneck.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C.
        bias: True gives both layers a bias.
        squeeze: pooling of each channel, ``mean`` or ``max``.
        excitation: activation of the gate: ``sigmoid``, ``relu`` or ``tanh``.

    Raises:
        ValueError: the bottleneck would have no channel, or a choice is unknown.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 16,
        bias: bool = True,
        squeeze: Literal["mean", "max"] = "mean",
        excitation: Literal["sigmoid", "relu", "tanh"] = "sigmoid",
    ) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        check_choice("squeeze", squeeze, "mean", "max")
        check_choice("excitation", excitation, "sigmoid", "relu", "tanh")
        self.largest = squeeze == "max"  # max, not mean, pooling
        self.excitation = excitation
        self.squeeze = nn.Linear(channels, hidden, bias=bias)  # W₁
        self.excite = nn.Linear(hidden, channels, bias=bias)  # W₂

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1)."""
        z = max_and_mean(x, (2, 3))[0].flatten(1) if self.largest else pooled_mean(x)
        s: Tensor = self.excite(self.squeeze(z).relu())
        s = {"sigmoid": s.sigmoid, "relu": s.relu, "tanh": s.tanh}[self.excitation]()
        return s[:, :, None, None]
