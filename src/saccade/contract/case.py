"""The module on trial: how it is built, what it is fed, how what it does is measured, and how a trial ends early."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from saccade.specs import Spec

__all__ = [
    "CLOSE", "DRAWS", "SIZES", "BrokenPromiseError", "Case", "UnexaminedError", "distance", "expect", "gradients",
    "modes", "rewinding", "weighed",
]  # fmt: skip

SIZES = ((7, 5), (1, 1), (4, 9), (33, 17), (1, 6), (8, 8))
CLOSE = 1e-9
"""Two float64 results of the same function differ by less, relative to their largest value."""
DRAWS = 5
"""Random parameters may leave a ReLU off all over the map; what must only be possible is tried with this many draws."""


class BrokenPromiseError(Exception):
    """The promise does not hold."""


class UnexaminedError(Exception):
    """The promise cannot be tried, because a fact is missing."""


@dataclass(frozen=True)
class Case:
    """What is tried: how to build it, what it states, at which number of channels."""

    make: Callable[..., nn.Module]
    spec: Spec | None
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, Any]:
        """What formulas of a SPEC use: ``C``, the options with their defaults, and ``H``, ``W`` if it needs a size."""
        try:
            arguments = list(inspect.signature(self.make).parameters.values())[1:]
        except (TypeError, ValueError):
            arguments = []
        defaults = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
        values = {"C": self.channels, **defaults, **self.options}
        if self.spec is not None and "size" in self.spec.needs:
            values["H"], values["W"] = values.get("size") or SIZES[0]
        return values

    def choices(self, name: str) -> list[Any]:
        """The words that an option may be, by its annotation as a ``Literal``; [] where that says nothing."""
        made = self.make.__init__ if isinstance(self.make, type) else self.make  # type: ignore[misc]
        try:
            annotation = get_type_hints(made).get(name)
        except Exception:  # a stranger's annotation may be anything
            return []
        return list(get_args(annotation)) if get_origin(annotation) is Literal else []

    @property
    def only(self) -> tuple[int, int] | None:
        """The one size (H, W) it takes, its option ``size``, where SPEC says that it needs one; else None."""
        if self.spec is None or "size" not in self.spec.needs:
            return None
        height, width = self.values.get("size") or SIZES[0]
        return height, width

    def sizes(self, *wanted: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """``wanted``, or the one size it takes."""
        return wanted if self.only is None else (self.only,)

    def built(self, channels: int | None = None, **options: Any) -> nn.Module:
        """A module with its own initialisation."""
        given = {} if self.only is None else {"size": self.only}
        with torch.device("cpu"):  # whatever the global default device is
            try:
                made = self.make(channels or self.channels, **{**given, **self.options, **options})
            except TypeError as error:
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    raise  # from inside
                raise BrokenPromiseError(f"a mechanism is built as Class(channels, **options): {error}") from error
        if not isinstance(made, nn.Module):
            raise BrokenPromiseError(f"{type(made).__name__} is no torch.nn.Module")
        return made

    def drawn(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A module in eval mode with random parameters and running statistics."""
        torch.default_generator.manual_seed(seed)
        module = self.built()
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for p in module.parameters():
                fan_in = p.numel() / max(len(p), 1) if p.dim() > 1 else 4
                p.copy_(torch.randn(p.shape, generator=generator, device="cpu") / max(fan_in, 1) ** 0.5)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(torch.randn(buffer.shape, generator=generator, device="cpu") / 2)
                elif name.endswith("running_var"):
                    buffer.copy_(torch.rand(buffer.shape, generator=generator, device="cpu") + 0.5)
        return module.eval().to(dtype)

    def maps(self, *size: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random maps (batch, C, H, W)."""
        shape = (batch, self.channels, *(size or self.sizes(SIZES[0])[0]))
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def stated(self, fact: str) -> Any:
        """A fact of the SPEC; without it the promise is not examined."""
        value = getattr(self.spec, fact) if self.spec is not None else None
        if value is None:
            raise UnexaminedError("there is no SPEC" if self.spec is None else f"SPEC states no {fact}")
        return value

    def neutral(self) -> bool:
        """Whether SPEC says that it is the identity at its own start, built with these options."""
        stated = self.stated("neutral")
        if isinstance(stated, str):
            self.needs_values(stated)
        assert self.spec is not None
        return self.spec.is_neutral(self.values)

    def refusal(self, channels: int) -> str | None:
        """Why SPEC refuses ``channels``; None where it does not, or where its limits cannot be evaluated here."""
        if self.spec is None or not self.names_of(*self.spec.limits) <= set(self.values):
            return None
        return self.spec.refusal(channels, {**self.values, "C": channels})

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


def expect(holds: bool, otherwise: str) -> None:
    """Raise :class:`BrokenPromiseError` with the words ``otherwise`` unless it ``holds``."""
    if not holds:
        raise BrokenPromiseError(otherwise)


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value; infinite where shapes differ or a value is not finite."""
    if a.shape != b.shape:
        return float("inf")
    worst = ((a - b).abs().amax() / b.abs().amax().clamp(min=1e-300)).item()
    return worst if worst == worst else float("inf")


def modes(module: nn.Module) -> Iterator[str]:
    """``module`` put into eval, then into train."""
    for training in (False, True):
        module.train(training)
        yield "train" if training else "eval"


def rewinding(module: nn.Module) -> Callable[[], None]:
    """What sets the generator to one seed and the buffers of ``module`` to what they hold now.

    After it a forward that draws, as dropout does, or moves a buffer, as spectral normalisation does, can be repeated.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def rewind() -> None:
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])

    return rewind


def weighed(y: Tensor) -> Tensor:
    """The sum of all values under fixed random weights, the same for every dtype: what is differentiated."""
    weights = torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), dtype=torch.float64, device="cpu")
    return (y * weights.to(y.dtype)).sum()


def gradients(y: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradient of the weighed ``y`` by ``input`` and by the name of each parameter that takes one."""
    wanted = {"input": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    found = torch.autograd.grad(weighed(y), list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))
