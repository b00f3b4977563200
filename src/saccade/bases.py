"""The shapes mechanisms have: a gate multiplies the map, a context is added to it, a convolution keeps its kernel.

They are abstract classes with one method left open and a final ``forward``. What the open method of a gate or a
context returns passes through ``tap``, an ``nn.Identity``: whoever wants to see gates hooks that module, and nothing
is kept between calls.
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
    """The neutral start of a mechanism, f + (a·(changed − f)), in the dtype of f.

    With a = 0 it is f, bit for bit wherever ``changed`` − f is finite, and not a number elsewhere; with a = 1 it is
    ``changed``.
    """
    return f + (a * (changed - f)).to(f.dtype)


def as_laid_out(f: Tensor, y: Tensor) -> Tensor:
    """Return y with the strides of f, a map without gaps: by its strides a convolution chooses how it sums.

    In a batch of one, sums drop strides that no element tells, such as those of tokens turned back into a map.
    """
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
    """Batch norm that one value a channel does not stop.

    One image whose map is 1×1 has no variance: PyTorch raises there in training. Here the running statistics
    normalise it, and stay as they are.
    """

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

    Its parameters ``weight`` (O, C/groups, k, k) and ``bias`` (O,) or None are those of an ``nn.Conv2d`` of the same
    arguments. Where it replaces one in a host, that one's own are passed instead and stay the host's.

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
    """The options with which it is, at its own initialisation, the plain convolution with its kernel."""

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
        """A convolution (B, C, H, W) -> (B, outputs, Ho, Wo) that sees what this one sees, started at zero."""
        return zeroed(nn.Conv2d(self.channels, outputs, self.kernel_size, self.stride, self.padding, self.dilation))

    @abstractmethod
    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map (B, O, Ho, Wo) for x (B, C, H, W), of the size a plain convolution gives it."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, Ho, Wo), in the dtype of x."""
        return self.convolve(x, self.weight, self.bias).to(x.dtype)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, whose result is zero until it has learnt."""
    for start in layer.parameters():
        nn.init.zeros_(start)
    return layer


def reduced(channels: int, ratio: float, name: str = "rd_ratio") -> int:
    """How many channels are left of so many, rounded down.

    Raises:
        ValueError: not one channel is left; the message calls the ratio ``name``.
    """
    left = int(channels * ratio)
    if left < 1:
        raise ValueError(f"channels * {name} must be at least 1, got {channels} * {ratio}")
    return left
