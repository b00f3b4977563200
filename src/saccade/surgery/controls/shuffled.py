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
from saccade.form import Context, Gate

__all__ = ["ShuffledContext", "ShuffledGate"]


class ShuffledGate(Gate):
    """A gate that multiplies the image before the one it was computed from.

    Args:
        channels: C of the map (B, C, H, W).
        mechanism: the gate, or the name it has in the catalogue.
        options: of the mechanism, where it is a name.

    Raises:
        ValueError: the mechanism is no gate.
        UserError: there is no such mechanism, or it cannot be made with these options at this channel count.
    """

    def __init__(self, channels: int, mechanism: str | nn.Module, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        made = _made(channels, mechanism, options)
        if not isinstance(made, Gate):
            raise ValueError(f"{type(made).__name__} is no Gate")
        self.mechanism = made

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C | 1, H | 1, W | 1), the gates of x moved up by one image."""
        return self.mechanism.gate(x).roll(-1, 0)


class ShuffledContext(Context):
    """A context that is added to the image before the one it was computed from.

    Args:
        channels: C of the map (B, C, H, W).
        mechanism: the context, or the name it has in the catalogue.
        options: of the mechanism, where it is a name.

    Raises:
        ValueError: the mechanism is no context.
        UserError: there is no such mechanism, or it cannot be made with these options at this channel count.
    """

    def __init__(self, channels: int, mechanism: str | nn.Module, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        made = _made(channels, mechanism, options)
        if not isinstance(made, Context):
            raise ValueError(f"{type(made).__name__} is no Context")
        self.mechanism = made

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C | 1, H | 1, W | 1), the contexts of x moved up by one image."""
        return self.mechanism.context(x).roll(-1, 0)


def _made(channels: int, mechanism: str | nn.Module, options: Mapping[str, Any] | None) -> nn.Module:
    return catalog.create(mechanism, channels, **(options or {})) if isinstance(mechanism, str) else mechanism
