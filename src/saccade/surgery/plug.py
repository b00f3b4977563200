"""Plug attention into any network; existing weights keep their names and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from saccade.errors import UserError
from saccade.graph.hosts import check_not_distributed
from saccade.graph.inputs import example_input
from saccade.graph.positions import select
from saccade.graph.sites import Site
from saccade.surgery.attachment import attach, detach, share_stage_outputs
from saccade.surgery.mechanism import (
    BuiltModule,
    Mechanism,
    MechanismBuilder,
    kernel_keeping_class,
    options_per_site,
    previous_parents,
    skip_options,
    starts_neutral,
)
from saccade.surgery.plug_module import Plug
from saccade.surgery.rebuild_warning import warn_of_rebuilding
from saccade.surgery.redraw import redraw_dead_relus
from saccade.surgery.replace import replace
from saccade.surgery.sites import inspect_unplugged
from saccade.surgery.verify import verify_forward, warn_of_eval_only

__all__ = ["attach_all", "insert_plugs", "plug"]


def plug(
    host: nn.Module,
    mechanism: str | MechanismBuilder,
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Plug a mechanism into ``host``, in place, at every site selected by ``where``.

    The host's own checkpoints still load strictly, and the global random state is left unchanged. A mechanism with a
    ReLU that is inactive for more than a quarter of the images is re-initialised. One that keeps the kernel of a
    convolution (``dcn1``, ``dcn2``) is passed to :func:`saccade.replace`. The log names sites that run in eval mode
    only, and hosts that their trainer rebuilds (:func:`saccade.plugged_trainer`).

    Args:
        host: any network.
        mechanism: catalogue name, ``package.module:Class``, or callable channels -> module.
        where: ``paper``, ``stage``, ``decoder`` (each resolution on the way up), ``skip`` (what joins it from the way
            down), ``neck``, ``block``, ``residual``, ``conv3x3``, ``activated`` (input of a unit's last convolution),
            ``expanded`` (widest map of an inverted residual) or ``conv_stem``, each with an optional suffix (an index,
            a slice, or ``[first]`` or ``[last]`` of each stage); a path or glob of modules; or a list of these.
        start: ``neutral``: the network's output is unchanged until trained, bit for bit where the mechanism's is
            finite; ``paper``: the mechanism's own initialisation, without the trainable factor ``a`` of :class:`Plug`.
        input: as for :func:`sites`.
        options: options of the mechanism. A list gives one value per stage, unless the option's own default is a list.
            ``size`` (H, W) defaults to that of each site's map, ``skip`` to the skip's channels, ``previous`` to the
            number of sites in the previous stage; a smaller one selects the last of those.

    Returns:
        ``host``.

    Raises:
        UserError: unknown mechanism or option; a mechanism that discards a convolution's weights; no site; a parent
            that has a plug; a host that is not a module, is distributed, compiled or on the meta device, or does not
            run each plug once per call of its parent; a mechanism that changes shape, dtype or, if neutral, the map.
            The host is left as it was.
    """
    neutral = starts_neutral(start)
    resolved = Mechanism.resolve(mechanism)
    if resolved.spec.kind == "conv" and kernel_keeping_class(mechanism) is not None:
        return replace(host, mechanism, where, start, input, **options)
    insert_plugs(host, resolved, where, input, options, neutral=neutral)
    warn_of_rebuilding(host)
    return host


def insert_plugs(
    host: nn.Module,
    mechanism: Mechanism,
    where: str | Sequence[str],
    input: Any,
    options: dict[str, Any],
    *,
    neutral: bool,
    substitute: Callable[[Site, dict[str, Any], nn.Module], BuiltModule] | None = None,
) -> nn.Module:
    """Plug a mechanism, or what ``substitute(site, options, module)`` returns for it, into ``host``.

    If ``neutral``, plugs get a factor ``a``, unless the mechanism itself starts as the identity. Raises as ``plug``.
    """
    if mechanism.spec.kind == "conv":
        raise UserError(
            f"{mechanism.name} replaces a convolution and cannot be plugged after a module: "
            f"saccade.replace(host, {mechanism.name!r}) inserts it, and reports how many weights that discards"
        )
    mechanism.check(options)
    check_not_distributed(host)
    if input is None and mechanism.needs_size:
        input = example_input(host)  # the default inspection input is narrower; ``size`` needs the full width
    inspection = inspect_unplugged(host, input)
    selection = select(inspection, where, mechanism.spec)
    options_list = options_per_site(mechanism, options, selection.sites)
    options_list = skip_options(mechanism, inspection.structure, selection.sites, options_list)
    parents_per_site = previous_parents(mechanism, selection.sites, options_list)
    new_plugs: list[Plug] = []

    def build(site: Site, site_options: dict[str, Any]) -> BuiltModule:
        with torch.device("cpu"):  # the same weights on every device
            module = mechanism.build(site, site_options)
            if substitute is not None:
                return substitute(site, site_options, module)
            return mechanism.name, site_options, module

    def check() -> None:
        verify_forward(host, new_plugs, inspection.arguments, exact=neutral)
        ran_in_training = redraw_dead_relus(
            host, new_plugs, inspection.arguments, lambda n: build(selection.sites[n], options_list[n])[2]
        )
        if not ran_in_training:
            warn_of_eval_only(host, new_plugs, inspection.arguments)

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for site, site_options, parents in zip(selection.sites, options_list, parents_per_site, strict=True):
            if mechanism.reads_previous_stage and site_options.get("previous") is None:
                site_options["previous"] = len(parents)
            name, module_options, module = build(site, site_options)
            has_a = neutral and not mechanism.spec.is_neutral({**mechanism.defaults, **site_options})
            with torch.device("cpu"):
                new_plug = Plug(
                    module,
                    site=site,
                    name=name,
                    options=module_options,
                    position=selection.position,
                    neutral=has_a,  # whether it has an ``a``
                    reads=parents,
                )
            value = inspection.structure.value(site.path)
            new_plugs.append(new_plug.to(value.device, inspection.structure.weight_dtype(site.path, site.parent)))
        return attach_all(host, new_plugs, check)


def attach_all(host: nn.Module, new_plugs: list[Plug], check: Callable[[], None]) -> nn.Module:
    """Attach plugs and call ``check``; after an exception, restore the host.

    Raises:
        UserError: a parent does not exist or has a plug.
    """
    try:
        for new_plug in new_plugs:
            attach(host, new_plug)
        share_stage_outputs(host, new_plugs)
        check()
    except BaseException:
        detach(host, new_plugs)
        raise
    return host
