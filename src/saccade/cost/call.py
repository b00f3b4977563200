"""A network and what one forward of it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.graph.hosts import check_network
from saccade.graph.inputs import example_input

__all__ = ["ForwardCall"]


@dataclass(frozen=True)
class ForwardCall:
    """A network and what one forward of it takes."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, input: Any, batch: int) -> ForwardCall:
        """Return the forward that ``input`` describes, as for :func:`saccade.measure`."""
        check_network(model, "the model")
        if isinstance(input, Mapping):
            return cls(model, (), dict(input))
        return cls(model, example_input(model, input, batch=batch), {})

    @property
    def is_picture(self) -> bool:
        """Whether the input is one batch (B, C, H, W)."""
        return len(self.args) == 1 and isinstance(self.args[0], Tensor) and self.args[0].dim() == 4

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def first(self) -> ForwardCall:
        """Return the call on the first picture alone, if it is on pictures."""
        return ForwardCall(self.model, (self.args[0][:1],), {}) if self.is_picture else self

    @property
    def shapes(self) -> str:
        """The input in words, such as ``2×3×224×224``."""
        given = [*self.args, *self.kwargs.values()]
        return ", ".join("×".join(map(str, g.shape)) if isinstance(g, Tensor) else type(g).__name__ for g in given)

    def run(self) -> Any:
        """Run the forward."""
        return self.model(*self.args, **self.kwargs)

    def try_out(self) -> Any:
        """Run the forward.

        Raises:
            UserError: it failed.
        """
        try:
            return self.run()
        except Exception as error:
            raise UserError(
                f"{type(self.model).__name__} does not run on the input {self.shapes}: "
                f"{type(error).__name__}: {error}. "
                "Say what it takes by input=: a size (C, H, W), a tensor, or a tuple or dict of its arguments."
            ) from error
