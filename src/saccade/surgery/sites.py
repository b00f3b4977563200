"""The sites of a network, as if nothing in it were plugged or replaced."""

from __future__ import annotations

from typing import Any

from torch import nn

from saccade.graph.hosts import check_network
from saccade.graph.sites import Inspection, Site, inspect_network
from saccade.surgery.plug_module import Plug
from saccade.surgery.replaced import originals

__all__ = ["Site", "inspect_unplugged", "sites"]


def inspect_unplugged(host: nn.Module, input: Any = None) -> Inspection:
    """Run ``host`` once, as if nothing in it were plugged or replaced, and find its sites; see :func:`sites`."""
    check_network(host)
    with originals(host):
        return inspect_network(host, input, lambda module: isinstance(module, Plug))


def sites(host: nn.Module, input: Any = None) -> list[Site]:
    """Return the sites of ``host``, found by one forward that leaves modes, buffers and random generators alone.

    A site is a module each of whose calls returned one 4-D tensor with one channel count, whose dimensions 2 and 3
    follow the picture's. Maps with channels last, attention matrices and pooled vectors are no sites.

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
    return list(inspect_unplugged(host, input).sites.values())
