"""The places for a mechanism in a network: modules that return one map that follows the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from saccade.graph.hosts import check_maps, check_network
from saccade.graph.structure import Structure
from saccade.graph.trace import Arguments, trace

__all__ = ["Inspection", "Site", "inspect_network"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A module whose output is one tensor (B, C, H, W)."""

    path: str
    """The module that returns the map, or, where none does, the parent."""
    parent: str
    """The module that would hold the plug."""
    entering: bool
    """Whether the map enters the parent instead of leaving it."""
    channels: int
    size: tuple[int, int]
    """Height and width at the first call, for the picture of the inspection."""
    stage: int
    """The stage it belongs to, counted from 0."""
    calls: int
    """Calls of the parent in one forward."""
    kind: str
    """The class of the module."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Networks that were pickled by earlier versions call the parent the carrier.
        vars(self).update({"parent" if key == "carrier" else key: value for key, value in state.items()})


@dataclass(frozen=True)
class Inspection:
    """The sites of a host by path, in order of execution, its structure, and the arguments it was called with."""

    sites: dict[str, Site]
    structure: Structure
    arguments: Arguments

    def entering(self, path: str) -> Site:
        """Return the map that enters the module at ``path`` as a site."""
        call = self.structure.maps[path][0]
        assert call.first is not None, "a map is a tensor"
        _, channels, *size = self.structure.trace.values[call.first].shape
        return replace(
            self.sites[path], parent=path, entering=True, channels=channels, size=(size[0], size[1]),
            calls=len(self.structure.maps[path]),
        )  # fmt: skip


def inspect_network(host: nn.Module, input: Any, hidden: Callable[[nn.Module], bool]) -> Inspection:
    """Run ``host`` once and find its sites.

    Args:
        host: any network.
        input: see :func:`saccade.sites`.
        hidden: whether a module counts as if it returned what it receives.

    Raises:
        UserError: the host does not run on the input, or is a network of one or three dimensions.
    """
    check_network(host)
    seen, arguments = trace(host, input, hidden)
    structure = Structure(seen)
    runs = {path: len(calls) for path, calls in seen.by_path().items()}
    found = {}
    for path, calls in structure.maps.items():
        parent, value = structure.parent_of(path), structure.value(path)
        if parent is not None:
            found[path] = Site(
                path=path,
                parent=parent[0],
                entering=parent[1],
                channels=value.shape[1],
                size=(value.shape[2], value.shape[3]),
                stage=structure.stage(path),
                calls=runs[parent[0]],
                kind=type(calls[0].module).__name__,
            )
    if not found:
        check_maps(host)
    return Inspection(found, structure, arguments)
