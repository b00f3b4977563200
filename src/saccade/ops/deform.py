r"""Deformable convolution: every tap of the kernel is moved by an offset of its own and scaled by a mask.

    y(p) = Σ_k w_k · x(p·s − p₀ + k·d + Δ_k(p)) · m_k(p) + b          s stride, p₀ padding, d dilation
    x(q) = Σ_r max(0, 1 − |q_y − r_y|) · max(0, 1 − |q_x − r_x|) · x(r)   r the pixels of the map, zero outside

``deform_conv2d_definition`` writes this down; ``deform_conv2d`` is what networks call. Both have the signature,
the channel order and the derivatives of ``torchvision.ops.deform_conv2d`` and need nothing but PyTorch.

How the fast form works. With the pixels as rows, (B·H·W, C), a sampled value is a weighted sum of four rows: an
*embedding bag*, for which PyTorch has a fused kernel. The convolution is then one matrix product with the (B·N, C·K)
samples, N output pixels and K taps. Backward, the four products <g, row> of a sample give the derivatives of its
offset and its mask; the derivative of the map is again a bag, a pixel's bag being all samples that touched it, found
by one stable sort (so the result does not depend on the number of threads). The samples are computed again in the
backward pass, which costs 2 % of the time and saves K times the memory of the map. Both passes walk over the batch in
slices that stay in the cache.

Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017, arXiv:1703.06211 (no mask); Zhu et al.,
"Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, arXiv:1811.11168 (mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from saccade.ops.counted import counted

__all__ = ["deform_conv2d", "deform_conv2d_definition"]

_ROWS_CPU = 4096
"""Output pixels of one slice on the CPU: the samples of a slice should stay in the cache."""

_ROWS_DEVICE = 1 << 17
"""Output pixels of one slice elsewhere: bounds the memory of the samples, fills the device."""


class _Geometry(NamedTuple):
    """The whole numbers of one call; pairs are (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int
    size: tuple[int, int]
    out: tuple[int, int]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        return self.out[0] * self.out[1]


def _macs(input: Tensor, offset: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Multiply-adds of one call: one for each product of the kernel, four for each bilinear sample."""
    batch, _, height, width = offset.shape
    samples = input.shape[1] * weight.shape[2] * weight.shape[3]
    return batch * height * width * (weight.numel() + 4 * samples)


@counted(_macs)
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution with the conventions of ``torchvision.ops.deform_conv2d``.

    Args:
        input: (B, C, H, W).
        offset: (B, 2·D·kh·kw, Ho, Wo), in pixels. D offset groups share the channels evenly; within a group the taps
            are row-major, and each tap has two channels, dy then dx. At whole numbers, where bilinear sampling has
            a kink, the derivative is the one from the right.
        weight: (O, C/G, kh, kw). The number of groups G follows from C.
        bias: (O,) or None.
        stride: of the output pixels, one number or (height, width).
        padding: of zeros around the map.
        dilation: of the taps.
        mask: (B, D·kh·kw, Ho, Wo), factor of each sample, or None for ones (DCN v1). No sigmoid is applied.

    Returns:
        (B, O, Ho, Wo) in the dtype of the input, channels last if the input is.

    Positions and interpolation are computed in at least float32; the matrix products have the dtype of the operands
    and accumulate as ``F.conv2d`` does. Under autocast, as there, operands of any dtype are taken and the result has
    the dtype of autocast. Exported (``torch.export``, ONNX) or compiled, the call is the definition, made of plain
    gathers that those tools can translate and fuse. Derivatives of second order: of the definition only.

    Raises:
        ValueError: shapes that do not belong together, with the numbers found and needed.
        TypeError: dtypes or devices that differ.
    """
    geometry = _check(input, offset, weight, bias, stride, padding, dilation, mask)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _definition(input, offset, weight, bias, mask, geometry)
    device = input.device.type
    if torch.is_autocast_enabled(device):
        operand = torch.get_autocast_dtype(device)
        input, weight = input.to(operand), weight.to(operand)
        bias = None if bias is None else bias.to(operand)
    precise = torch.promote_types(input.dtype, torch.float32)
    offset = offset.to(precise)
    mask = None if mask is None else mask.to(precise)
    return _DeformConv2d.apply(input, offset, mask, weight, bias, geometry)


@counted(_macs)
def deform_conv2d_definition(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """The equations at the head of this file, differentiated by autograd: the referee of ``deform_conv2d``.

    Arguments, result and errors are those of ``deform_conv2d``.
    """
    geometry = _check(input, offset, weight, bias, stride, padding, dilation, mask)
    return _definition(input, offset, weight, bias, mask, geometry)


def _definition(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, geometry: _Geometry
) -> Tensor:
    """The definition on checked operands: four plain gathers and a product."""
    g, (height, width), (out_height, out_width) = geometry, geometry.size, geometry.out
    batch, channels, groups, n = x.shape[0], x.shape[1], g.offset_groups, out_height * out_width
    operand = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    precise = torch.promote_types(operand, torch.float32)

    # q = p·s − p₀ + k·d + Δ_k(p), each (B, D, K, N); beyond one pixel outside the map it does not matter where.
    p_y = torch.arange(out_height, device=x.device).repeat_interleave(out_width)
    p_x = torch.arange(out_width, device=x.device).repeat(out_height)
    k_y = torch.arange(g.kernel[0], device=x.device).repeat_interleave(g.kernel[1])[:, None]
    k_x = torch.arange(g.kernel[1], device=x.device).repeat(g.kernel[0])[:, None]
    delta = offset.to(precise).reshape(batch, groups, g.taps, 2, n)
    q_y = p_y * g.stride[0] - g.padding[0] + k_y * g.dilation[0] + delta[:, :, :, 0]
    q_x = p_x * g.stride[1] - g.padding[1] + k_x * g.dilation[1] + delta[:, :, :, 1]
    q_y, q_x = q_y.clamp(-2, height), q_x.clamp(-2, width)

    # x(q): the four pixels r around q, each with the weight of its nearness, zero outside.
    f_y, f_x = q_y - q_y.detach().floor(), q_x - q_x.detach().floor()
    pixels = x.to(precise).reshape(batch, groups, channels // groups, height * width)
    samples = pixels.new_zeros(())
    for down in (0, 1):
        for right in (0, 1):
            r_y = q_y.detach().floor().long() + down
            r_x = q_x.detach().floor().long() + right
            inside = (r_y >= 0) & (r_y < height) & (r_x >= 0) & (r_x < width)
            r = r_y.clamp(0, height - 1) * width + r_x.clamp(0, width - 1)
            r = r.reshape(batch, groups, 1, g.taps * n).expand(-1, -1, channels // groups, -1)
            value = pixels.gather(3, r).reshape(batch, groups, channels // groups, g.taps, n)
            nearness = (f_y if down else 1 - f_y) * (f_x if right else 1 - f_x)
            samples = samples + torch.where(inside[:, :, None], value, 0) * nearness[:, :, None]
    if mask is not None:
        samples = samples * mask.to(precise).reshape(batch, groups, 1, g.taps, n)

    # y = Σ_k w_k · samples_k + b, per group of the convolution.
    columns = samples.to(operand).reshape(batch, g.groups, channels // g.groups * g.taps, n)
    kernel = weight.to(operand).reshape(g.groups, weight.shape[0] // g.groups, -1)
    y = (kernel @ columns).reshape(batch, weight.shape[0], out_height, out_width)
    return y if bias is None else y + bias.to(operand).reshape(-1, 1, 1)


class _DeformConv2d(torch.autograd.Function):
    """The fast form, on operands of one dtype; offset and mask in the dtype of positions."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        g: _Geometry,
    ) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry = g
        width = _width(x, g)
        kernel = _fold_kernel(weight, width, g)
        grid = _regular_grid(g, offset)
        y = x.new_empty((x.shape[0] * g.positions, weight.shape[0]))
        with torch.autocast(x.device.type, enabled=False):
            for images in _slices(x, g):
                bags = _Bags.of(offset[images], None if mask is None else mask[images], grid, g)
                columns = _fold_columns(bags.sum(_rows(x[images], width, g)).to(weight.dtype), x.shape[1], g)
                part = y[images.start * g.positions : images.stop * g.positions]
                if g.groups == 1:
                    if bias is None:
                        torch.mm(columns[0], kernel[0].t(), out=part)
                    else:
                        torch.addmm(bias, columns[0], kernel[0].t(), out=part)
                else:
                    product = (columns @ kernel.mT).transpose(0, 1).reshape(part.shape)
                    part.copy_(product if bias is None else product.add_(bias))
        y = y.view(x.shape[0], *g.out, weight.shape[0]).permute(0, 3, 1, 2)
        return y.contiguous(memory_format=_memory_format(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        g: _Geometry = ctx.geometry
        need_x, need_offset, need_mask, need_weight, need_bias, _ = ctx.needs_input_grad
        width = _width(x, g)
        kernel = _fold_kernel(weight, width, g)
        grid = _regular_grid(g, offset)
        grad_x = torch.empty_like(x) if need_x else None
        grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format) if need_offset else None
        grad_mask = torch.empty_like(mask, memory_format=torch.contiguous_format) if need_mask else None
        grad_kernel = torch.zeros_like(kernel, dtype=offset.dtype) if need_weight else None
        with torch.autocast(x.device.type, enabled=False):
            for images in _slices(x, g):
                bags = _Bags.of(offset[images], None if mask is None else mask[images], grid, g)
                rows = _rows(x[images], width, g)
                # (G, n·N, O/G)
                out = grad[images].permute(0, 2, 3, 1).reshape(-1, g.groups, weight.shape[0] // g.groups)
                out = out.transpose(0, 1)
                inner = None
                if need_x or need_offset or need_mask:
                    inner = _unfold_columns(out @ kernel, x.shape[1], g).to(offset.dtype)
                if grad_offset is not None or grad_mask is not None:
                    assert inner is not None
                    columns, products = bags.sum_and_products(rows, inner)
                    bags.write_gradients(products, images, grad_offset, grad_mask, g)
                elif grad_kernel is not None:
                    columns = bags.sum(rows)
                if grad_kernel is not None:
                    folded = _fold_columns(columns.to(weight.dtype), x.shape[1], g)
                    if g.groups == 1 and weight.dtype == grad_kernel.dtype:
                        grad_kernel[0].addmm_(out[0].t(), folded[0])
                    else:
                        grad_kernel += out.mT @ folded
                if grad_x is not None:
                    assert inner is not None
                    pixels = bags.scatter(inner, rows.shape[0])
                    depth = x.shape[1] // g.offset_groups
                    pixels = pixels[:-1].view(-1, g.size[0] * g.size[1], g.offset_groups, width)[..., :depth]
                    grad_x[images] = pixels.permute(0, 2, 3, 1).reshape(-1, *x.shape[1:])
        grad_weight = None
        if grad_kernel is not None:
            grad_weight = _unfold_kernel(grad_kernel, weight, width, g).to(weight.dtype)
        return grad_x, grad_offset, grad_mask, grad_weight, grad.sum((0, 2, 3)) if need_bias else None, None


class _Bags(NamedTuple):
    """The four pixels of every sample, in the order (image, position, offset group, tap): M bags."""

    index: Tensor
    """(M, 4) rows of the pixels, upper left, upper right, lower left, lower right; outside: the last row, zeros."""
    weights: Tensor
    """(M, 4) bilinear weights times the mask."""
    upper: Tensor
    """(n, N, D, K) weight of the upper pixels, 1 − f_y; the lower have f_y."""
    left: Tensor
    """(n, N, D, K) weight of the left pixels, 1 − f_x; the right have f_x."""
    mask: Tensor | None
    """(n, N, D, K)."""

    @classmethod
    def of(cls, offset: Tensor, mask: Tensor | None, grid: Tensor, g: _Geometry) -> _Bags:
        """The bags for offset (n, 2DK, Ho, Wo) around the regular grid (2, N, 1, K)."""
        n, groups, (height, width) = offset.shape[0], g.offset_groups, g.size
        delta = offset.reshape(n, groups, g.taps, 2, -1).permute(3, 0, 4, 1, 2).contiguous()
        # One pixel beyond the map all four pixels are outside: further out is the same, and fits an integer.
        y = (delta[0] + grid[0]).clamp_(-2, height)
        x = (delta[1] + grid[1]).clamp_(-2, width)
        top, start = y.floor(), x.floor()
        lower, right = y.sub_(top), x.sub_(start)
        upper, left = 1 - lower, 1 - right
        weights = torch.stack((upper * left, upper * right, lower * left, lower * right), -1)
        if mask is not None:
            mask = mask.reshape(n, groups, g.taps, -1).permute(0, 3, 1, 2).contiguous()
            weights *= mask[..., None]

        r_y, r_x = top.int(), start.int()
        image = torch.arange(n, device=offset.device, dtype=torch.int32)[:, None, None, None] * (height * width)
        group = torch.arange(groups, device=offset.device, dtype=torch.int32)[:, None]
        corner = ((r_y * width + r_x) + image) * groups + group
        in_top, in_bottom = (r_y >= 0) & (r_y < height), (r_y >= -1) & (r_y < height - 1)
        in_left, in_right = (r_x >= 0) & (r_x < width), (r_x >= -1) & (r_x < width - 1)
        outside = torch.full((), n * height * width * groups, device=offset.device, dtype=torch.int32)
        index = torch.stack(
            (
                torch.where(in_top & in_left, corner, outside),
                torch.where(in_top & in_right, corner + groups, outside),
                torch.where(in_bottom & in_left, corner + width * groups, outside),
                torch.where(in_bottom & in_right, corner + (width + 1) * groups, outside),
            ),
            -1,
        )
        return cls(index.view(-1, 4), weights.view(-1, 4), upper, left, mask)

    def sum(self, rows: Tensor) -> Tensor:
        """The samples (M, c) of rows (P, c)."""
        return F.embedding_bag(self.index, rows, mode="sum", per_sample_weights=self.weights)

    def sum_and_products(self, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The samples (M, c), and <grad, row> of every sample's four rows (M, 4)."""
        with torch.enable_grad():
            weights = self.weights.detach().requires_grad_()
            samples = F.embedding_bag(self.index, rows, mode="sum", per_sample_weights=weights)
        (products,) = torch.autograd.grad(samples, weights, grad)
        return samples.detach(), products

    def scatter(self, grad: Tensor, pixels: int) -> Tensor:
        """The derivative (pixels, c) with respect to the rows: each is a bag of the samples (M, c) it served."""
        index, order = self.index.view(-1).sort(stable=True)
        starts = torch.searchsorted(index, torch.arange(pixels, device=index.device, dtype=index.dtype))
        weights = self.weights.view(-1).index_select(0, order)
        return F.embedding_bag(order >> 2, grad, starts, mode="sum", per_sample_weights=weights)

    def write_gradients(
        self, products: Tensor, images: slice, grad_offset: Tensor | None, grad_mask: Tensor | None, g: _Geometry
    ) -> None:
        """From <grad, row> of the four rows, the derivatives of the offsets and the masks of these images."""
        upper_left, upper_right, lower_left, lower_right = products.view(*self.upper.shape, 4).unbind(-1)
        lower, right = 1 - self.upper, 1 - self.left
        above = self.left * upper_left + right * upper_right
        below = self.left * lower_left + right * lower_right
        if grad_offset is not None:
            d_y = below - above
            d_x = self.upper * (upper_right - upper_left) + lower * (lower_right - lower_left)
            if self.mask is not None:
                d_y, d_x = d_y * self.mask, d_x * self.mask
            part = grad_offset[images].view(-1, g.offset_groups, g.taps, 2, g.positions)
            part[:, :, :, 0] = d_y.permute(0, 2, 3, 1)
            part[:, :, :, 1] = d_x.permute(0, 2, 3, 1)
        if grad_mask is not None:
            part = grad_mask[images].view(-1, g.offset_groups, g.taps, g.positions)
            part[:] = (self.upper * above + lower * below).permute(0, 2, 3, 1)


def _regular_grid(g: _Geometry, like: Tensor) -> Tensor:
    """Where the taps are without offsets, (2, N, 1, K): y, then x."""

    def positions(axis: int) -> Tensor:
        out = torch.arange(g.out[axis], device=like.device, dtype=like.dtype) * g.stride[axis] - g.padding[axis]
        tap = torch.arange(g.kernel[axis], device=like.device, dtype=like.dtype) * g.dilation[axis]
        return out[:, None] + tap

    shape = (*g.out, *g.kernel)
    y = positions(0)[:, None, :, None].expand(shape)
    x = positions(1)[None, :, None, :].expand(shape)
    return torch.stack((y, x)).view(2, g.positions, 1, g.taps)


def _slices(x: Tensor, g: _Geometry) -> Iterator[slice]:
    """The batch in slices of whole images."""
    step = max(1, (_ROWS_CPU if x.device.type == "cpu" else _ROWS_DEVICE) // max(1, g.positions))
    for start in range(0, x.shape[0], step):
        yield slice(start, min(start + step, x.shape[0]))


def _width(x: Tensor, g: _Geometry) -> int:
    """Length of a row: channels of an offset group, rounded up with zeros to what BLAS kernels are fast at."""
    depth = x.shape[1] // g.offset_groups
    multiple = 1 if g.groups > 1 else 4 if depth < 128 else 16
    return -(-depth // multiple) * multiple


def _rows(x: Tensor, width: int, g: _Geometry) -> Tensor:
    """X (n, C, H, W) -> (n·H·W·D + 1, width), the last row zeros."""
    n, depth, pixels = x.shape[0], x.shape[1] // g.offset_groups, g.size[0] * g.size[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = x.new_zeros((n * pixels * g.offset_groups + 1, width), dtype=dtype)
    inner = x.permute(0, 2, 3, 1).reshape(n, pixels, g.offset_groups, depth)
    rows[:-1].view(n, pixels, g.offset_groups, width)[..., :depth] = inner
    return rows


def _fold_kernel(weight: Tensor, width: int, g: _Geometry) -> Tensor:
    """Weight (O, C/G, kh, kw) -> (G, O/G, inner), inner in the order of ``_fold_columns``."""
    if g.groups > 1:
        return weight.reshape(g.groups, weight.shape[0] // g.groups, -1)
    depth = weight.shape[1] // g.offset_groups
    kernel = weight.new_zeros((weight.shape[0], g.offset_groups, g.taps, width))
    kernel[..., :depth] = weight.reshape(-1, g.offset_groups, depth, g.taps).transpose(2, 3)
    return kernel.view(1, weight.shape[0], -1)


def _unfold_kernel(kernel: Tensor, weight: Tensor, width: int, g: _Geometry) -> Tensor:
    """The inverse of ``_fold_kernel``."""
    if g.groups > 1:
        return kernel.view(weight.shape)
    depth = weight.shape[1] // g.offset_groups
    kernel = kernel.view(weight.shape[0], g.offset_groups, g.taps, width)[..., :depth]
    return kernel.transpose(2, 3).reshape(weight.shape)


def _fold_columns(columns: Tensor, channels: int, g: _Geometry) -> Tensor:
    """Samples (M, width) -> (G, n·N, inner)."""
    if g.groups == 1:
        return columns.view(1, -1, g.offset_groups * g.taps * columns.shape[1])
    columns = columns.view(-1, g.offset_groups, g.taps, channels // g.offset_groups).transpose(2, 3)
    return columns.reshape(-1, g.groups, channels // g.groups * g.taps).transpose(0, 1)


def _unfold_columns(columns: Tensor, channels: int, g: _Geometry) -> Tensor:
    """The inverse of ``_fold_columns``."""
    if g.groups == 1:
        return columns.view(-1, columns.shape[2] // (g.offset_groups * g.taps))
    depth = channels // g.offset_groups
    columns = columns.transpose(0, 1).reshape(-1, g.offset_groups, depth, g.taps)
    return columns.transpose(2, 3).reshape(-1, depth)


def _memory_format(x: Tensor) -> torch.memory_format:
    """Channels last if only that describes x, as ``F.conv2d`` decides it."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _check(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    mask: Tensor | None,
) -> _Geometry:
    """The geometry of a call, or a ValueError with the numbers that do not fit."""
    for name, tensor in (("input", x), ("offset", offset), ("weight", weight), ("mask", mask)):
        if tensor is not None and tensor.ndim != 4:
            raise ValueError(f"{name} must have 4 dimensions, got shape {tuple(tensor.shape)}")
    tensors = {"input": x, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not all(tensor.is_floating_point() for tensor in present.values()):
        raise ValueError(f"all operands must be of floating point, got {_listed(present, 'dtype')}")
    if len({t.dtype for t in present.values()}) > 1 and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"all operands must have one dtype outside autocast, got {_listed(present, 'dtype')}")
    if len({t.device for t in present.values()}) > 1:
        raise ValueError(f"all operands must be on one device, got {_listed(present, 'device')}")

    kernel = (weight.shape[2], weight.shape[3])
    stride, padding, dilation = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    batch, channels, taps = x.shape[0], x.shape[1], kernel[0] * kernel[1]
    if min(kernel) < 1 or weight.shape[0] < 1 or weight.shape[1] < 1:
        raise ValueError(f"weight must have no empty dimension, got shape {tuple(weight.shape)}")
    groups = channels // weight.shape[1]
    if groups < 1 or channels % weight.shape[1]:
        raise ValueError(f"input has {channels} channels, not a multiple of the {weight.shape[1]} the weight takes")
    if weight.shape[0] % groups:
        raise ValueError(
            f"{channels} input channels and a weight that takes {weight.shape[1]} make {groups} groups, "
            f"which do not divide the {weight.shape[0]} output channels"
        )
    offset_groups = offset.shape[1] // (2 * taps)
    if offset_groups < 1 or offset.shape[1] % (2 * taps):
        raise ValueError(
            f"offset must have a multiple of 2 * {kernel[0]} * {kernel[1]} = {2 * taps} channels, got {offset.shape[1]}"
        )
    if channels % offset_groups:
        raise ValueError(
            f"offset has {offset.shape[1]} channels: {offset_groups} offset groups of {2 * taps}, "
            f"which do not divide the {channels} input channels"
        )
    size = (x.shape[2], x.shape[3])
    reach = tuple(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 for i in (0, 1))
    if min(size) < 1 or min(reach) < 0:
        raise ValueError(
            f"a map of {size[0]}x{size[1]} with padding {padding} has no room for a "
            f"{kernel[0]}x{kernel[1]} kernel with dilation {dilation}"
        )
    out = (reach[0] // stride[0] + 1, reach[1] // stride[1] + 1)
    wanted = {"offset": (batch, 2 * offset_groups * taps, *out), "mask": (batch, offset_groups * taps, *out)}
    for name, shape in wanted.items():
        if name in present and tuple(present[name].shape) != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(present[name].shape)}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must have the shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    return _Geometry(kernel, stride, padding, dilation, groups, offset_groups, size, out)


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """One number or (height, width), as a pair of whole numbers not below ``least``."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"{name} must be a whole number >= {least} or a pair of them, got {value!r}")
    return pair[0], pair[1]


def _listed(tensors: dict[str, Tensor], attribute: str) -> str:
    """'input float32, offset float64'."""
    return ", ".join(f"{name} {getattr(tensor, attribute)}".replace("torch.", "") for name, tensor in tensors.items())
