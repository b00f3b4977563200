"""List the plugs of a network, and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.graph.hosts import check_network
from saccade.parent_class import CHILD, ensure_runs_plug
from saccade.surgery.attachment import detach
from saccade.surgery.guard import (
    PLUG_LOST,
    PLUG_PATHS,
    REPLACEMENT_PATHS,
    find_lost,
    raise_if_lost,
    recorded_paths,
    retain_paths,
)
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.replaced import restore

__all__ = ["PlugInfo", "plugs", "unplug"]


@dataclass(frozen=True)
class PlugInfo:
    """One plug of a network; paths are relative to that network."""

    site: str
    """Path of the module whose output, or input, goes through the plug."""
    parent: str
    """Path of the module that holds the plug."""
    channels: int
    size: tuple[int, int]
    """Height and width of the feature map for the input of the inspection."""
    stage: int
    position: str
    """Position that selected the site, which may be a fallback for the requested one."""
    parameters: int
    """Number of parameters of the mechanism, and of ``a``."""
    mechanism: str
    """Name of the mechanism."""
    module: Plug


def plugs(host: nn.Module) -> list[PlugInfo]:
    """Return a PlugInfo for each plug of ``host``, in module order; see ``replacements`` for replaced convolutions.

    Raises:
        UserError: ``host`` is not a module, or a parent no longer runs its plug, as after fusion.
    """
    check_network(host)
    reasons = find_lost(host)
    rows = []
    for path, parent, plug in plugs_in(host):
        if not (ensure_runs_plug(parent) or _is_in_graph(host, path)):
            reasons.setdefault(path, PLUG_LOST)
        site = plug.site
        prefix = path.removesuffix(site.parent) if path.endswith(site.parent) else ""
        rows.append(
            PlugInfo(
                site=prefix + site.path,
                parent=path,
                channels=site.channels,
                size=site.size,
                stage=site.stage,
                position=plug.position,
                parameters=sum(p.numel() for p in plug.parameters()),
                mechanism=plug.name,
                module=plug,
            )
        )
    raise_if_lost(reasons)
    return rows


def unplug(host: nn.Module, only: str | Sequence[str] | None = None) -> nn.Module:
    """Remove plugs and replacements from ``host``, in place; modules, hooks and state-dict keys are restored.

    A convolution whose kernel the replacement used gets the trained kernel.

    Args:
        host: the network, which is returned.
        only: paths or globs of parents, replaced convolutions, or modules that contain them; None removes all.

    Raises:
        UserError: ``host`` is not a module, ``only`` matches nothing, a ``torch.fx`` graph calls the plugs, or the
            kernel of a replaced convolution is unknown or re-parametrised. Nothing is removed then.
    """
    check_network(host)
    plugs_by_path = {path: plug for path, _, plug in plugs_in(host)}
    recorded = {attribute: set(recorded_paths(host, attribute)) for attribute in (PLUG_PATHS, REPLACEMENT_PATHS)}
    selected = {*plugs_by_path, *recorded[PLUG_PATHS], *recorded[REPLACEMENT_PATHS]}
    if only is not None:
        patterns = [only] if isinstance(only, str) else list(only)
        matches = {
            pattern: {path for path in selected if fnmatchcase(path, pattern) or path.startswith(f"{pattern}.")}
            for pattern in patterns
        }
        for pattern in patterns:
            if not matches[pattern]:
                raise UserError(
                    f"{pattern!r} matches no plug or replacement.{did_you_mean(pattern, selected)} Paths: "
                    f"{', '.join(sorted(selected))}"
                )
        selected = set[str]().union(*matches.values())
    traced = [path for path in plugs_by_path if path in selected and _is_in_graph(host, path)]
    if traced:
        raise UserError(
            f"the plugs of {', '.join(traced[:4])} are called by a graph of torch.fx; unplug the network before it is "
            "traced"
        )
    restore(host, None if only is None else selected)
    retain_paths(host, PLUG_PATHS, set(recorded_paths(host, PLUG_PATHS)) - selected)
    detach(host, [plug for path, plug in plugs_by_path.items() if path in selected])
    return host


def _is_in_graph(host: nn.Module, path: str) -> bool:
    """Return True if a ``torch.fx`` graph calls the plug of the module at ``path``."""
    for prefix, module in host.named_modules():
        if isinstance(module, torch.fx.GraphModule):
            target = f"{path}.{CHILD}".removeprefix(f"{prefix}." if prefix else "")
            if any(node.op == "call_module" and node.target == target for node in module.graph.nodes):
                return True
    return False
