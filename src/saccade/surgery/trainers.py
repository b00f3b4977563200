"""The bridge to trainers that build their network anew, as YOLO's does from its yaml.

``plugged_trainer`` subclasses such a trainer so that what it builds is plugged before training starts. Its package is
not imported.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from saccade.errors import UserError
from saccade.surgery.mechanism import Builder, Mechanism, starts_neutral
from saccade.surgery.plug import insert_plugs
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import unplug
from saccade.surgery.replaced import replaced

__all__ = ["plugged_trainer"]


@dataclass(frozen=True)
class _Request:
    """The arguments of one ``plug``."""

    mechanism: str | Builder
    where: str | tuple[str, ...]
    start: str
    input: Any
    options: dict[str, Any]


class _Plugging:
    """Mixin before the trainer's class: ``get_model`` returns the network with plugs."""

    saccade_requests: tuple[_Request, ...] = ()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """Build the network, load the host's weights, plug, load the weights of trained plugs.

        Args:
            cfg: what the trainer builds from.
            weights: a network with or without plugs, a checkpoint that holds it as ``ema`` or ``model``, or None.
            verbose: passed on.

        Raises:
            UserError: ``weights`` holds other plugs than were asked for, or replaced convolutions.
        """
        trained = _network(weights)
        plugs = {} if trained is None else {path: plug for path, _, plug in plugs_in(trained)}
        if trained is not None and plugs:  # loading is the trainer's own, and its network has no plugs yet
            weights = unplug(deepcopy(trained))
        network: nn.Module = super().get_model(cfg=cfg, weights=weights, verbose=verbose)  # type: ignore[misc]
        for request in self.saccade_requests:
            where = request.where if isinstance(request.where, str) else list(request.where)
            insert_plugs(
                network,
                Mechanism.of(request.mechanism),
                where,
                request.input,
                deepcopy(request.options),
                neutral=request.start == "neutral",
            )
        if plugs:
            new = {path: plug for path, _, plug in plugs_in(network)}
            _check_same(plugs, new)
            for path, plug in new.items():
                plug.load_state_dict(plugs[path].state_dict())
        return network


class _PluggedType(type):
    """The type of the classes made here, by which pickle knows them."""


def _reduce(made: type) -> Any:
    """Reduce a class of ``plugged_trainer`` to the call that makes it, and a class derived from one to its name."""
    if "saccade_requests" in vars(made):
        return _subclass, (made.__bases__[-1], made.saccade_requests)  # type: ignore[attr-defined]
    return made.__qualname__


copyreg.pickle(_PluggedType, _reduce)


def plugged_trainer(
    trainer: type,
    mechanism: str | Builder,
    where: str | Sequence[str] = "neck",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> type:
    """Subclass a trainer that builds its network anew, so that the network it trains is plugged.

    For trainers with a method ``get_model(cfg, weights, verbose)``, such as those of ultralytics, which replace a
    plugged network by a plain one when training starts. Weights of a plain checkpoint load as before, those of a
    checkpoint with plugs load whole. Calling this on its own result adds a second mechanism. The subclass can be
    pickled if ``trainer`` and ``mechanism`` can be imported.

    Args:
        trainer: the class.
        mechanism: see ``plug``, as the other arguments.
        where: the default is the maps that enter the head.
        start: see ``plug``.
        input: see ``plug``. For a mechanism that needs the size of the map: the size trained on, ``(3, 640, 640)``.
        options: of the mechanism.

    Returns:
        the subclass. Its ``get_model`` raises UserError if the checkpoint has other plugs or options, or as ``plug``
        does.

    Raises:
        UserError: ``trainer`` is no class with ``get_model``, or the mechanism is unknown, takes no such option, or
            stands in the place of convolutions.
    """
    if not isinstance(trainer, type):
        raise UserError(f"plugged_trainer takes the class of a trainer, got an object of {type(trainer).__name__}")
    if not callable(getattr(trainer, "get_model", None)):
        raise UserError(
            f"{trainer.__name__} has no method get_model(cfg, weights, verbose), whose network could be plugged: give "
            "it a network that saccade.plug has plugged"
        )
    starts_neutral(start)
    what = Mechanism.of(mechanism)
    if what.spec.kind == "conv":
        raise UserError(
            f"{what.name} stands in the place of convolutions, and a trainer's network takes plugs alone; name a "
            "mechanism of another kind"
        )
    what.check(options)
    request = _Request(mechanism, where if isinstance(where, str) else tuple(where), start, input, options)
    return _subclass(trainer, (*getattr(trainer, "saccade_requests", ()), request))


def _subclass(trainer: type, requests: tuple[_Request, ...]) -> type:
    bases = (trainer,) if issubclass(trainer, _Plugging) else (_Plugging, trainer)
    kind = _PluggedType if type(trainer) is type else type(trainer)
    name = f"Plugged{trainer.__name__.removeprefix('Plugged')}"
    return kind(name, bases, {"saccade_requests": requests, "__module__": __name__, "__doc__": trainer.__doc__})


def _network(weights: Any) -> nn.Module | None:
    """Return the network of a checkpoint, from which the plugs are taken.

    Raises:
        UserError: it holds no network, or one with replaced convolutions.
    """
    if weights is None:
        return None
    found = (weights.get("ema") or weights.get("model")) if isinstance(weights, Mapping) else weights
    if not isinstance(found, nn.Module):
        raise UserError(
            f"the weights must be a network, or a checkpoint that holds one as 'ema' or 'model', to see whether it has "
            f"plugs; got {type(weights).__name__}"
        )
    if next(replaced(found), None) is not None:
        raise UserError(
            "the network of the checkpoint has replaced convolutions, which a rebuilt network does not have: "
            "saccade.unplug it first"
        )
    return found


def _check_same(trained: dict[str, Plug], new: dict[str, Plug]) -> None:
    """Raise UserError unless both have the same mechanisms, with the same options, in the same places."""
    for path in sorted(trained.keys() | new.keys()):
        there, here = (_described(plugs.get(path)) for plugs in (trained, new))
        if there != here:
            raise UserError(
                f"the plugs of the checkpoint are not those asked for: at {path} the checkpoint has {there}, and "
                f"{here} is asked for; ask plugged_trainer for what the checkpoint has, or saccade.unplug it first"
            )


def _described(plug: Plug | None) -> str:
    if plug is None:
        return "nothing"
    options = "".join(f", {key}={value!r}" for key, value in sorted(plug.options.items()))
    return f"{plug.name}(start={'paper' if plug.a is None else 'neutral'!r}{options})"
