"""Forward passes to measure."""

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
    """A network and the arguments of one forward pass."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def build(cls, model: nn.Module, input: Any, batch: int) -> ForwardCall:
        """Return the call for ``input``: a size (C, H, W), a tensor, a tuple or dict of arguments, or None."""
        check_network(model, "the model")
        if isinstance(input, Mapping):
            return cls(model, (), dict(input))
        return cls(model, example_input(model, input, batch=batch), {})

    @property
    def is_image_batch(self) -> bool:
        """True if the only argument is one batch (B, C, H, W)."""
        return len(self.args) == 1 and isinstance(self.args[0], Tensor) and self.args[0].dim() == 4

    @property
    def device(self) -> torch.device:
        """Device of the first parameter; the CPU if the model has no parameters."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def first_image(self) -> ForwardCall:
        """Return the call on the first image; unchanged unless the input is one image batch."""
        return ForwardCall(self.model, (self.args[0][:1],), {}) if self.is_image_batch else self

    @property
    def input_text(self) -> str:
        """Text of the input's shapes, such as ``2×3×224×224``."""
        arguments = [*self.args, *self.kwargs.values()]
        return ", ".join(
            "×".join(map(str, argument.shape)) if isinstance(argument, Tensor) else type(argument).__name__
            for argument in arguments
        )

    def run(self) -> Any:
        """Run the forward pass."""
        return self.model(*self.args, **self.kwargs)

    def run_checked(self) -> Any:
        """Run the forward pass.

        Raises:
            UserError: the network fails on the input.
        """
        try:
            return self.run()
        except Exception as error:
            raise UserError(
                f"{type(self.model).__name__} does not run on the input {self.input_text}: "
                f"{type(error).__name__}: {error}. "
                "Pass input=: a size (C, H, W), a tensor, or a tuple or dict of the network's arguments."
            ) from error
