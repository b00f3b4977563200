r"""DCNv2, modulated deformable convolution: each tap has an offset and a weight of its own at each pixel.

    Δ, z  = Conv_{k×k}(x)                                       2Dk² and Dk² channels, started at zero
    m     = s·σ(z)                                              (B, Dk², Ho, Wo)
    y(p)  = Σ_j w_j · x(p + p_j + Δ_j(p)) · m_j(p) + b          (B, O, Ho, Wo)                       eq. 1

p_j are the k² places of the regular grid; x is bilinear between pixels and zero outside; each of D groups of channels
has its own Δ and m. The offset convolution has the convolution's stride, padding and dilation; the PyTorch port leaves
the dilation out.

The paper has s = 1: all m, and the output, start at half a plain convolution's. With s = 2 it starts as the plain
convolution with the same kernel, as ``saccade.replace`` does for trained networks. The paper replaces the 3×3 of the
last three stages of a ResNet, and gives the offsets a tenth of the learning rate.

Source: Zhu, Hu, Lin, Dai, "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, arXiv:1811.11168;
github.com/chengdazhi/Deformable-Convolution-V2-PyTorch, a port of the authors' MXNet code, whose output and gradients
this equals.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Convolution
from saccade.ops.deform import deform_conv2d

__all__ = ["ModulatedDeformableConvolution"]

SPEC = {
    "name": "dcn2",
    "title": "Deformable convolution v2",
    "paper": {"authors": "Zhu, Hu, Lin, Dai", "title": "Deformable ConvNets v2: More Deformable, Better Results",
              "venue": "CVPR", "year": 2019, "arxiv": "1811.11168"},
    "kind": "conv",
    "evidence": "port",
    "code": ["chengdazhi/Deformable-Convolution-V2-PyTorch"],
    "position": {"default": "conv3x3 in stage[-3:]"},
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
    offsets = 3 * offset_groups * taps * (channels * taps + 1)
    return outputs * (channels // groups * taps + bias) + offsets


class ModulatedDeformableConvolution(Convolution):
    """Convolution whose taps are moved by offsets and scaled by a modulation, both computed from the map.

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
        scale: s, what no modulation exceeds.

    Raises:
        ValueError: ``groups`` or ``offset_groups`` does not divide the channels, or a number is too small.
    """

    neutral_options = {"scale": 2.0}  # noqa: RUF012 (declared as a class variable where it comes from)

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
        scale: float = 1.0,
    ) -> None:
        super().__init__(channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        if offset_groups < 1 or channels % offset_groups:
            raise ValueError(f"offset_groups must divide the channels, got {offset_groups} and {channels}")
        taps = offset_groups * kernel_size**2
        self.parts, self.scale = [2 * taps, taps], scale
        self.offset = self.beside(3 * taps)
        self.tap = nn.Identity()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x (B, C, H, W) to (B, O, Ho, Wo)."""
        offset, z = self.offset(x).split(self.parts, 1)
        modulation = self.tap(z.sigmoid() * self.scale)
        return deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask=modulation)
