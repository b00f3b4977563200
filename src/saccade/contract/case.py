"""The module on trial: how it is built, what it is fed, and the two ways a trial ends early."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from saccade.facts import Spec

__all__ = ["SIZES", "BrokenPromiseError", "Case", "UnexaminedError"]

SIZES = ((7, 5), (1, 1), (4, 9), (8, 8))


class BrokenPromiseError(Exception):
    """The promise does not hold."""


class UnexaminedError(Exception):
    """The promise cannot be tried, because a fact is missing."""


@dataclass(frozen=True)
class Case:
    """What is tried: how to build it, what it states, at which size."""

    make: Callable[..., nn.Module]
    spec: Spec | None
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The options with their defaults and ``C``, as formulas of a SPEC use them."""
        try:
            arguments = list(inspect.signature(self.make).parameters.values())[1:]
        except (TypeError, ValueError):
            arguments = []
        defaults = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
        return {"C": self.channels, **defaults, **self.options}

    def built(self, channels: int | None = None, **options: Any) -> nn.Module:
        """A module with its own initialisation."""
        with torch.device("cpu"):  # whatever the global default device is
            return self.make(channels or self.channels, **{**self.options, **options})

    def drawn(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A module in eval mode with random parameters and running statistics."""
        torch.default_generator.manual_seed(seed)
        module = self.built()
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for p in module.parameters():
                fan_in = p[0].numel() if p.dim() > 1 else 4
                p.copy_(torch.randn(p.shape, generator=generator, device="cpu") / max(fan_in, 1) ** 0.5)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(torch.randn(buffer.shape, generator=generator, device="cpu") / 2)
                elif name.endswith("running_var"):
                    buffer.copy_(torch.rand(buffer.shape, generator=generator, device="cpu") + 0.5)
        return module.eval().to(dtype)

    def maps(self, *size: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random maps (batch, C, H, W)."""
        shape = (batch, self.channels, *(size or SIZES[0]))
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def stated(self, fact: str) -> Any:
        """A fact of the SPEC; without it the promise is not examined."""
        value = getattr(self.spec, fact) if self.spec is not None else None
        if value is None:
            raise UnexaminedError("there is no SPEC" if self.spec is None else f"SPEC states no {fact}")
        return value

    def names_of(self, *expressions: str) -> set[str]:
        """The names that formulas use, apart from the functions they call."""
        nodes = [node for e in expressions for node in ast.walk(ast.parse(e, mode="eval"))]
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        return {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}

    def needs_values(self, *expressions: str) -> None:
        """Without a value for each name of ``expressions`` the promise is not examined."""
        missing = sorted(self.names_of(*expressions) - set(self.values))
        if missing:
            raise UnexaminedError(f"SPEC uses {', '.join(missing)}, which is no option of {self.make!r}")
