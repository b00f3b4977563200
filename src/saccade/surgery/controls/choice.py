"""A control at the sites of its mechanism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from saccade.bases import Context, Gate
from saccade.controls import CONTROLS
from saccade.errors import UserError, did_you_mean
from saccade.graph.sites import Site
from saccade.surgery.controls.extra import ExtraBottleneck
from saccade.surgery.controls.noise import NoiseGate
from saccade.surgery.controls.shuffled import Shuffled
from saccade.surgery.mechanism import Mechanism, StandIn, starts_neutral
from saccade.surgery.plug import insert_plugs

__all__ = ["plug_control"]


def plug_control(
    host: nn.Module,
    control: str,
    mechanism: str | Callable[..., nn.Module],
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Put a control into ``host`` at the sites that ``plug`` would give ``mechanism``.

    It starts as the mechanism does; ``extra``, and any control of a mechanism that is neutral by itself, as the
    identity.

    Args:
        host: any network.
        control: ``extra``: an :class:`ExtraBottleneck` with the number of parameters nearest to the mechanism's;
            ``noise``: a :class:`NoiseGate`; ``shuffled``: the mechanism with the gate or context of the next image in
            the batch.
        mechanism: what it is the control of.
        where: as for ``plug``.
        start: as for ``plug``.
        input: as for ``plug``.
        options: of the mechanism.

    Returns:
        ``host``.

    Raises:
        UserError: no such control; ``shuffled`` for a mechanism that is neither gate nor context; or as ``plug``.
    """
    if control not in CONTROLS:
        raise UserError(
            f"no control is called {control!r}.{did_you_mean(control, CONTROLS)} There are: {', '.join(CONTROLS)}."
        )
    what, neutral = Mechanism.of(mechanism), starts_neutral(start)
    match control:
        case "extra":
            return insert_plugs(host, what, where, input, options, neutral=False, instead=_extra)
        case "noise":
            neutral = neutral or what.spec.is_neutral({**what.defaults, **options})
            never = replace(what, spec=replace(what.spec, neutral=False))
            return insert_plugs(host, never, where, input, options, neutral=neutral, instead=_noise)

    def shuffled(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
        if not isinstance(made, (Gate, Context)):
            raise UserError(
                f"the control 'shuffled' needs a Gate or a Context, of which one image can lend its own to another; "
                f"{what.name} makes a {type(made).__name__}, which is neither"
            )
        return CONTROLS["shuffled"].path, {"mechanism": what.name, "options": own}, Shuffled(site.channels, made)

    return insert_plugs(host, what, where, input, options, neutral=neutral, instead=shuffled)


def _extra(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
    parameters = sum(p.numel() for p in made.parameters())
    width = max(1, round(parameters / (2 * site.channels)))
    return CONTROLS["extra"].path, {"width": width}, ExtraBottleneck(site.channels, width)


def _noise(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
    return CONTROLS["noise"].path, {}, NoiseGate(site.channels)
