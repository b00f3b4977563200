r"""Gather-Excite: each channel is gated by its spatial context.

    z = gather(x)                                    (B, C, h, w)      over an extent e, h ≈ H/e
    g = σ(excite(z))                                 (B, C, h, w)      excite: identity, or C -> C·rd_ratio -> C
    y = x ⊙ nearest(g)                               (B, C, H, W)      nearest-neighbour upsampling

``extent=0`` is the whole map, h = w = 1. The paper's three families:

    θ⁻   ``extra_params=False``                      the mean over the map, or over windows of 2e − 1 at a stride of e
    θ    ``extra_params=True``, the default          one H×W kernel per channel and BN; for e = 2, 4, 8, …:
                                                     log₂(e) depthwise 3×3 convolutions, stride 2, each with BN
    θ⁺   ``extra_params=True, use_mlp=True``         θ, ReLU, then two 1×1 convolutions with bias, ReLU between

``extent=0, extra_params=False, use_mlp=True`` is SE. Kernels have no bias, as in the authors' Caffe files;
``bias=True`` matches the code of the SRM authors. The Caffe files cover only ``extent=0``; otherwise we place a ReLU
between the convolutions, like timm.

Source: Hu et al., "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", NeurIPS 2018,
arXiv:1810.12348.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced_channels
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
    "limits": ["extent must be 0 or a power of two above 1", "channels * rd_ratio must be at least 1"],
    "gate": (0.0, 1.0),
    "equivariant": "only with extra_params=False: transpose, and with extent=0 permutation and flip",
    "needs": ["size"],
    "timm": "ge",
}  # fmt: skip


def parameters(
    channels: int, extra_params: bool, extent: int, use_mlp: bool, rd_ratio: float, bias: bool, size: tuple[int, int]
) -> int:
    gather_count = extra_params * channels * (extent.bit_length() - 1) * (11 + bias)
    if extra_params and not extent:
        gather_count = channels * (size[0] * size[1] + 2 + bias)
    hidden = int(channels * rd_ratio)
    return gather_count + use_mlp * (2 * channels * hidden + channels + hidden)


def equivariant(extra_params: bool, extent: int) -> tuple[str, ...]:
    if extra_params:
        return ()
    return ("transpose",) if extent else ("permutation", "flip", "transpose")


class GatherExcite(Gate):
    """Gate per channel, or per channel and window, from spatial context.

    Args:
        channels: C.
        extra_params: True gathers by learnt convolutions, False by means.
        extent: e, a power of two above 1; 0 means the whole map.
        use_mlp: True mixes the channels before the gate (θ⁺).
        rd_ratio: bottleneck width of the MLP / C.
        bias: True adds a bias to the depthwise convolutions.
        size: (H, W) of the feature map, needed for an H×W kernel.

    Raises:
        ValueError: a limit of SPEC is violated, ``size`` is missing, or, in ``forward``, x has another size.
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
            raise ValueError(f"extent must be 0 or a power of two above 1, got {extent}")
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
            hidden = reduced_channels(channels, rd_ratio)
            activation = [nn.ReLU()] if extra_params else []
            layers = [nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)]
            self.mlp = nn.Sequential(*activation, *layers)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate: (B, C, 1, 1), or (B, C, H, W) if ``extent`` > 0."""
        z = self._gather(x)
        gate: Tensor = (z if self.mlp is None else self.mlp(z)).sigmoid()
        return F.interpolate(gate, size=x.shape[2:]) if self.extent else gate

    def _gather(self, x: Tensor) -> Tensor:
        if self.gather is not None:
            if self.size is not None and tuple(x.shape[2:]) != self.size:
                raise ValueError(f"the kernel is made for maps of {self.size}, got {tuple(x.shape[2:])}")
            whole_map_conv = None if self.size is None else cast(nn.Conv2d, self.gather[0])
            z: Tensor = (
                self.gather(x) if whole_map_conv is None else self.gather[1](global_depthwise_conv(whole_map_conv, x))
            )
            return z
        if not self.extent:
            return pooled_mean(x, keepdim=True)
        window = 2 * self.extent - 1
        return F.avg_pool2d(x, window, self.extent, self.extent - 1, count_include_pad=False)
