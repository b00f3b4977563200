"""The network under test: how it is built, its images, and what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from saccade import builders
from saccade.contract.harness import BrokenPromiseError, UntestableError, expect
from saccade.contract.randomize import randomize
from saccade.errors import UserError

__all__ = ["ArchitectureCase"]

DEFAULT_INPUT = (3, 224, 224)


@dataclass(frozen=True)
class ArchitectureCase:
    """An architecture under test: its constructor, image size, classes and options."""

    make: Callable[..., nn.Module]
    input_size: tuple[int, int, int] | None = None
    num_classes: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def image_size(self) -> tuple[int, int, int]:
        """Size (C, H, W) of the images: given, declared by the network's ``pretrained_cfg``, or 3×224×224."""
        if self.input_size is not None:
            return self.input_size
        config = getattr(self._build(self.num_classes, DEFAULT_INPUT[0], {}), "pretrained_cfg", None)
        declared = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        return DEFAULT_INPUT if declared is None else tuple(declared)

    @cached_property
    def is_dense(self) -> bool:
        """True if the network outputs maps of logits (B, K, H, W)."""
        with torch.no_grad():
            return self.logits(self.build_randomized(), self.random_maps()).dim() == 4

    def arguments(self, num_classes: int, in_chans: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments that ``make`` is called with."""
        return builders.call_arguments(self.make, num_classes, in_chans, {**self.options, **options})

    def accepts(self, *names: str) -> bool:
        """Return True if ``make`` has an argument of one of ``names``, or takes any."""
        try:
            parameters = inspect.signature(self.make).parameters
        except (TypeError, ValueError):
            return True
        return any(name in parameters for name in names) or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def build(self, num_classes: int | None = None, in_chans: int | None = None, **options: Any) -> nn.Module:
        """Build a network, initialised by its constructor."""
        return self._build(
            self.num_classes if num_classes is None else num_classes, in_chans or self.image_size[0], options
        )

    def _build(self, num_classes: int, in_chans: int, options: Mapping[str, Any]) -> nn.Module:
        with torch.device("cpu"):  # a global default device may be set
            network = self.make(**self.arguments(num_classes, in_chans, options))
        if not isinstance(network, nn.Module):
            raise BrokenPromiseError(f"make must return a torch.nn.Module, got {type(network).__name__}")
        return network

    def build_randomized(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build a network in eval mode with random norms, biases, scales and running statistics."""
        torch.default_generator.manual_seed(seed)
        return self.randomized(self.build(), seed).to(dtype)

    def randomized(self, network: nn.Module, seed: int = 0) -> nn.Module:
        """Return ``network``, randomised in place, in eval mode."""
        return randomize(network, seed + 1).eval()

    def sizes(self, *sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the only size (H, W) that is tested."""
        return (self.image_size[1:],)

    def random_maps(self, *size: int, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw random images (batch, C, H, W)."""
        shape = (batch, self.image_size[0], *(size or self.image_size[1:]))
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the output for x (B, C, H, W), after checking that it is logits (B, K) or (B, K, H, W)."""
        y = network(x)
        expect(
            isinstance(y, Tensor) and y.dim() in (2, 4),
            f"forward returns {tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__}; logits (B, classes), or "
            "(B, classes, H, W) of a dense network, are needed",
        )
        logits: Tensor = y
        return logits

    def expect_logits(self, y: Tensor, x: Tensor, num_classes: int, when: str) -> None:
        """Expect y to be finite logits of ``num_classes`` classes for images x (B, C, H, W)."""
        shape = (len(x), num_classes, *(x.shape[2:] if self.is_dense else ()))
        expect(tuple(y.shape) == shape, f"{when}: {tuple(x.shape)} comes out as {tuple(y.shape)}, not {shape}")
        expect(bool(y.isfinite().all()), f"{when}: the output has values that are not finite")

    @property
    def timm_name(self) -> str | None:
        """Name of the network if timm knows it, else None."""
        from timm.models import is_model

        make: Any = self.make
        if isinstance(make, partial):
            make = make.args[0] if make.args else make.func
        name = make if isinstance(make, str) else getattr(make, "__name__", "")
        return name if is_model(name.partition(".")[0]) else None

    def refuse_detectors(self) -> None:
        """Raise UserError if timm's network is a detector, which outputs boxes."""
        from saccade.models import is_detector  # later, because it needs more packages than torch

        if self.timm_name is not None and is_detector(self.timm_name):
            raise UserError(f"{self.timm_name} is a detector; the contract tests networks that output logits")

    def host(self) -> dict[str, Any]:
        """Return the description of the network for ``saccade.save``.

        Raises:
            UntestableError: ``make`` cannot be imported by name.
        """
        arguments = self.arguments(self.num_classes, self.image_size[0], {})
        if isinstance(self.make, partial):
            arguments = {**self.make.keywords, **arguments}
            arguments.pop("pretrained", None)
        if self.timm_name is not None:
            return {"timm": self.timm_name, "options": arguments}
        call, _ = builders.identify(self.make)
        if "<" in call:
            raise UntestableError(f"{call} cannot be imported by name")
        return {"call": call, "options": arguments}
