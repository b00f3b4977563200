"""The integer parameters of a deformable convolution, inferred from its operands and validated."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from saccade.ops.autocast import autocast_enabled

__all__ = ["Geometry", "macs"]


class Geometry(NamedTuple):
    """Integer parameters of one call; pairs are (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    """Number of convolution groups, G: each maps its C/G input channels to O/G output channels."""
    offset_groups: int
    """Number of offset groups, D: the C/D input channels of a group share their offsets."""
    size: tuple[int, int]
    """Size (H, W) of the map."""
    out: tuple[int, int]
    """Size (Ho, Wo) of the result."""

    @property
    def taps(self) -> int:
        """Number of kernel taps, K = kh·kw."""
        return self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """Number of output pixels, N = Ho·Wo."""
        return self.out[0] * self.out[1]

    @classmethod
    def from_operands(
        cls,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int | tuple[int, int],
        padding: int | tuple[int, int],
        dilation: int | tuple[int, int],
        mask: Tensor | None,
    ) -> Geometry:
        """Return the geometry of a call with the operands of ``deform_conv2d``.

        Raises:
            ValueError: shapes, dtypes or devices do not match.
        """
        operands = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
        tensors = {name: tensor for name, tensor in operands.items() if tensor is not None}
        for name, tensor in tensors.items():
            n_dims = 1 if name == "bias" else 4
            if tensor.ndim != n_dims:
                raise ValueError(f"{name} must have {n_dims} dimensions, got shape {tuple(tensor.shape)}")
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise ValueError(f"all operands must be floating point, got {_listed(tensors, 'dtype')}")
        if len({t.dtype for t in tensors.values()}) > 1 and not autocast_enabled(input):
            raise ValueError(f"outside autocast all operands must have one dtype, got {_listed(tensors, 'dtype')}")
        if len({t.device for t in tensors.values()}) > 1:
            raise ValueError(f"all operands must be on one device, got {_listed(tensors, 'device')}")
        stride, padding = _pair("stride", stride, 1), _pair("padding", padding, 0)
        dilation = _pair("dilation", dilation, 1)

        batch, channels, *size = input.shape
        outputs, inputs_per_group, *kernel = weight.shape
        taps = kernel[0] * kernel[1]
        if min(outputs, inputs_per_group, taps) < 1:
            raise ValueError(f"weight must have no empty dimension, got shape {tuple(weight.shape)}")
        if channels < 1 or channels % inputs_per_group:
            raise ValueError(
                f"input has {channels} channels, not a multiple of the {inputs_per_group} that weight takes"
            )
        groups = channels // inputs_per_group
        if outputs % groups:
            raise ValueError(
                f"input has {channels} channels and weight takes {inputs_per_group}: "
                f"these {groups} groups do not divide the {outputs} output channels"
            )
        if offset.shape[1] < 1 or offset.shape[1] % (2 * taps):
            raise ValueError(
                f"offset must have a multiple of 2 * {kernel[0]} * {kernel[1]} = {2 * taps} channels, "
                f"got {offset.shape[1]}"
            )
        offset_groups = offset.shape[1] // (2 * taps)
        if channels % offset_groups:
            raise ValueError(
                f"offset has {offset.shape[1]} channels, {2 * taps} for an offset group: "
                f"these {offset_groups} groups do not divide the {channels} input channels"
            )
        last_start = [n + 2 * p - d * (k - 1) - 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
        if min(size) < 1 or min(last_start) < 0:
            raise ValueError(
                f"a map of {size[0]}x{size[1]} with padding {padding} has no room for "
                f"a {kernel[0]}x{kernel[1]} kernel with dilation {dilation}"
            )
        out = (last_start[0] // stride[0] + 1, last_start[1] // stride[1] + 1)
        shapes = {
            "offset": (batch, 2 * offset_groups * taps, *out),
            "mask": (batch, offset_groups * taps, *out),
            "bias": (outputs,),
        }
        for name, shape in shapes.items():
            if name in tensors and tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensors[name].shape)}")
        return cls((kernel[0], kernel[1]), stride, padding, dilation, groups, offset_groups, (size[0], size[1]), out)


def macs(input: Tensor, offset: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Return the multiply-adds of a call with offset (B, ·, Ho, Wo).

    They are one per weight and output pixel, and four per bilinear sample.
    """
    n_output_pixels = offset.shape[0] * offset.shape[2] * offset.shape[3]
    return n_output_pixels * (weight.numel() + 4 * input.shape[1] * weight.shape[2] * weight.shape[3])


def _pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """Return a number or (height, width) as a pair of integers of at least ``minimum``."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(number, int) and number >= minimum for number in pair):
        raise ValueError(f"{name} must be a whole number >= {minimum} or a pair of them, got {value!r}")
    return pair[0], pair[1]


def _listed(tensors: dict[str, Tensor], attribute: str) -> str:
    return ", ".join(f"{name} {getattr(tensor, attribute)}".replace("torch.", "") for name, tensor in tensors.items())
