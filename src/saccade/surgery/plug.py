"""Put attention into any network; the weights it has keep their names and values."""

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
from saccade.surgery.attachment import attach, detach, join
from saccade.surgery.mechanism import (
    Builder,
    Mechanism,
    StandIn,
    kernel_keeper,
    per_stage,
    previous_sites,
    starts_neutral,
)
from saccade.surgery.plug_module import Plug
from saccade.surgery.rebuilt import warn_of_rebuilding
from saccade.surgery.redraw import redraw_dead_relus
from saccade.surgery.replace import replace
from saccade.surgery.sites import inspect_unplugged
from saccade.surgery.verify import verify_forward, warn_of_eval_only

__all__ = ["attach_all", "insert_plugs", "plug"]


def plug(
    host: nn.Module,
    mechanism: str | Builder,
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Put a mechanism into ``host``, in place, at every site of ``where``.

    No key of the host's state dict moves; its own checkpoints load strictly before and after. Mechanisms are drawn from
    the global random state, which stays as it is. One whose ReLUs are all off on ``input``, so that it could not learn,
    is drawn again. The log names sites that the host reaches in eval mode only, and warns of a host that its trainer
    builds anew (``plugged_trainer``).

    A mechanism that keeps the kernel of a convolution (``dcn1``, ``dcn2``) goes to :func:`saccade.replace`, with its
    ``where``; until trained it computes what the convolution did, but for the order of summation. Any other of kind
    ``conv`` discards weights and is refused.

    Args:
        host: any network.
        mechanism: a name of the catalogue, ``package.module:Class``, or a callable channels -> module.
        where: ``paper``, ``stage``, ``neck``, ``block``, ``residual``, ``conv3x3``, ``activated``, ``expanded`` or
            ``conv_stem``, each with a suffix if wanted: an index or slice, ``[first]`` or ``[last]`` of each stage; a
            path or glob of modules; or a list of these.
        start: ``neutral``: until trained, the network computes what it did, bit for bit where the mechanism's output is
            finite; ``paper``: the mechanism's own initialisation, without ``a``.
        input: see ``sites``.
        options: of the mechanism. A list gives one value per stage, unless the option's own default is a list. ``size``
            (H, W) is set to that of each site's map if the mechanism needs it, ``previous`` to the number of sites in
            the nearest earlier stage that has any; a smaller number takes the last of them.

    Returns:
        ``host``.

    Raises:
        UserError: unknown mechanism or option; no site; a parent that has a plug; a host that is no module, is wrapped
            in DistributedDataParallel, compiled or on the meta device, or does not run each plug once per call of its
            parent; a mechanism that changes shape or dtype, or, called neutral, the map. The host is then as it was.
    """
    neutral = starts_neutral(start)
    what = Mechanism.of(mechanism)
    if what.spec.kind == "conv" and kernel_keeper(mechanism) is not None:
        return replace(host, mechanism, where, start, input, **options)
    insert_plugs(host, what, where, input, options, neutral=neutral)
    warn_of_rebuilding(host)
    return host


def insert_plugs(
    host: nn.Module,
    what: Mechanism,
    where: str | Sequence[str],
    input: Any,
    options: dict[str, Any],
    *,
    neutral: bool,
    instead: Callable[[Site, dict[str, Any], nn.Module], StandIn] | None = None,
) -> nn.Module:
    """Do the work of ``plug``.

    Args:
        host: the network.
        what: the mechanism.
        where: as for ``plug``.
        input: as for ``plug``.
        options: as for ``plug``.
        neutral: give each plug its ``a``, unless the SPEC promises that the mechanism starts as the identity.
        instead: make what is plugged in the place of a mechanism, given its site and options.
    """
    if what.spec.kind == "conv":
        raise UserError(
            f"{what.name} stands in the place of a convolution and cannot be plugged behind a module: "
            f"saccade.replace(host, {what.name!r}) puts it there, and says how many weights that discards"
        )
    what.check(options)
    check_not_distributed(host)
    if input is None and what.sized:
        input = example_input(host)  # the size of the pictures to come, where an inspection by itself narrows them
    seen = inspect_unplugged(host, input)
    chosen = select(seen, where, what.spec)
    each = per_stage(what, options, chosen.sites)
    reads = previous_sites(what, chosen.sites, each)
    new: list[Plug] = []

    def make(site: Site, own: dict[str, Any]) -> StandIn:
        with torch.device("cpu"):  # the same weights wherever the host is
            module = what.build(site, own)
            return (what.name, own, module) if instead is None else instead(site, own, module)

    def check() -> None:
        verify_forward(host, new, seen.arguments, exact=neutral)
        redraw_dead_relus(host, new, seen.arguments, lambda n: make(chosen.sites[n], each[n])[2])
        warn_of_eval_only(host, new, seen.arguments)

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for site, own, before in zip(chosen.sites, each, reads, strict=True):
            if what.reads and own.get("previous") is None:
                own["previous"] = len(before)
            name, taken, module = make(site, own)
            bare = not neutral or what.spec.is_neutral({**what.defaults, **own})
            with torch.device("cpu"):
                made = Plug(
                    module,
                    site=site,
                    name=name,
                    options=taken,
                    position=chosen.position,
                    neutral=not bare,
                    reads=before,
                )
            value = seen.structure.value(site.path)
            new.append(made.to(value.device, seen.structure.weight_dtype(site.path, site.parent)))
        return attach_all(host, new, check)


def attach_all(host: nn.Module, new: list[Plug], check: Callable[[], None]) -> nn.Module:
    """Attach ``new`` to the parents of their sites, then ``check``; on any exception restore the host.

    Raises:
        UserError: a parent is missing or has a plug.
    """
    try:
        for made in new:
            attach(host, made)
        join(host, new)
        check()
    except BaseException:
        detach(host, new)
        raise
    return host
