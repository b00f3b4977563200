r"""SK, selective kernel: two convolutions with different receptive fields, mixed by a gate per channel.

    U₁ = ReLU(BN(Conv_{k×k, G}(x)))                         (B, O, Ho, Wo)     near
    U₂ = ReLU(BN(Conv_{k×k, G, dilation 2}(x)))             (B, O, Ho, Wo)     far
    s = mean_{h,w}(U₁ + U₂)                                 (B, O)             eq. 1, 2
    z = ReLU(BN(W s))                                       (B, d), d = max(⌊O·rd_ratio⌋, 32)    eq. 3
    a₁, a₂ = softmax over the pair (A z, B z)               (B, O) each        eq. 5
    y = a₁ ⊙ U₁ + a₂ ⊙ U₂                                   (B, O, Ho, Wo)     eq. 6

The gate is a₁ = σ(A z − B z). These layers have no bias. ``variant="fair"`` is the first author's version for plain
ResNets. There U₁ keeps the groups of the replaced convolution; U₂ has 32 groups and no dilation; d is at least 1. In
the authors' blocks neither norm nor ReLU follows the mix; a host keeps those after the replaced convolution. Output and
gradients of ``fair`` equal those of PytorchInsight; the Caffe code of the default was not run.

Source: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586; for ``fair`` PytorchInsight, by the first
author.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, check_choice
from saccade.ops.gating import pooled_mean

__all__ = ["SelectiveKernel"]

SPEC = {
    "name": "sk",
    "title": "Selective kernel",
    "paper": {"authors": "Li, Wang, Hu, Yang", "title": "Selective Kernel Networks", "venue": "CVPR", "year": 2019,
              "arxiv": "1903.06586"},
    "kind": "conv",
    "evidence": "paper",
    "code": ["implus/PytorchInsight (variant='fair')"],
    "position": {"default": "conv3x3"},
    "limits": [
        "channels, out_channels, kernel_size, stride and dilation must be at least 1",
        "padding must be at least 0",
        "branch_groups must divide the channels",
        "groups must divide the channels",
        "groups must be 1 or branch_groups with variant='paper'",
        "dilation * (kernel_size - 1) must be even",
        "out_channels * rd_ratio must be at least 1",
    ],
    "gate": (0, 1),
    "published": [
        {"net": "resnext50_32x4d", "params": 27.5, "macs": 4.47, "top1": 79.21, "source": "SKNet README"},
        {"net": "resnet50", "params": 26.15, "macs": 4.185, "top1": 77.54, "source": "PytorchInsight README",
         "note": "variant fair"},
        {"net": "resnet101", "params": 45.68, "macs": 7.978, "top1": 78.79, "source": "PytorchInsight README",
         "note": "variant fair"},
    ],
    "timm": "sk",
}  # fmt: skip


def parameters(
    channels: int,
    out_channels: int | None,
    kernel_size: int,
    groups: int,
    bias: bool,
    variant: str,
    branch_groups: int,
    rd_ratio: float,
) -> int:
    n_outputs = channels if out_channels is None else out_channels
    near_channels = channels // (branch_groups if variant == "paper" else groups)
    far_channels = channels // branch_groups
    hidden = max(int(n_outputs * rd_ratio), 32 if variant == "paper" else 1)
    return n_outputs * ((near_channels + far_channels) * kernel_size**2 + 4 + bias) + hidden * (3 * n_outputs + 2)


class SelectiveKernel(nn.Module):
    """Mix of two convolutions, in place of one.

    The gate a₁ (B, O, 1, 1) passes through ``tap``.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: k.
        stride: stride of both branches.
        padding: zero padding of the first branch; None means dilation·(k − 1)/2.
        dilation: dilation of the first branch; that of the second is twice as large (the same in ``fair``).
        groups: groups of the replaced convolution; ``paper`` allows 1 or ``branch_groups``.
        bias: True adds a bias.
        variant: ``paper`` or ``fair``.
        branch_groups: G of both branches; in ``fair`` only of the second.
        rd_ratio: d/O.

    Raises:
        ValueError: a limit of SPEC is violated, or ``variant`` is unknown.
    """

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
        variant: Literal["paper", "fair"] = "paper",
        branch_groups: int = 32,
        rd_ratio: float = 1 / 16,
    ) -> None:
        super().__init__()
        n_outputs = channels if out_channels is None else out_channels
        check_choice("variant", variant, "paper", "fair")
        if min(channels, n_outputs, kernel_size, stride, dilation) < 1:
            raise ValueError(
                "channels, out_channels, kernel_size, stride and dilation must be at least 1, got "
                f"{channels}, {n_outputs}, {kernel_size}, {stride} and {dilation}"
            )
        if padding is not None and padding < 0:
            raise ValueError(f"padding must be at least 0, got {padding}")
        for name, n_groups in (("branch_groups", branch_groups), ("groups", groups)):
            if n_groups < 1 or channels % n_groups or n_outputs % n_groups:
                raise ValueError(
                    f"{name} must divide the channels, got {n_groups} for {channels} in and {n_outputs} out"
                )
        if variant == "paper" and groups not in (1, branch_groups):
            raise ValueError(
                f"groups must be 1 or branch_groups with variant='paper', got {groups} and {branch_groups}"
            )
        if dilation * (kernel_size - 1) % 2:
            raise ValueError(f"dilation * (kernel_size - 1) must be even, got {dilation} * ({kernel_size} - 1)")
        hidden = max(int(n_outputs * rd_ratio), 32 if variant == "paper" else 0)
        if hidden < 1:
            raise ValueError(f"out_channels * rd_ratio must be at least 1, got {n_outputs} * {rd_ratio}")
        same_padding = dilation * (kernel_size - 1) // 2
        near_padding = same_padding if padding is None else padding
        far_dilation_factor = 1 if variant == "fair" else 2

        def make_branch(groups: int, dilation_factor: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(
                    channels,
                    n_outputs,
                    kernel_size,
                    stride,
                    near_padding + (dilation_factor - 1) * same_padding,
                    dilation_factor * dilation,
                    groups,
                    bias=False,
                ),
                BatchNorm2d(n_outputs),
                nn.ReLU(inplace=True),
            )

        self.near = make_branch(groups if variant == "fair" else branch_groups, 1)
        self.far = make_branch(branch_groups, far_dilation_factor)
        self.squeeze = nn.Sequential(
            nn.Conv2d(n_outputs, hidden, 1, bias=False), BatchNorm2d(hidden), nn.ReLU(inplace=True)
        )
        self.select = nn.Conv2d(hidden, 2 * n_outputs, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        near, far = self.near(x), self.far(x)
        s = pooled_mean(near, keepdim=True) + pooled_mean(far, keepdim=True)
        near_logits, far_logits = self.select(self.squeeze(s)).chunk(2, 1)
        gate = self.tap((near_logits - far_logits).sigmoid())
        y = torch.lerp(far, near, gate.to(far.dtype)).to(x.dtype)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)
