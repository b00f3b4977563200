"""A module whose map is a parameter, so that a step of training without a network takes the map's gradient too."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Isolated"]


class Isolated(nn.Module):
    """A module behind a parameter that takes the map's place, so that the map takes a gradient."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.module, self.x = module, nn.Parameter(x)

    def forward(self, _: Tensor) -> Tensor:
        """The output for the map it holds."""
        y: Tensor = self.module(self.x)
        return y
