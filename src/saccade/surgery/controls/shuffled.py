r"""The control ``shuffled``: the mechanism with the gate or context of another image.

    y_i = x_i ⊙ g(x_{i+1})           for a gate g
    y_i = x_i + c(x_{i+1})           for a context c

Image i + 1 is the next of the batch; the first follows the last. A mechanism that helps no more than this control does
not need each image's own gate.

Evaluation exchanges gates too, in one random order for all runs, because neighbours in sorted folders share a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saccade import catalog
from saccade.bases import Context, Gate

__all__ = ["Shuffled", "unshuffled"]


class Shuffled(nn.Module):
    """A mechanism whose gate or context for one image is applied to the previous image of the batch.

    Args:
        channels: C of the map (B, C, H, W).
        mechanism: gate or context, modified in place, or its catalogue name.
        options: options of a mechanism given by name.

    Raises:
        ValueError: ``mechanism`` is neither a gate nor a context.
    """

    def __init__(self, channels: int, mechanism: str | nn.Module, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        module = catalog.create(mechanism, channels, **(options or {})) if isinstance(mechanism, str) else mechanism
        if not isinstance(module, (Gate, Context)):
            raise ValueError(f"{type(module).__name__} is neither a Gate nor a Context")
        module.tap = _NextImage()
        self.mechanism = module

    @property
    def tap(self) -> nn.Module:
        """Return the module whose output is the gate or context that is applied."""
        return self.mechanism.tap

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        y: Tensor = self.mechanism(x)
        return y


def unshuffled(mechanism: nn.Module) -> nn.Module:
    """Return the gate or context inside a ``Shuffled``, or ``mechanism`` itself."""
    return mechanism.mechanism if isinstance(mechanism, Shuffled) else mechanism


class _NextImage(nn.Identity):
    """Replaces each gate or context (B, C | 1, H | 1, W | 1) by that of the next image."""

    def forward(self, input: Tensor) -> Tensor:
        return input.roll(-1, 0)
