"""Where a mechanism can be put into a network: the modules that return one map which follows the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from saccade.probe import check_network
from saccade.surgery.hosts import check_maps
from saccade.surgery.plug_module import Plug
from saccade.surgery.replaced import originals
from saccade.surgery.structure import Structure
from saccade.surgery.trace import Arguments, trace

__all__ = ["Site", "Survey", "sites", "survey"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place in a host: a module whose output is one tensor (B, C, H, W)."""

    path: str
    """The module that returns the map; the carrier itself where no one module returns what enters it."""
    carrier: str
    """The module that would hold the plug."""
    entering: bool
    """Is the map what enters the carrier, rather than what leaves it?"""
    channels: int
    size: tuple[int, int]
    """Height and width for the picture the host was looked at with, at the first call."""
    stage: int
    """The stage it belongs to, counted from 0."""
    calls: int
    """How often the host runs the carrier in one forward."""
    kind: str
    """The class of the module."""


@dataclass(frozen=True)
class Survey:
    """The sites of a host by path, in order of execution, how it is built, and what it was called with."""

    sites: dict[str, Site]
    structure: Structure
    arguments: Arguments

    def entering(self, path: str) -> Site:
        """The map that enters the module at ``path`` as a site, for a map that no one module returns."""
        call = self.structure.maps[path][0]
        assert call.first is not None, "a map is a tensor"
        _, channels, *size = self.structure.trace.values[call.first].shape
        return replace(
            self.sites[path], carrier=path, entering=True, channels=channels, size=(size[0], size[1]),
            calls=len(self.structure.maps[path]),
        )  # fmt: skip


def survey(host: nn.Module, input: Any = None) -> Survey:
    """One look at ``host``, as if nothing in it were plugged or replaced: see :func:`sites`."""
    check_network(host)
    with originals(host):
        return _survey(host, input)


def _survey(host: nn.Module, input: Any) -> Survey:
    seen, arguments = trace(host, input, lambda module: isinstance(module, Plug))
    structure = Structure(seen)
    runs = {path: len(calls) for path, calls in seen.by_path().items()}
    found = {}
    for path, calls in structure.maps.items():
        carrier, value = structure.carrier(path), structure.value(path)
        if carrier is not None:
            found[path] = Site(
                path=path,
                carrier=carrier[0],
                entering=carrier[1],
                channels=value.shape[1],
                size=(value.shape[2], value.shape[3]),
                stage=structure.stage(path),
                calls=runs[carrier[0]],
                kind=type(calls[0].module).__name__,
            )
    if not found:
        check_maps(host)
    return Survey(found, structure, arguments)


def sites(host: nn.Module, input: Any = None) -> list[Site]:
    """The sites of ``host``, found by one real forward, which leaves modes, buffers and random generators alone.

    A site is a module each of whose calls returned one 4-D tensor whose dimensions 2 and 3 follow the picture's, with
    one channel count. Maps with channels last, attention matrices and pooled vectors are none.

    Args:
        host: any network.
        input: a tensor, a size (C, H, W), or whatever the host's forward takes (a tuple or dict of arguments); None
            takes the size the host states, else 3×224×224, with the last side shortened where the host allows, so
            that a map can be told from a square matrix.

    Returns:
        the sites in order of execution.

    Raises:
        UserError: the host does not run on the input, or is a network of one or three dimensions.
    """
    return list(survey(host, input).sites.values())
