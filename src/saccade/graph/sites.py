"""The sites of a network: feature maps whose height and width scale with the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from saccade.graph.hosts import check_network, check_two_dimensional
from saccade.graph.structure import Structure
from saccade.graph.trace import Arguments, trace

__all__ = ["Inspection", "Site", "inspect_network"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place for a plug: one feature map (B, C, H, W), the output or input of a module."""

    path: str
    """Path of the module that returns the map; of ``parent`` if no module does."""
    parent: str
    """Path of the plug's parent module: ``path``, or a module inside or after it."""
    entering: bool
    """True if the map is the parent's input, not its output."""
    channels: int
    size: tuple[int, int]
    """Height and width at the first call, for the input of the inspection."""
    stage: int
    """Stage of the site, from 0."""
    calls: int
    """Number of calls of the parent in one forward pass."""
    kind: str
    """Class name of the module at ``path``."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Earlier versions pickled ``parent`` as ``carrier``.
        vars(self).update({"parent" if key == "carrier" else key: value for key, value in state.items()})


@dataclass(frozen=True)
class Inspection:
    """The sites of a host by path, in order of execution, with its structure and the arguments of its forward pass."""

    sites: dict[str, Site]
    structure: Structure
    arguments: Arguments

    def input_site(self, path: str) -> Site:
        """Return the site at the input of the module at ``path``."""
        call = self.structure.maps[path][0]
        assert call.first_input is not None, "a map is a tensor"
        _, channels, *size = self.structure.trace.values[call.first_input].shape
        return replace(
            self.sites[path], parent=path, entering=True, channels=channels, size=(size[0], size[1]),
            calls=len(self.structure.maps[path]),
        )  # fmt: skip


def inspect_network(host: nn.Module, input: Any, is_hidden: Callable[[nn.Module], bool]) -> Inspection:
    """Run ``host`` once and return its sites.

    Args:
        host: any network.
        input: as for :func:`.inputs.example_input`, or a dict of keyword arguments.
        is_hidden: function that returns True for modules to treat as identities.

    Raises:
        UserError: the host does not run on the input, or is a 1-D or 3-D network.
    """
    check_network(host)
    host_trace, arguments = trace(host, input, is_hidden)
    structure = Structure(host_trace)
    n_calls = {path: len(calls) for path, calls in host_trace.calls_by_path().items()}
    sites = {}
    for path, calls in structure.maps.items():
        parent, value = structure.plug_parent(path), structure.value(path)
        if parent is not None:
            parent_path, is_input = parent
            sites[path] = Site(
                path=path,
                parent=parent_path,
                entering=is_input,
                channels=value.shape[1],
                size=(value.shape[2], value.shape[3]),
                stage=structure.stage(path),
                calls=n_calls[parent_path],
                kind=type(calls[0].module).__name__,
            )
    if not sites:
        check_two_dimensional(host)
    return Inspection(sites, structure, arguments)
