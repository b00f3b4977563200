"""Plug a control at the sites of its mechanism."""

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
from saccade.surgery.mechanism import BuiltModule, Mechanism, starts_neutral
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
    """Plug a control into ``host``, in place, at the sites where ``plug`` would insert ``mechanism``.

    The control starts like the mechanism, but ``extra`` always starts as the identity.

    Args:
        host: any network.
        control: ``extra``: an :class:`ExtraBottleneck` with the number of parameters nearest to the mechanism's;
            ``noise``: a :class:`NoiseGate`; ``shuffled``: the mechanism with the gate or context of the next image in
            the batch.
        mechanism: mechanism that the control is compared with.
        where: as for ``plug``.
        start: as for ``plug``.
        input: as for ``plug``.
        options: as for ``plug``.

    Raises:
        UserError: unknown control; ``shuffled`` for a mechanism that is neither gate nor context; or as ``plug``.
    """
    if control not in CONTROLS:
        raise UserError(
            f"no control is called {control!r}.{did_you_mean(control, CONTROLS)} There are: {', '.join(CONTROLS)}."
        )
    resolved, neutral = Mechanism.resolve(mechanism), starts_neutral(start)
    match control:
        case "extra":
            return insert_plugs(host, resolved, where, input, options, neutral=False, substitute=_extra)
        case "noise":
            neutral = neutral or resolved.spec.is_neutral({**resolved.defaults, **options})
            # The noise is not the identity, even if the mechanism is.
            non_neutral_mechanism = replace(resolved, spec=replace(resolved.spec, neutral=False))
            return insert_plugs(host, non_neutral_mechanism, where, input, options, neutral=neutral, substitute=_noise)

    def shuffled(site: Site, site_options: dict[str, Any], module: nn.Module) -> BuiltModule:
        if not isinstance(module, (Gate, Context)):
            raise UserError(
                f"the control 'shuffled' needs a Gate or a Context, whose output for one image can be applied to "
                f"another; {resolved.name} is a {type(module).__name__}, which is neither"
            )
        options_of_control = {"mechanism": resolved.name, "options": site_options}
        return CONTROLS["shuffled"].path, options_of_control, Shuffled(site.channels, module)

    return insert_plugs(host, resolved, where, input, options, neutral=neutral, substitute=shuffled)


def _extra(site: Site, site_options: dict[str, Any], module: nn.Module) -> BuiltModule:
    n_parameters = sum(p.numel() for p in module.parameters())
    width = max(1, round(n_parameters / (2 * site.channels)))
    return CONTROLS["extra"].path, {"width": width}, ExtraBottleneck(site.channels, width)


def _noise(site: Site, site_options: dict[str, Any], module: nn.Module) -> BuiltModule:
    return CONTROLS["noise"].path, {}, NoiseGate(site.channels)
