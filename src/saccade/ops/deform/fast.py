"""Deformable convolution as weighted sums of rows and one matrix product.

With the pixels as rows, (B·H·W, C), a sample is a weighted sum of four rows: an *embedding bag*, for which PyTorch
has a fused kernel. The convolution is then the product of the (N, K·C) samples of an image, N output pixels and K
taps, with the kernel. Backward, the products <g, row> of a sample's gradient g with its four rows give the gradients
of its offset and its mask, and the gradient of the map is again a bag (see ``bags``).

Both passes walk over the batch in slices small enough for the cache. The samples are computed again in the backward
pass: that costs 2 % of the time and saves K times the memory of the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from saccade.ops.autocast import operand_dtype, without_autocast
from saccade.ops.counted import counted
from saccade.ops.deform.bags import Bags, regular_grid
from saccade.ops.deform.definition import deform_conv2d_definition
from saccade.ops.deform.geometry import Geometry, macs
from saccade.ops.deform.layout import Layout
from saccade.ops.eager import is_captured, is_composed, is_transformed
from saccade.ops.memory_format import memory_format

__all__ = ["deform_conv2d"]

_SLICE = {"cpu": 4096}
"""Output pixels of a slice; a single image may have more. On the CPU the slice's samples should stay in the cache."""

_SLICE_ELSEWHERE = 1 << 17
"""On other devices: enough to fill them, and a bound on the memory of the samples."""


@counted(macs)
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
        mask: (B, D·kh·kw, Ho, Wo), a factor for each sample, or None for ones (DCN v1). No sigmoid is applied.

    Returns:
        (B, O, Ho, Wo), channels last where the input is. Positions and interpolation are computed in float32 at
        least, the products in the dtype of the operands, as in ``F.conv2d``; under autocast, as there, operands may
        have any dtype and the result has that of autocast.

    Compiled, traced or exported (``torch.compile``, ``torch.export``, ONNX), in ``torch.func`` and in forward mode the
    call is ``deform_conv2d_definition``, plain gathers that those tools can fuse, translate and transform. Gradients
    that are to be differentiated again (``create_graph=True``) are the definition's too.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    if is_captured() or is_transformed():
        return deform_conv2d_definition(input, offset, weight, bias, stride, padding, dilation, mask)
    g = Geometry.of(input, offset, weight, bias, stride, padding, dilation, mask)
    operand = operand_dtype(input)
    precise = torch.promote_types(operand, torch.float32)
    y: Tensor = _DeformConv2d.apply(
        input.to(operand),
        offset.to(precise),
        None if mask is None else mask.to(precise),
        weight.to(operand),
        None if bias is None else bias.to(operand),
        g,
    )
    return y


