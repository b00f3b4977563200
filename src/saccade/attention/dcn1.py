r"""DCN, deformable convolution: each kernel element has a learnt offset at each pixel.

    Δ     = Conv_{k×k}(x)                              2Dk² channels, initialised to zero: the regular grid
    y(p)  = Σ_j w_j · x(p + p_j + Δ_j(p)) + b          (B, O, Ho, Wo)                                    eq. 2

p_j are the k² positions of the regular grid; x is bilinear between pixels, zero outside; each of D channel groups has
its own offsets, dy then dx per kernel element. The offset convolution has the stride, padding and dilation of the
deformable convolution. The module starts as the plain convolution with the same kernel.

Source: Dai et al., "Deformable Convolutional Networks", ICCV 2017, arXiv:1703.06211.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Convolution
from saccade.ops.deform import deform_conv2d

__all__ = ["DeformableConvolution"]

SPEC = {
    "name": "dcn1",
    "title": "Deformable convolution",
    "paper": {"authors": "Dai, Qi, Xiong, Li, Zhang, Hu, Wei", "title": "Deformable Convolutional Networks",
              "venue": "ICCV", "year": 2017, "arxiv": "1703.06211"},
    "kind": "conv",
    "evidence": "paper",
    "position": {"default": "conv3x3 in stage[-1:]"},
    "limits": [
        "channels, out_channels, kernel_size, stride, dilation and groups must be at least 1",
        "groups must divide the channels",
        "dilation * (kernel_size - 1) must be even if padding is None",
        "padding must be at least 0",
        "offset_groups must divide the channels",
    ],
}  # fmt: skip


def parameters(
    channels: int, out_channels: int | None, kernel_size: int, groups: int, bias: bool, offset_groups: int
) -> int:
    n_outputs = channels if out_channels is None else out_channels
    kernel_elements = kernel_size**2
    offset_count = 2 * offset_groups * kernel_elements * (channels * kernel_elements + 1)
    return n_outputs * (channels // groups * kernel_elements + bias) + offset_count


class DeformableConvolution(Convolution):
    """Convolution with offsets of the kernel elements computed from x.

    The offsets (B, 2Dk², Ho, Wo) pass through ``tap``.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: k.
        stride: stride of both convolutions.
        padding: zero padding; None means dilation·(k − 1)/2.
        dilation: spacing between kernel elements.
        groups: groups of the convolution.
        bias: True adds a bias.
        offset_groups: D, number of channel groups with separate offsets.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        offset_groups: int = 1,
    ) -> None:
        super().__init__(channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        if offset_groups < 1 or channels % offset_groups:
            raise ValueError(f"offset_groups must divide the channels, got {offset_groups} and {channels}")
        self.offset = self.make_offset_conv(2 * offset_groups * kernel_size**2)
        self.tap = nn.Identity()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output (B, O, Ho, Wo) for x (B, C, H, W)."""
        offset = self.tap(self.offset(x))
        return deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation)
