r"""Efficient Multi-scale Channel Attention: a channel gate that also reads the previous stage.

    z = mean_{h,w} x                        (B, C)
    l = A(z)                                (B, C)             local scales
    u = ReLU(Σ_j w_j v_j + w_{S+1} z)       (B, C)             v_1 … v_S: pooled vectors of S sites in the previous
                                                               stage, tiled to C channels
    g = A'(u)                               (B, C)             global scales
    s = σ(m_1 l + m_2 g)                    (B, C)
    y = x ⊙ (1 + s)                         (B, C, H, W)

With S = 0 (``previous=0``) y = x ⊙ (1 + l). The attention A, and A' of the same form, is ECA (``att="eca"``:
σ(Conv1d_k), k from the channels) or SE (``"se"``: σ(W₂ ReLU(W₁ z)), reduction 16). There are no biases.

``saccade.plug`` sets S to the number of EMCA sites in the previous stage; ``previous=n`` reads only the last n.

The output equals that of the authors' code with ECA, the only attention that runs there; SRM needs an unpublished file.
The published networks have one module per stage, in the last block; the code's default flags have one in every block,
and v_j from the last block of every earlier stage and the stem. Tiled vectors are cut to C; the code requires a whole
multiple. The published sizes with SE need ``shared=True``.

Source: Bakr et al., "EMCA: Efficient Multi-Scale Channel Attention Module", code eslambakr/EMCA 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import Gate, check_choice, reduced_channels
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
        attention_count = 2 * channels * int(channels * rd_ratio)
    else:
        attention_count = kernel_size or int(abs((math.log2(channels) + 1) / 2)) | 1
    if not previous:
        return attention_count
    return attention_count * (1 if shared else 2) + (previous + 1) + 2


class EfficientMultiScaleChannelAttention(Gate):
    """Channel gate from x and pooled vectors of the previous stage.

    Args:
        channels: C.
        att: attention A, ``"eca"`` or ``"se"``.
        kernel_size: k of ECA, odd; None computes it from the channels.
        rd_ratio: width of SE's bottleneck / C.
        shared: True uses A for A'.
        previous: S, number of vectors read from the previous stage.

    Raises:
        ValueError: a limit of SPEC is violated, or ``att`` is unknown.
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
        check_choice("att", att, "eca", "se")
        k = int(abs((math.log2(channels) + 1) / 2)) | 1 if kernel_size is None else kernel_size
        if k < 1 or k % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {k}")
        hidden = reduced_channels(channels, rd_ratio) if att == "se" else 0

        def make_attention() -> nn.Module:
            return _ECA(k) if att == "eca" else _SE(channels, hidden)

        self.previous = PreviousStage(previous)  # returns the S vectors
        self.local = make_attention()
        if previous:
            self.take_in = nn.Linear(previous + 1, 1, bias=False)  # weights w of u
            self.stage = None if shared else make_attention()  # A'; None: use A
            self.put_out = nn.Linear(2, 1, bias=False)  # weights m of s

    def gate(self, x: Tensor, previous: Sequence[Tensor] | Tensor | None = None) -> Tensor:
        """Return the gate (B, C, 1, 1).

        Args:
            x: the input (B, C, H, W).
            previous: the S vectors (B, any width); None uses those that the host recorded in this forward pass.

        Raises:
            ValueError: the number of vectors is not S.
            UserError: none were recorded: the module ran outside its host.
        """
        z = pooled_mean(x)
        vectors = self.previous(z) if previous is None else previous
        if len(vectors) != self.previous.count:
            raise ValueError(
                f"there must be {self.previous.count} vectors (previous={self.previous.count}), got {len(vectors)}"
            )
        s = local_scales = self.local(z)
        if self.previous.count:
            u = self.take_in(torch.stack([*(_tile(v, z) for v in vectors), z], -1))[..., 0].relu()
            global_scales = (self.stage or self.local)(u)
            s = self.put_out(torch.stack([local_scales, global_scales], -1))[..., 0].sigmoid()
        return (1 + s)[:, :, None, None]


class _ECA(nn.Module):
    """ECA layer: vector (B, C) to scales (B, C)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        scales: Tensor = self.conv(z[:, None])[:, 0].sigmoid()
        return scales


class _SE(nn.Module):
    """SE layer: vector (B, C) to scales (B, C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        scales: Tensor = self.excite(self.squeeze(z).relu()).sigmoid()
        return scales


def _tile(v: Tensor, z: Tensor) -> Tensor:
    """Tile v (B, any width) to the shape and dtype of z (B, C), truncating the last copy."""
    n_copies = -(-z.shape[1] // v.shape[1])
    return v.repeat(1, n_copies)[:, : z.shape[1]].to(z.dtype)
