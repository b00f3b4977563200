"""The plugs of a network: listed, and taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.graph.hosts import check_network
from saccade.parent_class import CHILD, runs_plug
from saccade.surgery.attachment import detach
from saccade.surgery.guard import NOT_RUN, PLUGS, REPLACED, lost, paths, raise_if_lost, unwatch
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.replaced import restore

__all__ = ["PlugInfo", "plugs", "unplug"]


@dataclass(frozen=True)
class PlugInfo:
    """One plug of a network; paths are relative to that network."""

    site: str
    """The module whose map goes through the plug."""
    parent: str
    """The module that holds it."""
    channels: int
    size: tuple[int, int]
    """Height and width of the map for the picture it was inspected with."""
    stage: int
    position: str
    """The position that chose the site; ``plug`` may have fallen back to it."""
    parameters: int
    """Of the mechanism, and ``a``."""
    mechanism: str
    module: Plug


def plugs(host: nn.Module) -> list[PlugInfo]:
    """Return the plugs of ``host`` in the order of its modules; what replaces convolutions is in ``replacements``.

    Raises:
        UserError: ``host`` is no module, or a parent no longer runs its plug, as after fusing or re-parametrising.
    """
    check_network(host)
    gone = lost(host)
    rows = []
    for path, parent, found in plugs_in(host):
        if not (runs_plug(parent) or _in_graph(host, path)):
            gone.setdefault(path, NOT_RUN)
        site = found.site
        prefix = path.removesuffix(site.parent) if path.endswith(site.parent) else ""
        rows.append(
            PlugInfo(
                site=prefix + site.path,
                parent=path,
                channels=site.channels,
                size=site.size,
                stage=site.stage,
                position=found.position,
                parameters=sum(p.numel() for p in found.parameters()),
                mechanism=found.name,
                module=found,
            )
        )
    raise_if_lost(gone)
    return rows


def unplug(host: nn.Module, only: str | Sequence[str] | None = None) -> nn.Module:
    """Take plugs and replacements out of ``host``, in place: modules, hooks and keys are what they were.

    A kernel that a replacement kept stays as it was trained.

    Args:
        host: the network.
        only: paths or globs of parents, convolutions, or modules that hold them, lost ones included; None is all.

    Raises:
        UserError: ``host`` is no module, ``only`` names nothing, the plugs are in a graph of ``torch.fx``, or the
            kernel of a replaced convolution is not known or was re-parametrised; nothing is taken out then.
    """
    check_network(host)
    found = {path: plug for path, _, plug in plugs_in(host)}
    marked = {kind: set(paths(host, kind)) for kind in (PLUGS, REPLACED)}
    chosen = {*found, *marked[PLUGS], *marked[REPLACED]}
    if only is not None:
        wanted = [only] if isinstance(only, str) else list(only)
        named = {word: {p for p in chosen if fnmatchcase(p, word) or p.startswith(f"{word}.")} for word in wanted}
        for word in wanted:
            if not named[word]:
                raise UserError(
                    f"{word!r} names no plug.{did_you_mean(word, chosen)} There are: {', '.join(sorted(chosen))}"
                )
        chosen = set[str]().union(*named.values())
    traced = [path for path in found if path in chosen and _in_graph(host, path)]
    if traced:
        raise UserError(
            f"the plugs of {', '.join(traced[:4])} are called by a graph of torch.fx; unplug the network before it is "
            "traced"
        )
    restore(host, None if only is None else chosen)
    unwatch(host, PLUGS, set(paths(host, PLUGS)) - chosen)
    detach(host, [plug for path, plug in found.items() if path in chosen])
    return host


def _in_graph(host: nn.Module, path: str) -> bool:
    """Return whether a ``torch.fx`` graph calls the plug of the module at ``path``."""
    for prefix, module in host.named_modules():
        if isinstance(module, torch.fx.GraphModule):
            plug = f"{path}.{CHILD}".removeprefix(f"{prefix}." if prefix else "")
            if any(node.op == "call_module" and node.target == plug for node in module.graph.nodes):
                return True
    return False
