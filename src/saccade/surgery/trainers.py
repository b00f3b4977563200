"""Support for trainers that build their own network, such as YOLO's."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from saccade.errors import UserError
from saccade.surgery.mechanism import Mechanism, MechanismBuilder, starts_neutral
from saccade.surgery.plug import insert_plugs
from saccade.surgery.plug_module import Plug, plugs_in
from saccade.surgery.plugs import unplug
from saccade.surgery.replaced import replaced_convolutions

__all__ = ["plugged_trainer"]


@dataclass(frozen=True)
class _PlugArguments:
    """Arguments of one call of ``plug``."""

    mechanism: str | MechanismBuilder
    where: str | tuple[str, ...]
    start: str
    input: Any
    options: dict[str, Any]


_Request = _PlugArguments  # its name in pickles of earlier versions


class _PluggedTrainerMixin:
    """Mixin whose ``get_model`` returns the network with plugs; precedes the trainer in the bases."""

    saccade_plug_arguments: tuple[_PlugArguments, ...] = ()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """Build the network, insert plugs, then load the plug weights in ``weights``, if any.

        ``weights`` is a network, a checkpoint that holds one as ``ema`` or ``model``, or None.

        Raises:
            UserError: ``weights`` has other plugs than the trainer inserts, or replaced convolutions.
        """
        trained = _network_of(weights)
        trained_plugs = {} if trained is None else {path: plug for path, _, plug in plugs_in(trained)}
        if trained is not None and trained_plugs:  # the trainer loads weights into a network without plugs
            weights = unplug(deepcopy(trained))
        network: nn.Module = super().get_model(cfg=cfg, weights=weights, verbose=verbose)  # type: ignore[misc]
        for plug_arguments in self.saccade_plug_arguments:
            where = plug_arguments.where if isinstance(plug_arguments.where, str) else list(plug_arguments.where)
            insert_plugs(
                network,
                Mechanism.resolve(plug_arguments.mechanism),
                where,
                plug_arguments.input,
                deepcopy(plug_arguments.options),
                neutral=plug_arguments.start == "neutral",
            )
        if trained_plugs:
            new_plugs = {path: plug for path, _, plug in plugs_in(network)}
            _check_same_plugs(trained_plugs, new_plugs)
            for path, plug in new_plugs.items():
                plug.load_state_dict(trained_plugs[path].state_dict())
        return network


class _PluggedTrainerType(type):
    """Metaclass through which ``copyreg`` pickles the classes made by ``plugged_trainer``."""


def _reduce(cls: type) -> Any:
    """Pickle a class made by ``plugged_trainer`` as the call that made it, and its subclasses by name."""
    if "saccade_plug_arguments" in vars(cls):
        return _subclass, (cls.__bases__[-1], cls.saccade_plug_arguments)  # type: ignore[attr-defined]
    return cls.__qualname__


copyreg.pickle(_PluggedTrainerType, _reduce)


def plugged_trainer(
    trainer: type,
    mechanism: str | MechanismBuilder,
    where: str | Sequence[str] = "neck",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> type:
    """Return a subclass of a trainer that plugs the network it builds.

    Trainers whose ``get_model(cfg, weights, verbose)`` builds the network (ultralytics) otherwise lose the plugs.
    Checkpoints load with or without plugs. Pass the result to ``plugged_trainer`` to add a second mechanism.

    Args:
        trainer: class of the trainer.
        mechanism: as for ``plug``.
        where: as for ``plug``; the default selects the maps that enter the head.
        start: as for ``plug``.
        input: as for ``plug``; the training size, such as ``(3, 640, 640)``, for a mechanism with an option ``size``.
        options: as for ``plug``.

    Raises:
        UserError: ``trainer`` is not a class with ``get_model``, the mechanism or an option is unknown, or the
            mechanism replaces convolutions. ``get_model`` also raises if a checkpoint has other plugs.
    """
    if not isinstance(trainer, type):
        raise UserError(f"plugged_trainer takes the class of a trainer, got an object of {type(trainer).__name__}")
    if not callable(getattr(trainer, "get_model", None)):
        raise UserError(
            f"{trainer.__name__} has no method get_model(cfg, weights, verbose): plug the network with saccade.plug "
            "and pass it to the trainer"
        )
    starts_neutral(start)
    resolved = Mechanism.resolve(mechanism)
    if resolved.spec.kind == "conv":
        raise UserError(
            f"{resolved.name} replaces convolutions, and plugged_trainer supports plugs only; name a mechanism of "
            "another kind"
        )
    resolved.check(options)
    plug_arguments = _PlugArguments(mechanism, where if isinstance(where, str) else tuple(where), start, input, options)
    return _subclass(trainer, (*getattr(trainer, "saccade_plug_arguments", ()), plug_arguments))


def _subclass(trainer: type, arguments: tuple[_PlugArguments, ...]) -> type:
    bases = (trainer,) if issubclass(trainer, _PluggedTrainerMixin) else (_PluggedTrainerMixin, trainer)
    metaclass = _PluggedTrainerType if type(trainer) is type else type(trainer)
    name = f"Plugged{trainer.__name__.removeprefix('Plugged')}"
    members = {"saccade_plug_arguments": arguments, "__module__": __name__, "__doc__": trainer.__doc__}
    return metaclass(name, bases, members)


def _network_of(weights: Any) -> nn.Module | None:
    """Return the network in ``weights``, if any.

    Raises:
        UserError: ``weights`` has no network, or one with replaced convolutions.
    """
    if weights is None:
        return None
    network = (weights.get("ema") or weights.get("model")) if isinstance(weights, Mapping) else weights
    if not isinstance(network, nn.Module):
        raise UserError(
            f"the weights must be a network, or a checkpoint that holds one as 'ema' or 'model', to see whether it has "
            f"plugs; got {type(weights).__name__}"
        )
    if next(replaced_convolutions(network), None) is not None:
        raise UserError(
            "the network of the checkpoint has replaced convolutions, which a rebuilt network does not have: "
            "saccade.unplug it first"
        )
    return network


def _check_same_plugs(trained_plugs: dict[str, Plug], new_plugs: dict[str, Plug]) -> None:
    """Raise UserError unless both have the same mechanisms, with the same options, at the same paths."""
    for path in sorted(trained_plugs.keys() | new_plugs.keys()):
        in_checkpoint, requested = (_plug_text(plugs.get(path)) for plugs in (trained_plugs, new_plugs))
        if in_checkpoint != requested:
            raise UserError(
                f"the plugs of the checkpoint are not those requested: at {path} the checkpoint has {in_checkpoint}, "
                f"and {requested} is requested; give plugged_trainer the mechanism and options of the checkpoint, or "
                "saccade.unplug the checkpoint's network first"
            )


def _plug_text(plug: Plug | None) -> str:
    if plug is None:
        return "nothing"
    options = "".join(f", {key}={value!r}" for key, value in sorted(plug.options.items()))
    return f"{plug.name}(start={'paper' if plug.a is None else 'neutral'!r}{options})"
