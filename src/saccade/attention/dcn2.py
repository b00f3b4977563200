r"""DCNv2, modulated deformable convolution: each kernel element has a learnt offset and modulation at each pixel.

    Δ, z  = Conv_{k×k}(x)                                       2Dk² and Dk² channels, initialised to zero
    m     = s·σ(z)                                              (B, Dk², Ho, Wo)
    y(p)  = Σ_j w_j · x(p + p_j + Δ_j(p)) · m_j(p) + b          (B, O, Ho, Wo)                       eq. 1

p_j are the k² positions of the regular grid; x is bilinear between pixels, zero outside; each of D channel groups has
its own Δ and m. The offset convolution has the stride, padding and dilation of the deformable one. The PyTorch port
ignores the dilation; for dilation 1 our output and gradients equal the port's. In the paper s = 1, so the initial
output is half that of the plain convolution; ``saccade.replace`` sets s = 2 in trained networks to start there.

Source: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, arXiv:1811.11168; PyTorch
port: chengdazhi/Deformable-Convolution-V2-PyTorch.
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
    offsets = 3 * offset_groups * kernel_elements * (channels * kernel_elements + 1)
    return n_outputs * (channels // groups * kernel_elements + bias) + offsets


class ModulatedDeformableConvolution(Convolution):
    """Convolution whose kernel elements have offsets and modulations computed from x.

    The modulations m (B, Dk², Ho, Wo) pass through ``tap``.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: k.
        stride: that of both convolutions.
        padding: zero padding; None means dilation·(k − 1)/2.
        dilation: spacing between kernel elements.
        groups: groups of the convolution.
        bias: True adds a bias.
        offset_groups: D, number of channel groups with separate offsets.
        scale: s, upper bound of m.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    neutral_options = {"scale": 2.0}  # noqa: RUF012 (declared as a class variable in the base)

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
        n_modulations = offset_groups * kernel_size**2
        self.parts, self.scale = [2 * n_modulations, n_modulations], scale  # numbers of channels of Δ and z
        self.offset = self.make_offset_conv(3 * n_modulations)
        self.tap = nn.Identity()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output (B, O, Ho, Wo) for x (B, C, H, W)."""
        offset, z = self.offset(x).split(self.parts, 1)
        modulations = self.tap(z.sigmoid() * self.scale)
        return deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask=modulations)
