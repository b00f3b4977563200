"""The module that is put into a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saccade.bases import blend, match_strides
from saccade.parent_class import CHILD
from saccade.stage_outputs import PreviousStage, StageOutputs

if TYPE_CHECKING:
    from saccade.graph.sites import Site

__all__ = ["Plug", "Seen", "plug_of", "plugs_in"]


@dataclass
class Seen:
    """What a parent convolution was like at first, so that a norm folded into it is noticed."""

    bias: bool = True
    """Whether the convolution had a bias."""
    norm: str | None = None
    """The name of the norm behind it in the same module."""


class Plug(nn.Module):
    """A mechanism in a host: y = f + (a·(m(f) − f)).to(f.dtype), or y = m(f) without ``a``.

    With a = 0 it returns what it received, bit for bit where m(f) is finite; an overflow is not hidden.

    Args:
        mechanism: m, maps (B, C, H, W) to the same shape.
        site: where it is plugged.
        name: of the mechanism: a name of the catalogue or ``package.module:Class``.
        options: those it was made with.
        position: the position that chose the site.
        neutral: whether there is an ``a``, a parameter of shape (1,) that starts at zero.
        reads: the parents of the previous stage whose vectors the mechanism reads.
    """

    a: nn.Parameter | None

    def __init__(
        self,
        mechanism: nn.Module,
        *,
        site: Site,
        name: str,
        options: dict[str, Any],
        position: str,
        neutral: bool,
        reads: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.site, self.name, self.options, self.position = site, name, options, position
        self.mechanism = mechanism
        self.register_parameter("a", nn.Parameter(torch.zeros(1)) if neutral else None)
        self.reads = reads if self.previous else ()
        self.outputs: StageOutputs | None = None
        self.seen = Seen()
        # torch.fx and what is built on it (feature extractors, quantisation) keep a module of torch.nn whole.
        self.__module__ = "torch.nn"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Networks that were pickled by earlier versions call the outputs the relay.
        super().__setstate__({"outputs" if key == "relay" else key: value for key, value in state.items()})

    @property
    def previous(self) -> list[PreviousStage]:
        """The parts of the mechanism that read the stage before."""
        return [module for module in self.mechanism.modules() if isinstance(module, PreviousStage)]

    def join(self, outputs: StageOutputs) -> None:
        """Let the mechanism, also a later one, hand on and read by ``outputs``."""
        self.outputs = outputs
        for place in self.previous:
            place.join(outputs, self.site.parent, self.reads)

    def forward(self, f: Tensor) -> Tensor:
        """Map f (B, C, H, W) to (B, C, H, W), in the dtype of f."""
        changed: Tensor = self.mechanism(f)
        return match_strides(f, changed if self.a is None else blend(f, changed, self.a))

    def extra_repr(self) -> str:
        """The mechanism's name and the site."""
        return f"{self.name} at {self.site.path}"


def plug_of(parent: nn.Module) -> Plug | None:
    """Return the plug that ``parent`` holds, also inside a wrapper of a library."""
    child = parent._modules.get(CHILD)
    if child is None or isinstance(child, Plug):
        return child
    adapters = getattr(child, "modules_to_save", None)  # peft keeps the original beside a copy for each adapter
    active = getattr(child, "active_adapters", None) or [getattr(child, "active_adapter", None)]
    if isinstance(adapters, nn.ModuleDict) and active[0] in adapters:
        child = adapters[active[0]]
    return next((module for module in child.modules() if isinstance(module, Plug)), None)


def plugs_in(model: nn.Module) -> Iterator[tuple[str, nn.Module, Plug]]:
    """Yield the path of each parent in ``model``, the parent, and its plug."""
    for path, module in model.named_modules():
        plug = plug_of(module)
        if plug is not None:
            yield path, module, plug