class _DeformConv2d(torch.autograd.Function):
    """The fast form; offset and mask have the dtype of positions, the other operands that of the products."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, g: Geometry
    ) -> Tensor:
        outputs = weight.shape[0]
        layout, grid = Layout.of(x, outputs, g), regular_grid(g, offset)
        kernel = layout.kernel(weight)
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry, ctx.layout = g, layout
        shift = (weight.new_zeros(outputs) if bias is None else bias).view(g.groups, 1, -1)
        y = torch.empty((x.shape[0], outputs, *g.out), dtype=x.dtype, device=x.device, memory_format=memory_format(x))
        with without_autocast(x):
            for images in _slices(x, g):
                bags = Bags.of(offset[images], None if mask is None else mask[images], grid, g)
                columns = layout.columns(bags.sum(layout.rows(x[images])).to(x.dtype))[..., : kernel.shape[2]]
                part = y[images]
                if part.shape[0] == 1 and part.is_contiguous():
                    torch.baddbmm(shift.mT, kernel, columns.mT, out=part.view(g.groups, -1, g.positions))
                elif layout.as_kernel:
                    product = torch.baddbmm(shift.mT, kernel, columns.mT)
                    part.copy_(product.view(outputs, -1, *g.out).transpose(0, 1))
                else:
                    product = torch.baddbmm(shift, columns, kernel.mT).transpose(0, 1)
                    part.copy_(product.reshape(-1, *g.out, outputs).permute(0, 3, 1, 2))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        g: Geometry = ctx.geometry
        need_x, need_offset, need_mask, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if need_bias else None
        if is_composed():  # the bags' own gradients could not be differentiated
            return *_pulled_back(grad, x, offset, mask, weight, g), grad_bias, None
        layout: Layout = ctx.layout
        kernel = layout.kernel(weight)
        grid = regular_grid(g, offset)
        grad_x = torch.empty_like(x) if need_x else None
        grad_offset = torch.empty_like(offset, memory_format=torch.contiguous_format) if need_offset else None
        grad_mask = torch.empty_like(mask, memory_format=torch.contiguous_format) if need_mask else None
        # Summed over the slices in the dtype of positions: many slices of bfloat16 would lose digits.
        grad_kernel: Tensor | None = None
        with without_autocast(x):
            for images in _slices(x, g):
                bags = Bags.of(offset[images], None if mask is None else mask[images], grid, g)
                rows = layout.rows(x[images])
                grad_y = grad[images].permute(0, 2, 3, 1).reshape(-1, *kernel.shape[:2]).transpose(0, 1)
                if need_x or need_offset or need_mask:
                    product = torch.bmm(kernel.mT, grad_y.mT).mT if layout.as_kernel else torch.bmm(grad_y, kernel)
                    grad_samples = layout.samples(product.to(offset.dtype))
                if need_offset or need_mask:
                    samples, products = bags.sum_and_products(rows, grad_samples)
                    d_y, d_x, d_mask = bags.gradients(products)
                    if grad_offset is not None:
                        part = grad_offset[images].view(-1, g.offset_groups, g.taps, 2, g.positions)
                        part[:, :, :, 0] = d_y.permute(0, 2, 3, 1)
                        part[:, :, :, 1] = d_x.permute(0, 2, 3, 1)
                    if grad_mask is not None:
                        part = grad_mask[images].view(-1, g.offset_groups, g.taps, g.positions)
                        part[:] = d_mask.permute(0, 2, 3, 1)
                elif need_weight:
                    samples = bags.sum(rows)
                if need_weight:
                    columns = layout.columns(samples.to(x.dtype))
                    if grad_kernel is None:
                        grad_kernel = torch.bmm(grad_y.mT, columns).to(offset.dtype)
                    elif grad_kernel.dtype == columns.dtype:
                        grad_kernel.baddbmm_(grad_y.mT, columns)
                    else:
                        grad_kernel += torch.bmm(grad_y.mT, columns)
                if grad_x is not None:
                    grad_x[images] = layout.map(bags.gather_gradient(grad_samples, rows.shape[0]))
        grad_weight = None
        if need_weight:
            if grad_kernel is None:  # an empty batch
                grad_kernel = torch.zeros_like(kernel)
            grad_weight = layout.weight(grad_kernel, weight.shape).to(x.dtype)
        return grad_x, grad_offset, grad_mask, grad_weight, grad_bias, None


def _pulled_back(
    grad: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, g: Geometry
) -> tuple[Tensor | None, ...]:
    """The gradients of x, offset, mask and weight by the definition, in the dtype of positions throughout."""

    def define(x: Tensor, offset: Tensor, weight: Tensor, *mask: Tensor) -> Tensor:
        operands = x.to(offset.dtype), offset, weight.to(offset.dtype)
        return deform_conv2d_definition(*operands, None, g.stride, g.padding, g.dilation, *mask).to(x.dtype)

    with without_autocast(x):
        pull = torch.func.vjp(define, x, offset, weight, *(() if mask is None else (mask,)))[1]
        grad_x, grad_offset, grad_weight, *grad_mask = pull(grad)
    return grad_x, grad_offset, grad_mask[0] if grad_mask else None, grad_weight


def _slices(x: Tensor, g: Geometry) -> Iterator[slice]:
    """The batch of x in slices of whole images."""
    step = max(1, _SLICE.get(x.device.type, _SLICE_ELSEWHERE) // g.positions)
    return (slice(start, start + step) for start in range(0, x.shape[0], step))
