r"""The control ``shuffled``: the mechanism, looking at another image.

    y_i = x_i ⊙ g(x_{i+1})           of a gate g; of a context c
    y_i = x_i + c(x_{i+1})           i + 1 is the next image of the batch, the first after the last

Parameters, cost, range and statistics are those of the mechanism; only what it sees is wrong. If a mechanism helps no
more than this, it does not matter what it sees.

Training and evaluation do the same, so a score depends on the order of the images: a run draws one order at random, the
same for all seeds, for neighbours in sorted folders share their class. In a batch of one, which ends a test set at
most, the mechanism sees its own image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saccade import catalog
from saccade.bases import Context, Gate

__all__ = ["Shuffled", "unshuffled"]


class Shuffled(nn.Module):
    """A gate or a context that works on the image before the one it was computed from.

    Args:
        channels: C of the map (B, C, H, W).
        mechanism: the gate or context, which is changed, or its name in the catalogue.
        options: of a mechanism given by name.

    Raises:
        ValueError: the mechanism is neither gate nor context.
        UserError: there is no such mechanism, or it cannot be made so.
    """

    def __init__(self, channels: int, mechanism: str | nn.Module, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        made = catalog.create(mechanism, channels, **(options or {})) if isinstance(mechanism, str) else mechanism
        if not isinstance(made, (Gate, Context)):
            raise ValueError(f"{type(made).__name__} is neither a Gate nor a Context")
        made.tap = _NextImage()
        self.mechanism = made

    @property
    def tap(self) -> nn.Module:
        """The module that shows the gate or context that was applied."""
        return self.mechanism.tap

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        y: Tensor = self.mechanism(x)
        return y


def unshuffled(mechanism: nn.Module) -> nn.Module:
    """Return the gate or context inside a ``Shuffled``; any other mechanism itself."""
    return mechanism.mechanism if isinstance(mechanism, Shuffled) else mechanism


class _NextImage(nn.Identity):
    """Replace each gate or context (B, C | 1, H | 1, W | 1) by that of the next image."""

    def forward(self, input: Tensor) -> Tensor:
        return input.roll(-1, 0)
