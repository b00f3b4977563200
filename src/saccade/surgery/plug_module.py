"""The module that holds a mechanism in a host."""

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

__all__ = ["ParentState", "Plug", "Seen", "plug_of", "plugs_in"]


@dataclass
class ParentState:
    """State of a parent convolution at plugging, by which a norm folded into it later is detected."""

    bias: bool = True
    """Whether the convolution had a bias."""
    norm: str | None = None
    """Name of the norm that follows the convolution in its container."""


Seen = ParentState  # name in networks pickled by earlier versions


class Plug(nn.Module):
    """A mechanism in a host: y = f + (a·(m(f) − f)).to(f.dtype), or y = m(f) without ``a``.

    With a = 0 the output is the input, bit for bit where m(f) is finite.

    Args:
        mechanism: m, maps (B, C, H, W) to the same shape.
        site: site of the plug.
        name: catalogue name, or ``package.module:Class``.
        options: options of the mechanism.
        position: position that selected the site.
        neutral: whether there is an ``a``, a parameter of shape (1,) that starts at zero.
        reads: parents in the previous stage whose plugs' channel descriptors the mechanism reads.
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
        self.reads = reads if self.stage_readers else ()
        self.outputs: StageOutputs | None = None  # shared with other plugs
        self.parent_state = ParentState()
        # torch.fx, feature extractors and quantisation treat modules of torch.nn as leaves.
        self.__module__ = "torch.nn"

    def __setstate__(self, state: dict[str, Any]) -> None:
        new_names = {"relay": "outputs", "seen": "parent_state"}  # of attributes in pickles of earlier versions
        super().__setstate__({new_names.get(key, key): value for key, value in state.items()})

    @property
    def stage_readers(self) -> list[PreviousStage]:
        """Return the modules of the mechanism that read the previous stage."""
        return [module for module in self.mechanism.modules() if isinstance(module, PreviousStage)]

    def connect(self, outputs: StageOutputs) -> None:
        """Let the mechanism write to and read from ``outputs``."""
        self.outputs = outputs
        for reader in self.stage_readers:
            reader.connect(outputs, self.site.parent, self.reads)

    def forward(self, f: Tensor) -> Tensor:
        """Map f (B, C, H, W) to (B, C, H, W), in the dtype of f."""
        mechanism_output: Tensor = self.mechanism(f)
        return match_strides(f, mechanism_output if self.a is None else blend(f, mechanism_output, self.a))

    def extra_repr(self) -> str:
        """Return the mechanism's name and the site."""
        return f"{self.name} at {self.site.path}"


def plug_of(parent: nn.Module) -> Plug | None:
    """Return the plug of ``parent``, also if a library such as peft has wrapped it, or None."""
    child = parent._modules.get(CHILD)
    if child is None or isinstance(child, Plug):
        return child
    copies = getattr(child, "modules_to_save", None)  # peft keeps one copy per adapter beside the original
    active_names = getattr(child, "active_adapters", None) or [getattr(child, "active_adapter", None)]
    if isinstance(copies, nn.ModuleDict) and active_names[0] in copies:
        child = copies[active_names[0]]
    return next((module for module in child.modules() if isinstance(module, Plug)), None)


def plugs_in(model: nn.Module) -> Iterator[tuple[str, nn.Module, Plug]]:
    """Yield the path of each parent in ``model``, the parent, and its plug."""
    for path, module in model.named_modules():
        plug = plug_of(module)
        if plug is not None:
            yield path, module, plug
