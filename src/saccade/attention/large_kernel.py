r"""Large Kernel Attention: a gate per element from a decomposed 21×21 convolution.

    u = Conv_{1×1}(DWConv_{k×k, d}(DWConv_{(2d−1)×(2d−1)}(x)))       (B, C, H, W)                     eq. 1
    y = x ⊙ u                                                                                          eq. 2

A K×K convolution becomes a depthwise one of side 2d − 1, a depthwise one of side k = ⌈K/d⌉ with dilation d, and 1×1:
5×5, 7×7 and 1×1 for K = 21, d = 3. All have a bias and zero padding. k must be odd: an even k would shift the map. The
gate is unbounded.

Source: Guo et al., "Visual Attention Network", Computational Visual Media 2023, arXiv:2202.09741; ``AttentionModule``
in Visual-Attention-Network/VAN-Classification.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from saccade.bases import Gate

__all__ = ["LargeKernelAttention"]

SPEC = {
    "name": "lka",
    "title": "Large Kernel Attention",
    "paper": {"authors": "Guo, Lu, Liu, Cheng, Hu", "title": "Visual Attention Network",
              "venue": "Computational Visual Media", "year": 2023, "arxiv": "2202.09741"},
    "kind": "transform",
    "evidence": "paper",
    "position": {"default": "residual"},
    "limits": ["dilation must be positive", "ceil(kernel_size / dilation) must be odd and positive"],
}  # fmt: skip


def parameters(channels: int, kernel_size: int, dilation: int) -> int:
    return channels * ((2 * dilation - 1) ** 2 + math.ceil(kernel_size / dilation) ** 2 + channels + 3)


class LargeKernelAttention(Gate):
    """Gate from a decomposed large convolution.

    Args:
        channels: C.
        kernel_size: K.
        dilation: d.

    Raises:
        ValueError: ``dilation`` or ``kernel_size`` is not positive, or ⌈kernel_size/dilation⌉ is even.
    """

    def __init__(self, channels: int, kernel_size: int = 21, dilation: int = 3) -> None:
        super().__init__()
        if dilation < 1:
            raise ValueError(f"dilation must be positive, got {dilation}")
        dilated_kernel_size = -(-kernel_size // dilation)
        if kernel_size < 1 or dilated_kernel_size % 2 == 0:
            raise ValueError(
                f"ceil(kernel_size / dilation) must be odd and positive, got ceil({kernel_size} / {dilation}) = "
                f"{dilated_kernel_size}"
            )
        depthwise_size, dilated_padding = 2 * dilation - 1, dilation * (dilated_kernel_size // 2)
        self.near = nn.Conv2d(channels, channels, depthwise_size, padding=dilation - 1, groups=channels)
        self.far = nn.Conv2d(
            channels, channels, dilated_kernel_size, padding=dilated_padding, dilation=dilation, groups=channels
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        for conv in (self.near, self.far, self.mix):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.weight[:, 0].numel() * conv.groups))
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), unbounded."""
        gate: Tensor = self.mix(self.far(self.near(x)))
        return gate
