"""Base classes of mechanisms: Gate multiplies the feature map, Context adds to it, Convolution replaces an nn.Conv2d.

Each has one abstract method and a final ``forward``. Forward hooks can read gate or context at ``tap``, an
``nn.Identity``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.eager import is_captured, is_transformed
from saccade.ops.self_gating import gated_by

__all__ = [
    "BatchNorm2d", "Context", "Convolution", "Gate", "TokenTap", "blend", "check_choice", "match_strides",
    "reduced_channels", "zero_parameters",
]  # fmt: skip


def blend(x: Tensor, changed: Tensor, weight: Tensor) -> Tensor:
    """Return x + weight·(changed − x), in the dtype and shape of x.

    Weight 0 gives x bit for bit where ``changed`` − x is finite, else NaN.
    """
    return x + (weight * (changed - x)).to(x.dtype)


def match_strides(x: Tensor, y: Tensor) -> Tensor:
    """Return a copy of y (B, C, H, W) with the strides of x, by which convolutions choose their algorithm.

    Return y itself if the strides are equal, the shapes differ, x is not dense, or the call is traced.
    """
    if not isinstance(x, Tensor) or is_captured() or is_transformed() or y.shape != x.shape:
        return y
    if y.stride() == x.stride() or not _is_dense(x):
        return y
    return torch.empty_strided(x.shape, x.stride(), dtype=y.dtype, device=y.device).copy_(y)


def _is_dense(x: Tensor) -> bool:
    """Return True if x is dense and non-overlapping in memory."""
    expected_stride = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected_stride:
                return False
            expected_stride *= size
    return True


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses the running statistics where PyTorch raises: in training, with one value per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x (B, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class Gate(nn.Module, ABC):
    """Base of mechanisms y = x · gate(x), for feature maps (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = nn.Identity()

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of x (B, C, H, W), broadcastable to x."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, C, H, W), in the dtype of x."""
        return gated_by(x, self._tapped_gate)

    def _tapped_gate(self, x: Tensor) -> Tensor:
        values: Tensor = self.tap(self.gate(x))
        return values.to(x.dtype)


class Context(nn.Module, ABC):
    """Base of mechanisms y = x + context(x), for feature maps (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = nn.Identity()

    @abstractmethod
    def context(self, x: Tensor) -> Tensor:
        """Return the context of x (B, C, H, W), broadcastable to x."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, C, H, W), in the dtype of x."""
        values: Tensor = self.tap(self.context(x))
        return x + values.to(x.dtype)


class TokenTap(nn.Identity):
    """The ``tap`` of a module that averages pixels: it returns token maps (B, L, H, W), each summing to 1 over H·W."""


class Convolution(nn.Module, ABC):
    """Base of mechanisms that replace an ``nn.Conv2d``, with its ``weight`` (O, C/groups, k, k) and ``bias`` (O,).

    Args:
        channels: number of input channels C.
        out_channels: number of output channels O; None means C.
        kernel_size: side k of the kernel.
        stride: stride of the convolution.
        padding: zero padding; None means dilation·(k − 1)/2, which keeps the size at stride 1.
        dilation: spacing of kernel elements.
        groups: number of channel groups.
        bias: True adds a bias of 0.

    Raises:
        ValueError: a number is too small, ``groups`` does not divide the channels, or no padding keeps the size.
    """

    neutral_options: ClassVar[Mapping[str, Any]] = {}
    """Options with which the module equals the plain convolution at initialisation."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None,
        kernel_size: int,
        stride: int,
        padding: int | None,
        dilation: int,
        groups: int,
        bias: bool,
    ) -> None:
        super().__init__()
        outputs = channels if out_channels is None else out_channels
        smallest = min(channels, outputs, kernel_size, stride, dilation, groups)
        if smallest < 1:
            raise ValueError(
                f"channels, out_channels, kernel_size, stride, dilation and groups must be at least 1, got {smallest}"
            )
        if channels % groups or outputs % groups:
            raise ValueError(f"groups must divide the channels, got {groups} for {channels} in and {outputs} out")
        if padding is None:
            if dilation * (kernel_size - 1) % 2:
                raise ValueError(
                    "dilation * (kernel_size - 1) must be even if padding is None, which keeps the size; got "
                    f"{dilation} * ({kernel_size} - 1)"
                )
            padding = dilation * (kernel_size - 1) // 2
        if padding < 0:
            raise ValueError(f"padding must be at least 0, got {padding}")
        self.channels, self.out_channels, self.kernel_size = channels, outputs, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = nn.Parameter(torch.empty(outputs, channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

    def make_offset_conv(self, outputs: int) -> nn.Conv2d:
        """Return a zero-initialised nn.Conv2d (B, C, H, W) -> (B, outputs, Ho, Wo) of the same geometry."""
        return zero_parameters(
            nn.Conv2d(self.channels, outputs, self.kernel_size, self.stride, self.padding, self.dilation)
        )

    @abstractmethod
    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output (B, O, Ho, Wo) for x (B, C, H, W)."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, O, Ho, Wo), in the dtype of x."""
        return self.convolve(x, self.weight, self.bias).to(x.dtype)


def zero_parameters(layer: nn.Conv2d) -> nn.Conv2d:
    """Return ``layer`` with all parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def reduced_channels(channels: int, ratio: float, ratio_name: str = "rd_ratio") -> int:
    """Return ``channels`` · ``ratio``, rounded down.

    Raises:
        ValueError: the result is below 1.
    """
    hidden = int(channels * ratio)
    if hidden < 1:
        raise ValueError(f"channels * {ratio_name} must be at least 1, got {channels} * {ratio}")
    return hidden


def check_choice(option: str, value: str, *choices: str) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{option} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, got {value!r}")
