"""Bilinear sampling of pixels stored as rows: every sample is an embedding bag, a weighted sum of four rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.deform.geometry import Geometry

__all__ = ["SampleBags", "regular_grid"]


class SampleBags(NamedTuple):
    """Indices and weights of the four rows of every sample of n images.

    The M = n·N·D·K bags have the order (image, position, group, tap). Rows hold a pixel's channels of one offset group,
    in the order (image, pixel, group), then one row of zeros.
    """

    corners: Tensor
    """Row indices (M, 4): upper left, upper right, lower left, lower right."""
    weights: Tensor
    """Bilinear weights times the mask, (M, 4)."""
    upper: Tensor
    """Weight of the upper pixels, 1 − f_y, (n, N, D, K)."""
    left: Tensor
    """Weight of the left pixels, 1 − f_x, (n, N, D, K)."""
    mask: Tensor | None
    """Mask (n, N, D, K)."""

    @classmethod
    def from_offsets(cls, offset: Tensor, mask: Tensor | None, grid: Tensor, g: Geometry) -> SampleBags:
        """Return the bags of offset (n, 2DK, Ho, Wo) and mask (n, DK, Ho, Wo) around ``regular_grid``."""
        n, groups, (height, width) = offset.shape[0], g.offset_groups, g.size
        delta = offset.reshape(n, groups, g.taps, 2, g.positions).permute(3, 0, 4, 1, 2).contiguous()
        # The clamp keeps the indices within int32; samples two or more pixels outside are zero in any case.
        y = (delta[0] + grid[0]).clamp_(-2, height)
        x = (delta[1] + grid[1]).clamp_(-2, width)
        floor_y, floor_x = y.floor(), x.floor()
        lower, right = y.sub_(floor_y), x.sub_(floor_x)
        upper, left = 1 - lower, 1 - right
        weights = torch.stack((upper * left, upper * right, lower * left, lower * right), -1)
        if mask is not None:
            mask = mask.reshape(n, groups, g.taps, g.positions).permute(0, 3, 1, 2).contiguous()
            weights *= mask[..., None]

        r_y, r_x = floor_y.int(), floor_x.int()
        image_row = torch.arange(n, device=offset.device, dtype=torch.int32) * (height * width * groups)
        group = torch.arange(groups, device=offset.device, dtype=torch.int32)
        row = (r_y * width + r_x) * groups + (image_row[:, None] + group)[:, None, :, None]
        in_upper, in_lower = (r_y >= 0) & (r_y < height), (r_y >= -1) & (r_y < height - 1)
        in_left, in_right = (r_x >= 0) & (r_x < width), (r_x >= -1) & (r_x < width - 1)
        zero_row = torch.full((), n * height * width * groups, device=offset.device, dtype=torch.int32)
        corners = torch.stack(
            (
                row.where(in_upper & in_left, zero_row),
                (row + groups).where(in_upper & in_right, zero_row),
                (row + width * groups).where(in_lower & in_left, zero_row),
                (row + (width + 1) * groups).where(in_lower & in_right, zero_row),
            ),
            -1,
        )
        return cls(corners.view(-1, 4), weights.view(-1, 4), upper, left, mask)

    def samples(self, rows: Tensor) -> Tensor:
        """Return the samples (M, c), weighted sums of rows (P, c)."""
        return F.embedding_bag(self.corners, rows, mode="sum", per_sample_weights=self.weights)

    def samples_and_products(self, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples (M, c), and the dot products (M, 4) of their gradient (M, c) with their four rows."""
        with torch.enable_grad():
            weights = self.weights.detach().requires_grad_()
            samples = F.embedding_bag(self.corners, rows, mode="sum", per_sample_weights=weights)
        (products,) = torch.autograd.grad(samples, weights, grad)
        return samples.detach(), products

    def row_gradient(self, grad: Tensor, n_rows: int) -> Tensor:
        """Return the gradient (n_rows, c) of the rows from that of the samples, (M, c)."""
        # Sorted, so that the order of summation does not depend on threads.
        index, order = self.corners.view(-1).sort(stable=True)
        starts = torch.searchsorted(index, torch.arange(n_rows, device=index.device, dtype=index.dtype))
        weights = self.weights.view(-1).index_select(0, order)
        return F.embedding_bag(order >> 2, grad, starts, mode="sum", per_sample_weights=weights)

    def offset_gradients(self, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of dy, dx and the mask, each (n, N, D, K), from the dot products (M, 4)."""
        upper_left, upper_right, lower_left, lower_right = products.view(*self.upper.shape, 4).unbind(-1)
        lower, right = 1 - self.upper, 1 - self.left
        above = self.left * upper_left + right * upper_right
        below = self.left * lower_left + right * lower_right
        d_y = below - above
        d_x = self.upper * (upper_right - upper_left) + lower * (lower_right - lower_left)
        if self.mask is not None:
            d_y, d_x = d_y * self.mask, d_x * self.mask
        return d_y, d_x, self.upper * above + lower * below


def regular_grid(g: Geometry, like: Tensor) -> Tensor:
    """Return the positions of the taps without offsets, p·s − p₀ + k·d: (2, N, 1, K), y then x."""

    def axis_positions(axis: int) -> Tensor:
        p = torch.arange(g.out[axis], device=like.device, dtype=like.dtype)
        k = torch.arange(g.kernel[axis], device=like.device, dtype=like.dtype)
        return (p * g.stride[axis] - g.padding[axis])[:, None] + k * g.dilation[axis]

    shape = (*g.out, *g.kernel)
    grid = torch.stack(
        (axis_positions(0)[:, None, :, None].expand(shape), axis_positions(1)[None, :, None, :].expand(shape))
    )
    return grid.view(2, g.positions, 1, g.taps)
