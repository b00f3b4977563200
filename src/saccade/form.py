"""The two shapes most mechanisms have: a gate multiplies the map, a context is added to it.

Both are abstract classes with one method left open and a final ``forward``. What the open method returns
passes through ``tap``, an ``nn.Identity``: whoever wants to see gates hooks that module, and nothing is
kept between calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BatchNorm2d", "Context", "Gate", "blended"]


def blended(f: Tensor, changed: Tensor, a: Tensor) -> Tensor:
    """The neutral start of a mechanism, f + (a·(changed − f)), in the dtype of f.

    With a = 0 it is f, bit for bit wherever ``changed`` − f is finite, and not a number elsewhere; with a = 1 it is
    ``changed``.
    """
    return f + (a * (changed - f)).to(f.dtype)


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
        gate: Tensor = self.tap(self.gate(x))
        return x * gate.to(x.dtype)


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
