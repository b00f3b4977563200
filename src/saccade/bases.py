"""Base classes of mechanisms: a gate multiplies the map, a context is added to it, a convolution keeps its kernel.

Each has one abstract method and a final ``forward``. The result of a gate's or context's method passes through
``tap``, an ``nn.Identity`` to hook, so that no tensor is kept between calls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.branch import gated_by
from saccade.ops.eager import is_captured, is_transformed

__all__ = ["BatchNorm2d", "Context", "Convolution", "Gate", "as_laid_out", "blended", "reduced", "zeroed"]


def blended(f: Tensor, changed: Tensor, a: Tensor) -> Tensor:
    """Return f + (a·(changed − f)) in the dtype of f, the neutral start of a mechanism.

    With a = 0 that is f, bit for bit wherever ``changed`` − f is finite, else NaN; with a = 1 it is ``changed``.
    """
    return f + (a * (changed - f)).to(f.dtype)


def as_laid_out(f: Tensor, y: Tensor) -> Tensor:
    """Return y with the strides of f, a map without gaps, as convolutions choose their algorithm by strides."""
    if not isinstance(f, Tensor) or is_captured() or is_transformed() or y.shape != f.shape:
        return y
    if y.stride() == f.stride() or not _is_dense(f):
        return y
    return torch.empty_strided(f.shape, f.stride(), dtype=y.dtype, device=y.device).copy_(y)


def _is_dense(f: Tensor) -> bool:
    """Return whether the elements of f fill their memory without gaps and without sharing."""
    step = 1
    for stride, size in sorted(zip(f.stride(), f.shape, strict=True)):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that takes one 1×1 map in training, where PyTorch raises: running statistics normalise it."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class Gate(nn.Module, ABC):
    """y = x · gate(x); the gate broadcasts against (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = nn.Identity()

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """The multiplicative map for x (B, C, H, W): (B, C | 1, H | 1, W | 1)."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        return gated_by(x, self._gate)

    def _gate(self, x: Tensor) -> Tensor:
        gate: Tensor = self.tap(self.gate(x))
        return gate.to(x.dtype)


class Context(nn.Module, ABC):
    """y = x + context(x); the context broadcasts against (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = nn.Identity()

    @abstractmethod
    def context(self, x: Tensor) -> Tensor:
        """The additive map for x (B, C, H, W): (B, C | 1, H | 1, W | 1)."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        context: Tensor = self.tap(self.context(x))
        return x + context.to(x.dtype)


class Convolution(nn.Module, ABC):
    """y = convolve(x, weight, bias): a convolution that attends, with the kernel of an ordinary one.

    ``weight`` (O, C/groups, k, k) and ``bias`` (O,) or None are those of an ``nn.Conv2d`` of the same arguments, and
    the host's own where it replaces one.

    Args:
        channels: C of the map (B, C, H, W).
        out_channels: O; None is C.
        kernel_size: k.
        stride: of the output pixels.
        padding: of zeros around the map; None is dilation·(k − 1)/2, which keeps the size at stride 1.
        dilation: of the taps.
        groups: of channels.
        bias: whether there is one; it starts at zero.

    Raises:
        ValueError: a number is too small, ``groups`` does not divide the channels, or there is no padding that keeps
            the size.
    """

    neutral_options: ClassVar[Mapping[str, Any]] = {}
    """The options with which it starts as the plain convolution with its kernel."""

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
        least = min(channels, outputs, kernel_size, stride, dilation, groups)
        if least < 1:
            raise ValueError(
                f"channels, out_channels, kernel_size, stride, dilation and groups must be at least 1, got {least}"
            )
        if channels % groups or outputs % groups:
            raise ValueError(f"groups must divide the channels, got {groups} for {channels} in and {outputs} out")
        if padding is None:
            if dilation * (kernel_size - 1) % 2:
                raise ValueError(
                    "dilation * (kernel_size - 1) must be even without padding, which then keeps the size, got "
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

    def beside(self, outputs: int) -> nn.Conv2d:
        """Make a convolution (B, C, H, W) -> (B, outputs, Ho, Wo) of the same geometry, zero at the start."""
        return zeroed(nn.Conv2d(self.channels, outputs, self.kernel_size, self.stride, self.padding, self.dilation))

    @abstractmethod
    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map (B, O, Ho, Wo) for x (B, C, H, W), of the size a plain convolution gives it."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, Ho, Wo), in the dtype of x."""
        return self.convolve(x, self.weight, self.bias).to(x.dtype)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return ``layer`` with all parameters set to zero."""
    for start in layer.parameters():
        nn.init.zeros_(start)
    return layer


def reduced(channels: int, ratio: float, name: str = "rd_ratio") -> int:
    """Return ``channels`` · ``ratio``, rounded down.

    Raises:
        ValueError: it is below 1; the message calls the ratio ``name``.
    """
    left = int(channels * ratio)
    if left < 1:
        raise ValueError(f"channels * {name} must be at least 1, got {channels} * {ratio}")
    return left
