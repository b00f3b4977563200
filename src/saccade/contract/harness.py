"""The module under test, random inputs, comparisons, and the errors that end a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from saccade.contract.advice import format_error
from saccade.specs import Spec

__all__ = [
    "N_DRAWS", "SIZES", "TOLERANCE", "BrokenPromiseError", "Case", "Subject", "UntestableError", "distance",
    "each_mode", "expect", "gradients", "make_rewind", "weighted_sum",
]  # fmt: skip

SIZES = ((7, 5), (1, 1), (4, 9), (33, 17), (1, 6), (8, 8))
TOLERANCE = 1e-9
"""Largest difference between two float64 results of one function, relative to the largest value."""
N_DRAWS = 5
"""Number of random initialisations tried; one must pass, because a ReLU may be dead on a whole map."""


class BrokenPromiseError(Exception):
    """The promise does not hold."""


class UntestableError(Exception):
    """The promise cannot be tested."""


class Subject(Protocol):
    """A module under test, whatever it is: a mechanism or a network."""

    def sizes(self, *sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return ``sizes``, or the only size (H, W) that is tested."""

    def build(self) -> nn.Module:
        """Build a module, initialised by its constructor."""

    def build_randomized(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build a module in eval mode with random parameters and running statistics."""

    def random_maps(self, *size: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw random inputs (batch, C, H, W)."""


@dataclass(frozen=True)
class Case:
    """A mechanism under test: its constructor, SPEC, channels and options."""

    make: Callable[..., nn.Module]
    spec: Spec | None
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def option_values(self) -> dict[str, Any]:
        """Maps option to value: given or default, with ``size`` if SPEC needs it."""
        try:
            arguments = list(inspect.signature(self.make).parameters.values())[1:]
        except (TypeError, ValueError):
            arguments = []
        defaults = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
        return defaults | self.options | ({} if self.fixed_size is None else {"size": self.fixed_size})

    def option_choices(self, name: str) -> list[Any]:
        """Return the values in an option's ``Literal`` annotation; [] without such an annotation."""
        constructor = self.make.__init__ if isinstance(self.make, type) else self.make  # type: ignore[misc]
        try:
            annotation = get_type_hints(constructor).get(name)
        except Exception:  # annotations may raise anything
            return []
        return list(get_args(annotation)) if get_origin(annotation) is Literal else []

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Size (H, W) that the module is built for if SPEC needs ``size``, else None."""
        if self.spec is None or "size" not in self.spec.needs:
            return None
        height, width = self.options.get("size") or SIZES[0]
        return height, width

    def sizes(self, *sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return ``sizes``; only ``fixed_size`` if it is not None."""
        return sizes if self.fixed_size is None else (self.fixed_size,)

    def build(self, channels: int | None = None, **options: Any) -> nn.Module:
        """Build a module, initialised by its constructor."""
        size_option = {} if self.fixed_size is None else {"size": self.fixed_size}
        with torch.device("cpu"):  # a global default device may be set
            try:
                module = self.make(channels or self.channels, **{**size_option, **self.options, **options})
            except TypeError as error:
                if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                    raise  # raised inside the constructor
                raise BrokenPromiseError(f"a mechanism is built as Class(channels, **options): {error}") from error
        if not isinstance(module, nn.Module):
            raise BrokenPromiseError(f"make must return a torch.nn.Module, got {type(module).__name__}")
        return module

    def build_randomized(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
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

    def random_maps(self, *size: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw random maps (batch, C, H, W)."""
        shape = (batch, self.channels, *(size or self.sizes(SIZES[0])[0]))
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def require_fact(self, fact: str) -> Spec:
        """Return the SPEC, after checking that ``fact`` can be evaluated for these options.

        Raises:
            UntestableError: there is no SPEC, or the function that returns the fact needs other options.
        """
        if self.spec is None:
            raise UntestableError("there is no SPEC")
        needs_function = fact == "parameters" or isinstance(getattr(self.spec, fact), str)
        arguments = self.option_values if fact == "neutral" else {"channels": self.channels, **self.option_values}
        if needs_function and (reason := self.spec.reason_not_callable(fact, arguments)) is not None:
            raise UntestableError(reason)
        return self.spec

    def refusal(self, channels: int | None = None, **options: Any) -> str | None:
        """Build the module; return the message if the constructor raises ValueError for a limit of SPEC, else None.

        Without a SPEC, any ValueError counts as a limit.

        Raises:
            BrokenPromiseError: the constructor raises any other exception.
        """
        try:
            self.build(channels, **options)
        except BrokenPromiseError:
            raise
        except Exception as error:
            if isinstance(error, ValueError) and (self.spec is None or str(error).startswith(self.spec.limits)):
                return str(error)
            arguments = {"channels": channels or self.channels, **options}
            raise BrokenPromiseError(
                f"cannot be built with {', '.join(f'{name} = {value}' for name, value in arguments.items())}: "
                f"{format_error(error)}; state a limit in SPEC and raise a ValueError that starts with its text"
            ) from error
        return None


def expect(condition: bool, message: str) -> None:
    """Raise :class:`BrokenPromiseError` with ``message`` unless ``condition``."""
    if not condition:
        raise BrokenPromiseError(message)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of a and b (same shape) relative to the largest of b; else, or for NaN, inf."""
    if a.shape != b.shape:
        return float("inf")
    largest = ((a - b).abs().amax() / b.abs().amax().clamp(min=1e-300)).item()
    return largest if largest == largest else float("inf")


def each_mode(module: nn.Module) -> Iterator[str]:
    """Put ``module`` into eval mode, then train mode, yielding the mode's name."""
    for training in (False, True):
        module.train(training)
        yield "train" if training else "eval"


def make_rewind(module: nn.Module) -> Callable[[], None]:
    """Return a function that sets the seed to 0 and restores the buffers of ``module``."""
    old_values = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def rewind() -> None:
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(old_values[name])

    return rewind


def weighted_sum(y: Tensor) -> Tensor:
    """Return the sum of y (any shape), weighted by fixed random numbers that do not depend on the dtype."""
    weights = torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), dtype=torch.float64, device="cpu")
    return (y * weights.to(y.dtype)).sum()


def gradients(y: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Return the gradients of ``weighted_sum(y)``, y (B, C, H, W), keyed ``input`` (for x) or by parameter name."""
    tensors = {"input": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    gradients = torch.autograd.grad(weighted_sum(y), list(tensors.values()), allow_unused=True)
    return dict(zip(tensors, gradients, strict=True))
