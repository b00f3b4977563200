"""Reference implementation of deformable convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.ops.autocast import operand_dtype
from saccade.ops.deform.geometry import Geometry, macs
from saccade.ops.macs import with_macs

__all__ = ["deform_conv2d_definition"]


@with_macs(macs)
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
    """Reference implementation of ``deform_conv2d``, for input (B, C, H, W)."""
    g = Geometry.from_operands(input, offset, weight, bias, stride, padding, dilation, mask)
    (height, width), device = g.size, input.device
    batch, group_channels = input.shape[0], input.shape[1] // g.offset_groups
    dtype = operand_dtype(input)
    compute_dtype = torch.promote_types(dtype, torch.float32)

    # q = p·s − p₀ + k·d + Δ_k(p), each (B, D, K, Ho, Wo). Samples two or more pixels outside are zero.
    p_y, p_x = torch.arange(g.out[0], device=device)[:, None], torch.arange(g.out[1], device=device)
    k = torch.arange(g.taps, device=device)[:, None, None]
    k_y, k_x = k // g.kernel[1], k % g.kernel[1]
    delta = offset.to(compute_dtype).reshape(batch, g.offset_groups, g.taps, 2, *g.out)
    q_y = p_y * g.stride[0] - g.padding[0] + k_y * g.dilation[0] + delta[:, :, :, 0]
    q_x = p_x * g.stride[1] - g.padding[1] + k_x * g.dilation[1] + delta[:, :, :, 1]
    q_y, q_x = q_y.clamp(-2, height), q_x.clamp(-2, width)

    # x(q): the four pixels r around q. The weight 1 − |q − r| is computed from the fraction f of q, which gives the
    # right-hand derivative at integers.
    floor_y, floor_x = q_y.detach().floor(), q_x.detach().floor()
    f_y, f_x = q_y - floor_y, q_x - floor_x
    pixels = input.to(compute_dtype).reshape(batch, g.offset_groups, group_channels, height * width)
    samples = pixels.new_zeros(())
    for dy, weight_y in ((0, 1 - f_y), (1, f_y)):
        for dx, weight_x in ((0, 1 - f_x), (1, f_x)):
            r_y, r_x = floor_y.long() + dy, floor_x.long() + dx
            inside = (r_y >= 0) & (r_y < height) & (r_x >= 0) & (r_x < width)
            r = r_y.clamp(0, height - 1) * width + r_x.clamp(0, width - 1)
            value = pixels.gather(3, r.flatten(2)[:, :, None].expand(-1, -1, group_channels, -1))
            value = value.reshape(batch, g.offset_groups, group_channels, g.taps, *g.out).where(inside[:, :, None], 0)
            samples = samples + value * (weight_y * weight_x)[:, :, None]
    if mask is not None:
        samples = samples * mask.to(compute_dtype).reshape(batch, g.offset_groups, 1, g.taps, *g.out)

    # y = Σ_k w_k · samples_k + b in each group of the convolution, with the group's channels and taps in one axis.
    columns = samples.to(dtype).reshape(batch, g.groups, input.shape[1] // g.groups * g.taps, g.positions)
    kernel = weight.to(dtype).reshape(g.groups, weight.shape[0] // g.groups, -1)
    y = (kernel @ columns).reshape(batch, weight.shape[0], *g.out)
    return y if bias is None else y + bias.to(dtype)[:, None, None]
