"""Deformable convolution as embedding bags and one matrix product.

With the pixels as rows, (B·H·W, C), a sample is a weighted sum of four rows, an embedding bag. The convolution
multiplies the (N, K·C) samples of an image by the kernel.

Both passes process the batch in slices that fit the cache. The backward pass computes the samples again: that costs 2 %
of the time and saves K times the memory of the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import operand_dtype, without_autocast
from saccade.ops.deform.definition import deform_conv2d_definition
from saccade.ops.deform.geometry import Geometry, macs
from saccade.ops.deform.inner_axis import InnerAxis
from saccade.ops.deform.sample_bags import SampleBags, regular_grid
from saccade.ops.eager import is_captured, is_transformed, needs_composite_backward
from saccade.ops.macs import with_macs
from saccade.ops.memory_format import memory_format

__all__ = ["deform_conv2d"]

_SLICE_PIXELS = {"cpu": 4096}
"""Output pixels per slice, by device type; one image may have more. On the CPU the samples should fit the cache."""

_SLICE_PIXELS_ELSEWHERE = 1 << 17
"""Number of output pixels per slice on other devices."""


@with_macs(macs)
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
    """Return a deformable convolution with the conventions of ``torchvision.ops.deform_conv2d``.

    Args:
        input: (B, C, H, W).
        offset: (B, 2·D·kh·kw, Ho, Wo), in pixels. D offset groups share the channels evenly; within a group the taps
            are row-major, and each tap has two channels, dy then dx. At integers the derivative is the right-hand one.
        weight: (O, C/G, kh, kw) with G groups.
        bias: (O,) or None.
        stride: step between output pixels, in pixels; one number or (height, width).
        padding: zeros around the map, in pixels.
        dilation: distance between taps, in pixels.
        mask: (B, D·kh·kw, Ho, Wo), a factor for each sample, without a sigmoid; None for ones (DCN v1).

    Returns:
        (B, O, Ho, Wo), channels last if the input is. Positions and interpolation are computed in float32 at least,
        products in the dtype of the operands; under autocast, in autocast's, for operands of any dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    if is_captured() or is_transformed():
        return deform_conv2d_definition(input, offset, weight, bias, stride, padding, dilation, mask)
    g = Geometry.from_operands(input, offset, weight, bias, stride, padding, dilation, mask)
    dtype = operand_dtype(input)
    compute_dtype = torch.promote_types(dtype, torch.float32)
    y: Tensor = _DeformConv2d.apply(
        input.to(dtype),
        offset.to(compute_dtype),
        None if mask is None else mask.to(compute_dtype),
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        g,
    )
    return y


