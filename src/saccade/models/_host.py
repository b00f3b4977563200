"""Build the host that a recipe names, by timm or a function of the user's, from a checkpoint where one is given."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model, list_models, model_entrypoint
from torch import nn

from saccade.builders import is_builder
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.models._checkpoint import start_from
from saccade.models._own import build_own, saved_as
from saccade.recipe import Model
from saccade.trust import find_fetching_option

__all__ = ["create_host", "host_as_saved", "is_dense"]


def create_host(model: Model, classes: int, channels: int) -> nn.Module:
    """Build the network that ``model`` describes, with a head for ``classes`` and a stem for ``channels``.

    Weights that are not loaded are drawn from torch's global generator.

    Args:
        model: name, options, and where its weights come from.
        classes: outputs of the head.
        channels: of the images, 1 or 3.

    Raises:
        UserError: there is no such network, the network has no such option, or the weights cannot be had or do not fit.
    """
    for key in ("num_classes", "in_chans"):
        if key in model.options:
            raise UserError(f"model.options: {key} follows from the data; leave it out")
    if fetched := find_fetching_option(model.options, "model.options"):
        raise UserError(
            f"model.options: {brief(fetched)} fetches weights or opens a file; model.pretrained = true and "
            "model.checkpoint say where the weights come from"
        )
    sources = {"pretrained": model.pretrained, "checkpoint": model.checkpoint, "init_from": model.init_from}
    if len(given := [f"model.{key}" for key, value in sources.items() if value]) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other; give one of them")
    host = build_own(model, classes, channels) if is_builder(model.name) else _of_timm(model, classes, channels)
    start_from(host, model)
    return host


def host_as_saved(model: Model, classes: int, channels: int) -> Mapping[str, Any]:
    """Return how :func:`create_host` makes the host, as ``saccade.save`` takes it."""
    if is_builder(model.name):
        return saved_as(model, classes, channels)
    return {"timm": model.name, "options": {**model.options, "num_classes": classes, "in_chans": channels}}


def _of_timm(model: Model, classes: int, channels: int) -> nn.Module:
    name = model.name.partition(".")[0]
    if not is_model(name):
        module, dot, function = model.name.rpartition(".")
        own = f" A function of your own is named {module}:{function}." if dot else ""
        raise UserError(f"timm knows no network {name!r}.{did_you_mean(name, list_models())}{own}")
    try:
        host: nn.Module = timm.create_model(
            model.name, pretrained=model.pretrained, num_classes=classes, in_chans=channels, **model.options
        )
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # timm checks little itself: an option it cannot use may raise anything
        raise UserError(f"model {model.name}: {_reason(model, error)}") from error
    return host


def is_dense(name: str) -> bool:
    """Return whether the network ``name`` gives logits (B, K, H, W).

    A function of the user's own is taken to build what the task needs. Of timm's, the notes of their configuration say
    dense. A file of ``models/`` states it: ``generate_default_cfgs({"NAME.untrained": {..., "notes": ("dense",)}})``.
    """
    if is_builder(name):
        return True
    found = get_pretrained_cfg(name.partition(".")[0])
    return found is not None and "dense" in (found.notes or ())


def _reason(model: Model, error: Exception) -> str:
    """Explain timm's error in terms of the recipe."""
    name, _, tag = model.name.partition(".")
    module = sys.modules[model_entrypoint(name).__module__]
    if unknown := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        owner, option = unknown.groups()
        family = [c for c in vars(module).values() if inspect.isclass(c) and owner in (b.__name__ for b in c.__mro__)]
        known = {name for member in family for name in inspect.signature(member).parameters}
        return f"{owner} has no option {option!r}.{did_you_mean(option, known)}"
    if tag and f"Invalid pretrained tag ({tag})" in str(error):
        tags = [full.partition(".")[2] for full in list_models(f"{name}.*", pretrained=True)]
        return f"there are no weights {tag!r}.{did_you_mean(tag, tags)} There are {', '.join(tags) or 'none'}."
    if model.pretrained and not isinstance(error, TypeError):
        return f"the pretrained weights could not be had: {error} A file of them is given by model.checkpoint"
    return f"timm could not build it with options {model.options}: {error}"
