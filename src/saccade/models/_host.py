"""Build the host that a recipe names through timm, from a checkpoint where one is given."""

from __future__ import annotations

import inspect
import re
import sys

import timm
from timm.models import get_pretrained_cfg, is_model, list_models, model_entrypoint
from torch import nn

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.models._checkpoint import start_from
from saccade.recipe import Model
from saccade.trust import fetching

__all__ = ["create_host", "is_dense"]


def create_host(model: Model, classes: int, channels: int) -> nn.Module:
    """Build the network that ``model`` describes, with a head for ``classes`` and a stem for ``channels``.

    Weights that are not loaded are drawn from torch's global generator.

    Args:
        model: name, options, and where its weights come from.
        classes: outputs of the head.
        channels: of the images, 1 or 3.

    Raises:
        UserError: timm has no such network, the network no such option, or the weights cannot be had or do not fit.
    """
    name = model.name.partition(".")[0]
    if not is_model(name):
        raise UserError(f"timm knows no network {name!r}.{did_you_mean(name, list_models())}")
    for key in ("num_classes", "in_chans"):
        if key in model.options:
            raise UserError(f"model.options: {key} follows from the data; leave it out")
    if fetched := fetching(model.options, "model.options"):
        raise UserError(
            f"model.options: {brief(fetched)} fetches weights or opens a file; model.pretrained = true and "
            "model.checkpoint say where the weights come from"
        )
    sources = {"pretrained": model.pretrained, "checkpoint": model.checkpoint, "init_from": model.init_from}
    if len(given := [f"model.{key}" for key, value in sources.items() if value]) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other; give one of them")
    try:
        host: nn.Module = timm.create_model(
            model.name, pretrained=model.pretrained, num_classes=classes, in_chans=channels, **model.options
        )
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # timm checks little itself: an option it cannot use may raise anything
        raise UserError(f"model {model.name}: {_reason(model, error)}") from error
    start_from(host, model)
    return host


def is_dense(name: str) -> bool:
    """Return whether the network ``name`` gives logits (B, K, H, W): whether the notes of its configuration say dense.

    A file of ``models/`` states it to timm: ``generate_default_cfgs({"NAME.untrained": {..., "notes": ("dense",)}})``.
    """
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
        return f"the pretrained weights could not be had: {error}"
    return f"timm could not build it with options {model.options}: {error}"
