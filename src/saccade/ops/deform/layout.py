"""How samples and kernel are laid out for the matrix product, so that BLAS is fast and little is copied."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saccade.ops.deform.geometry import Geometry

__all__ = ["Layout"]


class Layout(NamedTuple):
    """The inner axis of the product, C/G channels times K taps, has one of two orders.

    Samples come as (D, K, C/D), a kernel comes as (C/G, K). One of the two has to be rearranged: the smaller. On a
    7×7 map of ResNet-50's last stage a kernel is ten times the samples.

    Either way the axis is filled up with zeros: BLAS writes a matrix up to 1.7 times as fast when its rows start at
    multiples of 16 numbers, and the dot products of ``Bags`` like rows of multiples of 4. DAS has 51, 102, 205 and
    410 channels. A kernel that is not rearranged is only read, and stays as it is: a copy would cost more. It stands on
    the left of the products then, which is up to 1.4 times as fast.
    """

    g: Geometry
    channels: int
    width: int
    """Length of a row: the C/D channels of an offset group and zeros."""
    inner: int
    """Length of the inner axis: with its zeros."""
    as_kernel: bool
    """The inner axis is (C/G, K), as in the kernel; else (D, K, width), as in the samples. Groups need the former."""

    @classmethod
    def of(cls, x: Tensor, outputs: int, g: Geometry) -> Layout:
        """The layout for x (B, C, H, W) and so many output channels."""
        channels, depth = x.shape[1], x.shape[1] // g.offset_groups
        width = _filled(depth, 4 if depth < 128 else 16)
        if g.groups > 1 or 2 * x.shape[0] * g.positions <= outputs:
            inner = channels // g.groups * g.taps
            # One group of a depthwise convolution has an inner axis of nine.
            return cls(g, channels, width, _filled(inner, 16) if inner >= 128 else inner, as_kernel=True)
        return cls(g, channels, width, g.offset_groups * g.taps * width, as_kernel=False)

    def rows(self, x: Tensor) -> Tensor:
        """Pixels as rows: x (n, C, H, W) -> (n·H·W·D + 1, width), the last row zeros."""
        n, groups, pixels, depth = x.shape[0], self.g.offset_groups, self.g.size[0] * self.g.size[1], self._depth
        rows = x.new_zeros((n * pixels * groups + 1, self.width), dtype=torch.promote_types(x.dtype, torch.float32))
        filled = rows[:-1].view(n, pixels, groups, self.width)[..., :depth]
        filled.copy_(x.reshape(n, groups, depth, pixels).permute(0, 3, 1, 2))
        return rows

    def map(self, rows: Tensor) -> Tensor:
        """The inverse of ``rows``: (n, C, H, W)."""
        rows = rows[:-1].view(-1, self.g.size[0] * self.g.size[1], self.g.offset_groups, self.width)
        return rows[..., : self._depth].permute(0, 2, 3, 1).reshape(-1, self.channels, *self.g.size)

    def kernel(self, weight: Tensor) -> Tensor:
        """Weight (O, C/G, kh, kw) -> (G, O/G, inner), without the zeros where nothing is rearranged."""
        g, depth = self.g, self._depth
        if self.as_kernel:
            return weight.reshape(g.groups, weight.shape[0] // g.groups, -1)
        filled = weight.new_empty((weight.shape[0], g.offset_groups, g.taps, self.width))
        filled[..., :depth] = weight.reshape(-1, g.offset_groups, depth, g.taps).transpose(2, 3)
        filled[..., depth:] = 0
        return filled.view(1, weight.shape[0], self.inner)

    def weight(self, kernel: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of ``kernel``, with the zeros or without them, for a weight of this shape."""
        g = self.g
        if self.as_kernel:
            kernel = kernel[..., : self.channels // g.groups * g.taps]
        else:
            kernel = kernel.view(-1, g.offset_groups, g.taps, self.width)[..., : self._depth].transpose(2, 3)
        return kernel.reshape(shape)

    def columns(self, samples: Tensor) -> Tensor:
        """Samples (n·N·D·K, width) -> (G, n·N, inner)."""
        g, depth = self.g, self._depth
        if not self.as_kernel:
            return samples.view(1, -1, self.inner)
        samples = samples.view(-1, g.offset_groups, g.taps, self.width)[..., :depth].transpose(2, 3)
        used = self.channels // g.groups * g.taps
        columns = samples.new_empty((samples.shape[0], g.groups, self.inner))
        # Groups and offset groups may cut the channels differently: only (C, K) as one axis knows both.
        columns[..., :used] = samples.reshape(-1, g.groups, used)
        columns[..., used:] = 0
        return columns.transpose(0, 1)

    def samples(self, columns: Tensor) -> Tensor:
        """The inverse of ``columns``, with the zeros or without them."""
        g, depth = self.g, self._depth
        if not self.as_kernel:
            return columns.view(-1, self.width)
        columns = columns[..., : self.channels // g.groups * g.taps].transpose(0, 1)
        columns = columns.reshape(-1, g.offset_groups, depth, g.taps).transpose(2, 3)
        samples = columns.new_zeros((columns.shape[0], g.offset_groups, g.taps, self.width))
        samples[..., :depth] = columns
        return samples.view(-1, self.width)

    @property
    def _depth(self) -> int:
        return self.channels // self.g.offset_groups


def _filled(n: int, multiple: int) -> int:
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple
