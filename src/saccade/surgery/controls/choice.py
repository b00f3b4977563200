"""A control at the sites of its mechanism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.bases import Context, Gate
from saccade.surgery.controls.extra import ExtraBottleneck
from saccade.surgery.controls.noise import NoiseGate
from saccade.surgery.controls.shuffled import Shuffled
from saccade.surgery.plug import Mechanism, StandIn, install
from saccade.surgery.sites import Site

__all__ = ["CONTROLS", "plug_control"]

CONTROLS = ("extra", "noise", "shuffled")


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

    It starts as the mechanism does: as the host's own function, or as the control itself. ``extra`` is the host's own
    function in any case, and so is every control of a mechanism that is neutral by itself.

    Args:
        host: any network.
        control: ``extra``: at each site an :class:`ExtraBottleneck` of the width whose parameters come nearest to the
            mechanism's there, at least 1. ``noise``: a :class:`NoiseGate`, whatever the mechanism is. ``shuffled``: the
            mechanism itself with the gate or context of the next image in the batch, drawn as ``plug`` would draw it.
        mechanism: what it is the control of.
        where: as for ``plug``.
        start: as for ``plug``.
        input: as for ``plug``.
        options: of the mechanism.

    Returns:
        ``host``.

    Raises:
        UserError: no such control; ``shuffled`` for a mechanism that is neither gate nor context; or what ``plug``
            raises.
    """
    if control not in CONTROLS:
        raise UserError(
            f"no control is called {control!r}.{did_you_mean(control, CONTROLS)} There are: {', '.join(CONTROLS)}."
        )
    if start not in ("neutral", "paper"):
        raise UserError(f"start must be 'neutral' or 'paper', got {start!r}")
    what, neutral = Mechanism.of(mechanism), start == "neutral"
    match control:
        case "extra":
            return install(host, what, where, input, options, neutral=False, instead=_extra)
        case "noise":
            neutral = neutral or what.spec.is_neutral({**what.defaults, **options})
            never = replace(what, spec=replace(what.spec, neutral=False))
            return install(host, never, where, input, options, neutral=neutral, instead=_noise)

    def shuffled(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
        if not isinstance(made, (Gate, Context)):
            raise UserError(
                f"the control 'shuffled' needs a Gate or a Context, of which one image can lend its own to another; "
                f"{what.name} makes a {type(made).__name__}, which is neither"
            )
        return _name(Shuffled), {"mechanism": what.name, "options": own}, Shuffled(site.channels, made)

    return install(host, what, where, input, options, neutral=neutral, instead=shuffled)


def _extra(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
    parameters = sum(p.numel() for p in made.parameters())
    width = max(1, round(parameters / (2 * site.channels)))
    return _name(ExtraBottleneck), {"width": width}, ExtraBottleneck(site.channels, width)


def _noise(site: Site, own: dict[str, Any], made: nn.Module) -> StandIn:
    return _name(NoiseGate), {}, NoiseGate(site.channels)


def _name(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
