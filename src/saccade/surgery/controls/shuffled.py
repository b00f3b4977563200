r"""The control ``shuffled``: the mechanism, looking at another image.

    y_i = x_i ⊙ g(x_{i+1})           of a gate g
    y_i = x_i + c(x_{i+1})           of a context c          i + 1 is the next image of the batch; the first follows the
                                                             last

Parameters, cost, range and statistics are those of the mechanism; only what it sees is wrong. If a mechanism helps no
more than this, it does not matter what it sees.

Training and evaluation do the same, so that what is scored is what was learnt: the output for an image depends on its
neighbour in the batch, and a score on the order of the images. A run therefore tests it on the images in one order
drawn at random, the same for all seeds: folders lie sorted by class, and a neighbour of the same class would tell
something. In a batch of one there is no other image, and the mechanism sees its own. That is one image of a test set
at most, where the last batch holds one.
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

    What passes its ``tap`` is moved up by one image; all else is the mechanism's own forward.

    Args:
        channels: C of the map (B, C, H, W).
        mechanism: the gate or context, which is changed, or the name it has in the catalogue.
        options: of the mechanism, where it is a name.

    Raises:
        ValueError: the mechanism is neither gate nor context.
        UserError: there is no such mechanism, or it cannot be made with these options at this channel count.
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
        """What shows the gate or context that was applied."""
        return self.mechanism.tap

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        y: Tensor = self.mechanism(x)
        return y


def unshuffled(mechanism: nn.Module) -> nn.Module:
    """The gate or context that works in a ``Shuffled``; any other mechanism itself."""
    return mechanism.mechanism if isinstance(mechanism, Shuffled) else mechanism


class _NextImage(nn.Identity):
    """The gates or contexts (B, C | 1, H | 1, W | 1), each that of the next image; the last one's is the first's."""

    def forward(self, input: Tensor) -> Tensor:
        return input.roll(-1, 0)
