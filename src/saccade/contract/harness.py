"""The module under test: building it, random inputs, distances, and the two ways a test ends early."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from saccade.contract.advice import in_one_line
from saccade.specs import Spec

__all__ = [
    "CLOSE", "DRAWS", "SIZES", "BrokenPromiseError", "Case", "UnexaminedError", "distance", "expect", "gradients",
    "modes", "rewinder", "weighted_sum",
]  # fmt: skip

SIZES = ((7, 5), (1, 1), (4, 9), (33, 17), (1, 6), (8, 8))
CLOSE = 1e-9
"""Two float64 results of one function differ by less, relative to the largest value."""
DRAWS = 5
"""Random parameters may turn a ReLU off all over the map: what must be possible is tested with this many draws."""


class BrokenPromiseError(Exception):
    """The promise does not hold."""


class UnexaminedError(Exception):
    """The promise cannot be tested, because a fact is missing."""


@dataclass(frozen=True)
class Case:
    """What is tested: how to build it, its SPEC, and at which channels and options."""

    make: Callable[..., nn.Module]
    spec: Spec | None
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The options, defaults included; with a ``size`` if SPEC needs one."""
        try:
            arguments = list(inspect.signature(self.make).parameters.values())[1:]
        except (TypeError, ValueError):
            arguments = []
        defaults = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
        return defaults | self.options | ({} if self.fixed_size is None else {"size": self.fixed_size})

    def choices(self, name: str) -> list[Any]:
        """The values of an option's ``Literal`` annotation; [] without one."""
        made = self.make.__init__ if isinstance(self.make, type) else self.make  # type: ignore[misc]
        try:
            annotation = get_type_hints(made).get(name)
        except Exception:  # a stranger's annotation may be anything
            return []
        return list(get_args(annotation)) if get_origin(annotation) is Literal else []

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one size (H, W) it takes, its option ``size``, where SPEC needs one; else None."""
        if self.spec is None or "size" not in self.spec.needs:
            return None
        height, width = self.options.get("size") or SIZES[0]
        return height, width

    def sizes(self, *wanted: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return ``wanted``, or the one size it takes."""
        return wanted if self.fixed_size is None else (self.fixed_size,)

    def build(self, channels: int | None = None, **options: Any) -> nn.Module:
        """Build a module with its own initialisation."""
        given = {} if self.fixed_size is None else {"size": self.fixed_size}
        with torch.device("cpu"):  # whatever the global default device is
            try:
                made = self.make(channels or self.channels, **{**given, **self.options, **options})
            except TypeError as error:
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    raise  # from inside
                raise BrokenPromiseError(f"a mechanism is built as Class(channels, **options): {error}") from error
        if not isinstance(made, nn.Module):
            raise BrokenPromiseError(f"it must make a torch.nn.Module, got {type(made).__name__}")
        return made

    def randomized(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build a module in eval mode with random parameters and running statistics."""
        torch.default_generator.manual_seed(seed)
        module = self.build()
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
        """Draw random maps (batch, C, H, W)."""
        shape = (batch, self.channels, *(size or self.sizes(SIZES[0])[0]))
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def stated(self, fact: str) -> Spec:
        """Return the SPEC if it states ``fact`` for these options.

        Raises:
            UnexaminedError: there is no SPEC, or no function beside it that can be called for the fact.
        """
        if self.spec is None:
            raise UnexaminedError("there is no SPEC")
        by_function = fact == "parameters" or isinstance(getattr(self.spec, fact), str)
        values = self.values if fact == "neutral" else {"channels": self.channels, **self.values}
        if by_function and (why := self.spec.missing_arguments(fact, values)) is not None:
            raise UnexaminedError(why)
        return self.spec

    def refusal(self, channels: int | None = None, **options: Any) -> str | None:
        """Why it is not built, a ValueError that begins with a limit of SPEC; None if it is built.

        Without a SPEC any ValueError counts.

        Raises:
            BrokenPromiseError: it raises anything else.
        """
        try:
            self.build(channels, **options)
        except BrokenPromiseError:
            raise
        except Exception as error:
            if isinstance(error, ValueError) and (self.spec is None or str(error).startswith(self.spec.limits)):
                return str(error)
            given = {"channels": channels or self.channels, **options}
            raise BrokenPromiseError(
                f"it cannot be built with {', '.join(f'{name} = {value}' for name, value in given.items())}: "
                f"{in_one_line(error)}; a limit is stated in SPEC, and a ValueError begins with its words"
            ) from error
        return None


def expect(holds: bool, otherwise: str) -> None:
    """Raise :class:`BrokenPromiseError` with the words ``otherwise`` unless it ``holds``."""
    if not holds:
        raise BrokenPromiseError(otherwise)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest value; inf if shapes differ or a value is not finite."""
    if a.shape != b.shape:
        return float("inf")
    worst = ((a - b).abs().amax() / b.abs().amax().clamp(min=1e-300)).item()
    return worst if worst == worst else float("inf")


def modes(module: nn.Module) -> Iterator[str]:
    """Put ``module`` into eval, then into train, and yield the mode."""
    for training in (False, True):
        module.train(training)
        yield "train" if training else "eval"


def rewinder(module: nn.Module) -> Callable[[], None]:
    """Return a function that resets the generator's seed and the buffers of ``module``, so that a forward repeats."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def rewind() -> None:
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])

    return rewind


def weighted_sum(y: Tensor) -> Tensor:
    """Return the sum of all values under fixed random weights, the same for every dtype."""
    weights = torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), dtype=torch.float64, device="cpu")
    return (y * weights.to(y.dtype)).sum()


def gradients(y: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradient of the weighted_sum ``y`` by ``input`` and by the name of each parameter that takes one."""
    wanted = {"input": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    found = torch.autograd.grad(weighted_sum(y), list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))