class _DeformConv2d(torch.autograd.Function):
    """Deformable convolution. Offset and mask are float32 at least; other operands have the products' dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, g: Geometry
    ) -> Tensor:
        outputs = weight.shape[0]
        inner, grid = InnerAxis.for_operands(x, outputs, g), regular_grid(g, offset)
        kernel = inner.weight_to_kernel(weight)
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry, ctx.inner = g, inner
        bias_rows = (weight.new_zeros(outputs) if bias is None else bias).view(g.groups, 1, -1)
        y = torch.empty((x.shape[0], outputs, *g.out), dtype=x.dtype, device=x.device, memory_format=memory_format(x))
        with without_autocast(x):
            for images in _slices(x, g):
                bags = SampleBags.from_offsets(offset[images], None if mask is None else mask[images], grid, g)
                columns = inner.samples_to_columns(bags.samples(inner.pixels_to_rows(x[images])).to(x.dtype))[
                    ..., : kernel.shape[2]
                ]
                y_images = y[images]
                if y_images.shape[0] == 1 and y_images.is_contiguous():
                    torch.baddbmm(bias_rows.mT, kernel, columns.mT, out=y_images.view(g.groups, -1, g.positions))
                elif inner.in_kernel_order:
                    product = torch.baddbmm(bias_rows.mT, kernel, columns.mT)
                    y_images.copy_(product.view(outputs, -1, *g.out).transpose(0, 1))
                else:
                    product = torch.baddbmm(bias_rows, columns, kernel.mT).transpose(0, 1)
                    y_images.copy_(product.reshape(-1, *g.out, outputs).permute(0, 3, 1, 2))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        g: Geometry = ctx.geometry
        needs_x, needs_offset, needs_mask, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        if needs_composite_backward():  # the backward pass of ``embedding_bag`` is not differentiable
            return *_definition_gradients(grad, x, offset, mask, weight, g), grad_bias, None
        inner: InnerAxis = ctx.inner
        kernel = inner.weight_to_kernel(weight)
        grid = regular_grid(g, offset)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format) if needs_offset else None
        grad_mask = torch.empty_like(mask, memory_format=torch.contiguous_format) if needs_mask else None
        # Summed over the slices in float32 at least, because sums of many bfloat16 slices lose digits.
        grad_kernel: Tensor | None = None
        with without_autocast(x):
            for images in _slices(x, g):
                bags = SampleBags.from_offsets(offset[images], None if mask is None else mask[images], grid, g)
                rows = inner.pixels_to_rows(x[images])
                grad_y = grad[images].permute(0, 2, 3, 1).reshape(-1, *kernel.shape[:2]).transpose(0, 1)
                if needs_x or needs_offset or needs_mask:
                    product = torch.bmm(kernel.mT, grad_y.mT).mT if inner.in_kernel_order else torch.bmm(grad_y, kernel)
                    grad_samples = inner.columns_to_samples(product.to(offset.dtype))
                if needs_offset or needs_mask:
                    samples, products = bags.samples_and_products(rows, grad_samples)
                    d_y, d_x, d_mask = bags.offset_gradients(products)
                    if grad_offset is not None:
                        offset_view = grad_offset[images].view(-1, g.offset_groups, g.taps, 2, g.positions)
                        offset_view[:, :, :, 0] = d_y.permute(0, 2, 3, 1)
                        offset_view[:, :, :, 1] = d_x.permute(0, 2, 3, 1)
                    if grad_mask is not None:
                        mask_view = grad_mask[images].view(-1, g.offset_groups, g.taps, g.positions)
                        mask_view[:] = d_mask.permute(0, 2, 3, 1)
                elif needs_weight:
                    samples = bags.samples(rows)
                if needs_weight:
                    columns = inner.samples_to_columns(samples.to(x.dtype))
                    if grad_kernel is None:
                        grad_kernel = torch.bmm(grad_y.mT, columns).to(offset.dtype)
                    elif grad_kernel.dtype == columns.dtype:
                        grad_kernel.baddbmm_(grad_y.mT, columns)
                    else:
                        grad_kernel += torch.bmm(grad_y.mT, columns)
                if grad_x is not None:
                    grad_x[images] = inner.rows_to_map(bags.row_gradient(grad_samples, rows.shape[0]))
        grad_weight = None
        if needs_weight:
            if grad_kernel is None:  # the batch is empty
                grad_kernel = torch.zeros_like(kernel)
            grad_weight = inner.kernel_to_weight(grad_kernel, weight.shape).to(x.dtype)
        return grad_x, grad_offset, grad_mask, grad_weight, grad_bias, None


def _definition_gradients(
    grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, g: Geometry
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, offset, mask and weight by the definition, in the dtype of ``offset``."""

    def definition(x: Tensor, offset: Tensor, weight: Tensor, *mask: Tensor) -> Tensor:
        operands = x.to(offset.dtype), offset, weight.to(offset.dtype)
        return deform_conv2d_definition(*operands, None, g.stride, g.padding, g.dilation, *mask).to(x.dtype)

    with without_autocast(x):
        vjp = torch.func.vjp(definition, x, offset, weight, *(() if mask is None else (mask,)))[1]
        grad_x, grad_offset, grad_weight, *grad_mask = vjp(grad)
    return grad_x, grad_offset, grad_mask[0] if grad_mask else None, grad_weight


def _slices(x: Tensor, g: Geometry) -> Iterator[slice]:
    step = max(1, _SLICE_PIXELS.get(x.device.type, _SLICE_PIXELS_ELSEWHERE) // g.positions)
    return (slice(start, start + step) for start in range(0, x.shape[0], step))
