r"""DCN, deformable convolution: each tap of the kernel has an offset of its own at each pixel.

    Δ     = Conv_{k×k}(x)                              2Dk² channels, started at zero: the regular grid
    y(p)  = Σ_j w_j · x(p + p_j + Δ_j(p)) + b          (B, O, Ho, Wo)                                    eq. 2

p_j are the k² places of the regular grid; x is bilinear between pixels and zero outside; each of D groups of channels
has offsets of its own, dy then dx for each tap. The offset convolution has the convolution's stride, padding and
dilation. It starts as the plain convolution with the same kernel.

The paper puts it at the 3×3 convolutions of a ResNet's last stage, dilated instead of strided; here the dilation is the
host's.

Source: Dai, Qi, Xiong, Li, Zhang, Hu, Wei, "Deformable Convolutional Networks", ICCV 2017, arXiv:1703.06211.
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
        "dilation * (kernel_size - 1) must be even without padding",
        "padding must be at least 0",
        "offset_groups must divide the channels",
    ],
}  # fmt: skip


def parameters(
    channels: int, out_channels: int | None, kernel_size: int, groups: int, bias: bool, offset_groups: int
) -> int:
    outputs = channels if out_channels is None else out_channels
    taps = kernel_size**2
    offsets = 2 * offset_groups * taps * (channels * taps + 1)
    return outputs * (channels // groups * taps + bias) + offsets


class DeformableConvolution(Convolution):
    """Convolution whose taps are moved by offsets computed from the map.

    Args:
        channels: C of the map (B, C, H, W).
        out_channels: O; None is C.
        kernel_size: k.
        stride: of the output pixels.
        padding: of zeros around the map; None is dilation·(k − 1)/2.
        dilation: of the taps.
        groups: of channels, each with a kernel of its own.
        bias: whether the convolution has one.
        offset_groups: D, groups of channels, each with offsets of its own.

    Raises:
        ValueError: ``groups`` or ``offset_groups`` does not divide the channels, or a number is too small.
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
        self.offset = self.beside(2 * offset_groups * kernel_size**2)
        self.tap = nn.Identity()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x (B, C, H, W) to (B, O, Ho, Wo)."""
        offset = self.tap(self.offset(x))
        return deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation)
