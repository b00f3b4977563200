"""Attention into any network and out again: the weights it has keep their names and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from saccade.errors import UserError
from saccade.graph.hosts import check_changeable
from saccade.graph.inputs import example_input
from saccade.graph.positions import select
from saccade.graph.sites import Site
from saccade.surgery.attachment import attach, detach, join
from saccade.surgery.mechanism import Builder, Mechanism, StandIn, kernel_keeper, per_stage, previous_sites
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

    No key of the host's state dict moves, and its own checkpoints load strictly before and after. The mechanisms are
    drawn from the global random state, which stays as it is. One that could not learn, because all units of a ReLU are
    off on ``input``, is drawn again from the same initialisation; on a map that is zero at the start, as behind a norm
    whose weight is, only biases can tell. The log names the sites that the host reaches in eval mode only, and warns of
    a host that its trainer builds anew: see ``plugged_trainer``.

    A mechanism that keeps the kernel of a convolution (``dcn1``, ``dcn2``) is put in the place of convolutions, as by
    ``replace``, whose ``where`` it then takes; any other of kind ``conv`` discards weights and is refused.

    Args:
        host: any network.
        mechanism: a name of the catalogue, ``package.module:Class``, or a callable channels -> module.
        where: ``paper``, ``stage``, ``neck``, ``block``, ``residual``, ``conv3x3``, ``activated``, ``expanded``,
            ``conv_stem``, each with a suffix if wanted: ``[:-1]`` or the like, ``[first]`` or ``[last]`` of each stage;
            a path or glob of module paths; or a list of these.
        start: ``neutral``: until it is trained, the network computes what it computed, bit for bit wherever the
            mechanism's own output is finite; ``paper``: the mechanism's own initialisation, without ``a``.
        input: what to look at the host with; see ``sites``.
        options: of the mechanism. A list, where the option's default is none, gives one value per stage. A mechanism
            whose facts say that it needs the size of the map gets each site's as its option ``size`` (H, W), unless it
            is given here: that of the map for ``input``, and no narrower picture is tried where there is none. One that
            reads the stage before its own gets as its option ``previous`` how many sites are chosen there, which is the
            nearest earlier stage that has some; a smaller number takes the last of them.

    Returns:
        ``host``.

    Raises:
        UserError: ``host`` is no module; unknown mechanism or option, no site, a parent that has a plug already, a
            host that does not run each plug once per call of its parent, is wrapped in DistributedDataParallel,
            compiled, or on the meta device, or a mechanism that changes the shape, the dtype, or, though its facts
            call it neutral, the map. The host is then as it was.
    """
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    what = Mechanism.of(mechanism)
    if what.spec.kind == "conv" and kernel_keeper(mechanism) is not None:
        return replace(host, mechanism, where, start, input, **options)
    insert_plugs(host, what, where, input, options, neutral=start == "neutral")
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
    """The work of ``plug``.

    ``neutral`` gives each plug its ``a``, but for those whose facts promise that they change nothing without one;
    ``instead`` turns each mechanism, given its site and options, into what is plugged in its place.
    """
    if what.spec.kind == "conv":
        raise UserError(
            f"{what.name} stands in the place of a convolution and cannot be plugged behind a module: "
            f"saccade.replace(host, {what.name!r}) puts it there, and says which pretrained weights that discards"
        )
    what.check(options)
    check_changeable(host)
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
            new.append(made.to(value.device, seen.structure.weights(site.path, site.parent)))
        return attach_all(host, new, check)


def attach_all(host: nn.Module, new: list[Plug], check: Callable[[], None]) -> nn.Module:
    """Attach ``new`` to the parents of their sites, then ``check``.

    Raises:
        UserError: a parent is missing or taken. Whatever is raised, here or by ``check``: the host is then as it was.
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
