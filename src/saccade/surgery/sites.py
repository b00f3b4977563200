"""Find the sites of a network, as if it had no plugs or replacements."""

from __future__ import annotations

from typing import Any

from torch import nn

from saccade.graph.hosts import check_network
from saccade.graph.sites import Inspection, Site, inspect_network
from saccade.surgery.plug_module import Plug
from saccade.surgery.replaced import restored

__all__ = ["Site", "inspect_unplugged", "sites"]


def inspect_unplugged(host: nn.Module, input: Any = None) -> Inspection:
    """Run ``host`` once, without its plugs and replacements, and return its sites; see :func:`sites`."""
    check_network(host)
    with restored(host):
        return inspect_network(host, input, lambda module: isinstance(module, Plug))


def sites(host: nn.Module, input: Any = None) -> list[Site]:
    """Return the sites of ``host``, found by one forward pass that leaves modes, buffers and random state unchanged.

    A site is a module that returns a single feature map (B, C, H, W) on each call, always with the same channels, whose
    height and width scale with the image. Sites are returned in execution order.

    Args:
        host: any network.
        input: a tensor, a size (C, H, W), or the arguments of the host's forward as a tuple or dict; None takes the
            host's default size, else 3×224×224, narrower where the host allows, to tell feature maps from square
            attention matrices.

    Raises:
        UserError: the host does not run on the input, or its maps have one or three spatial dimensions.
    """
    return list(inspect_unplugged(host, input).sites.values())
