r"""Gather-Excite: each channel is gated by what it holds in a neighbourhood.

    z = gather(x)                                    (B, C, H, W) -> (B, C, h, w)      over an extent e, h ≈ H/e
    g = σ(excite(z))                                 (B, C, h, w)                      the identity, or C -> C/16 -> C
    y = x ⊙ nearest(g)                               (B, C, H, W)                      g repeated over its places

``extent=0`` is the whole map, h = w = 1. The paper's three families:

    θ⁻   ``extra_params=False``                      the mean over the map, or over windows of 2e − 1 at a stride of e
    θ    ``extra_params=True``, the default          one kernel H×W a channel and BN; or for e = 2, 4, 8, … log₂ e
                                                     depthwise convolutions 3×3 with stride 2, each with BN
    θ⁺   ``extra_params=True, use_mlp=True``         θ, ReLU, then two 1×1 convolutions with bias, ReLU between

The mean with ``use_mlp=True`` is SE. The kernels have no bias, as in the authors' Caffe files; ``bias=True`` is the
re-implementation in the code of SRM. The authors' files hold the global extent alone; the ReLU between the convolutions
of a smaller one is timm's reading, and ours. A kernel over the whole map fixes the size of pictures to that at
plugging.

Source: Hu, Shen, Albanie, Sun, Vedaldi, "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
NeurIPS 2018, arXiv:1810.12348.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced
from saccade.ops.gating import pooled_mean
from saccade.ops.global_conv import global_depthwise_conv

__all__ = ["GatherExcite"]

SPEC = {
    "name": "ge",
    "title": "Gather-Excite",
    "paper": {"authors": "Hu, Shen, Albanie, Sun, Vedaldi",
              "title": "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", "venue": "NeurIPS",
              "year": 2018, "arxiv": "1810.12348"},
    "kind": "gate",
    "evidence": "paper",
    "code": ["hyunjaelee410/style-based-recalibration-module (bias=True, the kernel over the whole map)"],
    "position": {"default": "residual"},
    "limits": ["extent must be 0 or a power of two", "channels * rd_ratio must be at least 1"],
    "gate": (0.0, 1.0),
    "equivariant": "extra_params=False: transpose, with extent=0 also permutation and flip",
    "needs": ["size"],
    "timm": "ge",
}  # fmt: skip


def parameters(
    channels: int, extra_params: bool, extent: int, use_mlp: bool, rd_ratio: float, bias: bool, size: tuple[int, int]
) -> int:
    gathered = extra_params * channels * (extent.bit_length() - 1) * (11 + bias)
    if extra_params and not extent:
        gathered = channels * (size[0] * size[1] + 2 + bias)
    hidden = int(channels * rd_ratio)
    return gathered + use_mlp * (2 * channels * hidden + channels + hidden)


def equivariant(extra_params: bool, extent: int) -> tuple[str, ...]:
    if extra_params:
        return ()
    return ("transpose",) if extent else ("permutation", "flip", "transpose")


class GatherExcite(Gate):
    """Gate of each channel by what it holds around a place.

    Args:
        channels: C of the map (B, C, H, W).
        extra_params: whether what is gathered is learnt, θ and θ⁺; else it is a mean, θ⁻.
        extent: e, a power of two; 0 is the whole map.
        use_mlp: whether channels are mixed before the gate, θ⁺.
        rd_ratio: width of the bottleneck that mixes them as a part of C, rounded down.
        bias: of the depthwise convolutions.
        size: (H, W) of the map, needed for the kernel over the whole of it.

    Raises:
        ValueError: outside the limits of SPEC, no size where one is needed; in the forward, a map of another size.
    """

    def __init__(
        self,
        channels: int,
        extra_params: bool = True,
        extent: int = 0,
        use_mlp: bool = False,
        rd_ratio: float = 1 / 16,
        bias: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if extent and (extent < 2 or extent.bit_count() > 1):
            raise ValueError(f"extent must be 0 or a power of two, got {extent}")
        self.extent = extent
        self.size: tuple[int, int] | None = None
        self.gather: nn.Sequential | None = None
        if extra_params and extent:
            self.gather = nn.Sequential()
            for step in range(extent.bit_length() - 1):
                if step:
                    self.gather.append(nn.ReLU())
                self.gather.append(nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=bias))
                self.gather.append(BatchNorm2d(channels))
        elif extra_params:
            if size is None or min(size) < 1:
                raise ValueError(f"a kernel over the whole map needs size=(H, W), the size of the map; got {size}")
            self.size = (size[0], size[1])
            self.gather = nn.Sequential(
                nn.Conv2d(channels, channels, self.size, groups=channels, bias=bias), BatchNorm2d(channels)
            )
        self.mlp: nn.Sequential | None = None
        if use_mlp:
            hidden = reduced(channels, rd_ratio)
            before = [nn.ReLU()] if extra_params else []
            last = [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]
            self.mlp = nn.Sequential(*before, *last)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, 1, 1), or with a smaller extent to (B, C, H, W)."""
        z = self._gathered(x)
        gate: Tensor = (z if self.mlp is None else self.mlp(z)).sigmoid()
        return F.interpolate(gate, size=x.shape[2:]) if self.extent else gate

    def _gathered(self, x: Tensor) -> Tensor:
        if self.gather is not None:
            if self.size is not None and tuple(x.shape[2:]) != self.size:
                raise ValueError(f"the kernel is made for maps of {self.size}, got {tuple(x.shape[2:])}")
            over_all = None if self.size is None else cast(nn.Conv2d, self.gather[0])
            z: Tensor = self.gather(x) if over_all is None else self.gather[1](global_depthwise_conv(over_all, x))
            return z
        if not self.extent:
            return pooled_mean(x, keepdim=True)
        window = 2 * self.extent - 1
        return F.avg_pool2d(x, window, self.extent, self.extent - 1, count_include_pad=False)
