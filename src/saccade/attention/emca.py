r"""Efficient Multi-scale Channel Attention: a channel gate that also reads the vectors of the stage before.

    z = mean_{h,w} x                        (B, C, H, W) -> (B, C)
    l = A(z)                                (B, C) -> (B, C)             the local scales
    u = ReLU(Σ_j w_j v_j + w_{S+1} z)       (B, C)                       v_1 … v_S: what S sites of the stage before
                                                                         squeezed, each repeated along the channels to C
    g = A'(u)                               (B, C) -> (B, C)             the global scales
    s = σ(m_1 l + m_2 g)                    (B, C)
    y = x ⊙ (1 + s)                         (B, C, H, W)

w has S + 1 numbers, m two; no biases. The attention A, and A' of the same form, is ECA (``att="eca"``: σ(Conv1d_k), k
from the channels) or SE (``"se"``: σ(W₂ ReLU(W₁ z)), reduction 16, no bias).

Without a stage before (S = 0, ``previous=0``) only the local part is left:

    y = x ⊙ (1 + l)

``plug`` counts S, the sites it plugs in the stage before in the same call, so that the size of a network depends on the
positions; ``previous=n`` takes the last n of them. The default is the published setting, the last block of each stage.
The vectors live for one call of the host: see :mod:`saccade.stage_outputs`.

Source: Bakr, El Sallab, Rashwan, "EMCA: Efficient Multi-Scale Channel Attention Module" (the first version is called
"PKCAM"), code eslambakr/EMCA 2021; equal to its ECA flavour, the only one that runs.

Deviations. The code's default flags are not the published setting: a module in every block, v_j from the last block of
every earlier stage and the stem. A site here reads the stage before alone, and the stem is no site. The code needs C to
be a multiple of the vector's channels; here a vector is repeated and cut. The sizes printed for SE hold one attention a
stage: ``shared=True`` uses A for A'. The flavour SRM needs a file that the authors did not publish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, one_of, reduced
from saccade.ops.gating import pooled_mean
from saccade.stage_outputs import PreviousStage

__all__ = ["EfficientMultiScaleChannelAttention"]

SPEC = {
    "name": "emca",
    "title": "Efficient Multi-scale Channel Attention",
    "paper": {"authors": "Bakr, El Sallab, Rashwan", "title": "EMCA: Efficient Multi-Scale Channel Attention Module",
              "venue": "code eslambakr/EMCA", "year": 2021},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["eslambakr/EMCA (att='eca')"],
    "position": {"default": "residual[last]"},
    "limits": [
        "kernel_size must be odd and positive",
        "channels * rd_ratio must be at least 1",
        "previous must be at least 0",
    ],
    "gate": (1.0, 2.0),
    "equivariant": ["permutation", "flip", "transpose"],
    "needs": ["previous stage"],
    "published": [
        {"net": "resnet18", "params": 11.148, "top1": 71.04, "unit": "2^20, 2^30", "note": "previous=[0, 1, 1, 1]",
         "source": "EMCA README"},
        {"net": "resnet50", "params": 24.373, "macs": 3.834, "top1": 77.13, "unit": "2^20, 2^30",
         "note": "previous=[0, 1, 1, 1]", "source": "EMCA README"},
        {"net": "resnet18", "params": 11.190, "top1": 71.00, "unit": "2^20, 2^30",
         "note": "att=se:shared=True:previous=[0, 1, 1, 1]", "source": "EMCA README"},
        {"net": "resnet50", "params": 25.037, "macs": 3.835, "top1": 77.33, "unit": "2^20, 2^30",
         "note": "att=se:shared=True:previous=[0, 1, 1, 1]", "source": "EMCA README"},
    ],
}  # fmt: skip


def parameters(channels: int, att: str, kernel_size: int | None, rd_ratio: float, shared: bool, previous: int) -> int:
    if att == "se":
        each = 2 * channels * int(channels * rd_ratio)
    else:
        each = kernel_size or int(abs((math.log2(channels) + 1) / 2)) | 1
    return (each if shared else 2 * each) + previous + 3 if previous else each


class EfficientMultiScaleChannelAttention(Gate):
    """Channel gate of a map and of what the stage before squeezed.

    Args:
        channels: C of the map (B, C, H, W).
        att: what makes scales of a squeezed vector, ``"eca"`` or ``"se"``.
        kernel_size: k of ECA, odd; None takes it from the channels.
        rd_ratio: units of SE's bottleneck for each channel.
        shared: whether the global scales are made by the same parameters as the local ones.
        previous: S, how many vectors of the stage before are read.

    Raises:
        ValueError: outside the limits of SPEC, or no such ``att``.
    """

    def __init__(
        self,
        channels: int,
        att: Literal["eca", "se"] = "eca",
        kernel_size: int | None = None,
        rd_ratio: float = 1 / 16,
        shared: bool = False,
        previous: int = 0,
    ) -> None:
        super().__init__()
        one_of("att", att, "eca", "se")
        k = int(abs((math.log2(channels) + 1) / 2)) | 1 if kernel_size is None else kernel_size
        if k < 1 or k % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {k}")
        units = reduced(channels, rd_ratio) if att == "se" else 0

        def attention() -> nn.Module:
            return _ECA(k) if att == "eca" else _SE(channels, units)

        self.previous = PreviousStage(previous)
        self.local = attention()
        if previous:
            self.take_in = nn.Linear(previous + 1, 1, bias=False)
            self.stage = None if shared else attention()
            self.put_out = nn.Linear(2, 1, bias=False)

    def gate(self, x: Tensor, previous: Sequence[Tensor] | Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to (B, C, 1, 1).

        Args:
            x: the map.
            previous: the S vectors (B, any channels) of the stage before; None takes those that the host hands on.

        Raises:
            ValueError: they are not S.
            UserError: the host did not hand them on.
        """
        z = pooled_mean(x)  # (B, C)
        vectors = self.previous(z) if previous is None else previous
        if len(vectors) != self.previous.count:
            raise ValueError(f"previous = {self.previous.count} vectors are read, got {len(vectors)}")
        s = self.local(z)  # (B, C)
        if self.previous.count:
            u = self.take_in(torch.stack([*(_repeated(v, z) for v in vectors), z], -1))[..., 0].relu()  # (B, C)
            g = (self.stage or self.local)(u)
            s = self.put_out(torch.stack([s, g], -1))[..., 0].sigmoid()
        return (1 + s)[:, :, None, None]


class _ECA(nn.Module):
    """Scales of a vector (B, C) by one short convolution along the channels."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        scales: Tensor = self.conv(z[:, None])[:, 0].sigmoid()
        return scales


class _SE(nn.Module):
    """Scales of a vector (B, C) by a bottleneck."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, units, bias=False)
        self.excite = nn.Linear(units, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        scales: Tensor = self.excite(self.squeeze(z).relu()).sigmoid()
        return scales


def _repeated(v: Tensor, z: Tensor) -> Tensor:
    """The vector v (B, channels of another site) in the shape and dtype of z (B, C): repeated along C, and cut."""
    times = -(-z.shape[1] // v.shape[1])
    return v.repeat(1, times)[:, : z.shape[1]].to(z.dtype)
