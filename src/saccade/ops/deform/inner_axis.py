"""The inner axis of the matrix product in a deformable convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saccade.ops.deform.geometry import Geometry

__all__ = ["InnerAxis"]


class InnerAxis(NamedTuple):
    """Order and padding of the inner axis, C/G channels times K taps, and the conversions to it.

    Samples have the order (D, K, C/D), the kernel has (C/G, K). The smaller is permuted to the other's order; a kernel
    that keeps its own is not copied. The axis is zero-padded, because BLAS writes rows of multiples of 16 elements up
    to 1.7 times as fast.
    """

    g: Geometry
    channels: int
    row_width: int
    """Length of a row of samples: the C/D channels of an offset group, padded."""
    length: int
    """Length of the inner axis, padded."""
    in_kernel_order: bool
    """True for the kernel's order, required if G > 1; False for the samples' order."""

    @classmethod
    def for_operands(cls, x: Tensor, outputs: int, g: Geometry) -> InnerAxis:
        """Return the inner axis for x (B, C, H, W) and ``outputs`` output channels."""
        channels, group_channels = x.shape[1], x.shape[1] // g.offset_groups
        row_width = _round_up(group_channels, 4 if group_channels < 128 else 16)
        if g.groups > 1 or 2 * x.shape[0] * g.positions <= outputs:
            length = channels // g.groups * g.taps
            # Short axes are not padded: a group of a depthwise 3×3 convolution has nine elements.
            return cls(g, channels, row_width, _round_up(length, 16) if length >= 128 else length, in_kernel_order=True)
        return cls(g, channels, row_width, g.offset_groups * g.taps * row_width, in_kernel_order=False)

    def pixels_to_rows(self, x: Tensor) -> Tensor:
        """Return the pixels of x (n, C, H, W) as rows (n·H·W·D + 1, row_width), the last one zeros."""
        n, offset_groups, pixels, group_channels = (
            x.shape[0],
            self.g.offset_groups,
            self.g.size[0] * self.g.size[1],
            self._group_channels,
        )
        rows = x.new_zeros(
            (n * pixels * offset_groups + 1, self.row_width), dtype=torch.promote_types(x.dtype, torch.float32)
        )
        channel_rows = rows[:-1].view(n, pixels, offset_groups, self.row_width)[..., :group_channels]
        channel_rows.copy_(x.reshape(n, offset_groups, group_channels, pixels).permute(0, 3, 1, 2))
        return rows

    def rows_to_map(self, rows: Tensor) -> Tensor:
        """Invert ``pixels_to_rows``."""
        rows = rows[:-1].view(-1, self.g.size[0] * self.g.size[1], self.g.offset_groups, self.row_width)
        return rows[..., : self._group_channels].permute(0, 2, 3, 1).reshape(-1, self.channels, *self.g.size)

    def weight_to_kernel(self, weight: Tensor) -> Tensor:
        """Return the weight (O, C/G, kh, kw) as (G, O/G, length), unpadded if in kernel order."""
        g, group_channels = self.g, self._group_channels
        if self.in_kernel_order:
            return weight.reshape(g.groups, weight.shape[0] // g.groups, -1)
        kernel = weight.new_empty((weight.shape[0], g.offset_groups, g.taps, self.row_width))
        kernel[..., :group_channels] = weight.reshape(-1, g.offset_groups, group_channels, g.taps).transpose(2, 3)
        kernel[..., group_channels:] = 0
        return kernel.view(1, weight.shape[0], self.length)

    def kernel_to_weight(self, kernel: Tensor, shape: torch.Size) -> Tensor:
        """Invert ``weight_to_kernel``."""
        g = self.g
        if self.in_kernel_order:
            kernel = kernel[..., : self.channels // g.groups * g.taps]
        else:
            kernel = kernel.view(-1, g.offset_groups, g.taps, self.row_width)[..., : self._group_channels].transpose(
                2, 3
            )
        return kernel.reshape(shape)

    def samples_to_columns(self, samples: Tensor) -> Tensor:
        """Return samples (n·N·D·K, row_width) as (G, n·N, length)."""
        g, group_channels = self.g, self._group_channels
        if not self.in_kernel_order:
            return samples.view(1, -1, self.length)
        samples = samples.view(-1, g.offset_groups, g.taps, self.row_width)[..., :group_channels].transpose(2, 3)
        unpadded = self.channels // g.groups * g.taps
        columns = samples.new_empty((samples.shape[0], g.groups, self.length))
        # Via one axis (C, K), because groups and offset groups may divide the channels differently.
        columns[..., :unpadded] = samples.reshape(-1, g.groups, unpadded)
        columns[..., unpadded:] = 0
        return columns.transpose(0, 1)

    def columns_to_samples(self, columns: Tensor) -> Tensor:
        """Invert ``samples_to_columns``."""
        g, group_channels = self.g, self._group_channels
        if not self.in_kernel_order:
            return columns.view(-1, self.row_width)
        columns = columns[..., : self.channels // g.groups * g.taps].transpose(0, 1)
        columns = columns.reshape(-1, g.offset_groups, group_channels, g.taps).transpose(2, 3)
        samples = columns.new_zeros((columns.shape[0], g.offset_groups, g.taps, self.row_width))
        samples[..., :group_channels] = columns
        return samples.view(-1, self.row_width)

    @property
    def _group_channels(self) -> int:
        return self.channels // self.g.offset_groups


def _round_up(n: int, multiple: int) -> int:
    """Return the least multiple of ``multiple`` that is at least n."""
    return -(-n // multiple) * multiple
