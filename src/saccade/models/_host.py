"""Build the host that a recipe names, with timm or a user function, and load its checkpoint."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import is_model, list_models, model_entrypoint
from torch import nn

from saccade.builders import is_builder
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.models._checkpoint import load_initial_weights
from saccade.models._user_functions import build_with_function, function_as_saved
from saccade.recipe import Model
from saccade.trust import find_fetching_option

__all__ = ["create_host", "host_as_saved"]


def create_host(model: Model, num_classes: int, channels: int) -> nn.Module:
    """Build the host that ``model`` describes, and load its initial weights.

    Other weights are drawn at random from torch's global generator.

    Args:
        model: ``model`` section of the recipe.
        num_classes: number of outputs of the head.
        channels: number of image channels, 1 or 3.

    Raises:
        UserError: the network or an option does not exist, or the weights cannot be downloaded or read, or do not fit.
    """
    for key in ("num_classes", "in_chans"):
        if key in model.options:
            raise UserError(f"model.options: {key} follows from the data; leave it out")
    if fetching_option := find_fetching_option(model.options, "model.options"):
        raise UserError(
            f"model.options: {brief(fetching_option)} fetches weights or opens a file; model.pretrained = true and "
            "model.checkpoint say where the weights come from"
        )
    sources = {"pretrained": model.pretrained, "checkpoint": model.checkpoint, "init_from": model.init_from}
    if len(sources_given := [f"model.{key}" for key, value in sources.items() if value]) > 1:
        raise UserError(f"{' and '.join(sources_given)} exclude each other; set only one of them")
    build = build_with_function if is_builder(model.name) else _build_with_timm
    host = build(model, num_classes, channels)
    load_initial_weights(host, model)
    return host


def host_as_saved(model: Model, num_classes: int, channels: int) -> Mapping[str, Any]:
    """Return a description of the host from :func:`create_host`, for the argument ``host`` of ``saccade.save``."""
    if is_builder(model.name):
        return function_as_saved(model, num_classes, channels)
    options = {**_portable_options(model), "num_classes": num_classes, "in_chans": channels}
    return {"timm": model.name, "options": options}


def _portable_options(model: Model) -> Mapping[str, Any]:
    """Return the options without paths, by ``options_as_saved`` of the network's module if it has one."""
    module = sys.modules[model_entrypoint(model.name.partition(".")[0]).__module__]
    convert = getattr(module, "options_as_saved", None)
    return model.options if convert is None else convert(model.options)


def _build_with_timm(model: Model, num_classes: int, channels: int) -> nn.Module:
    name = model.name.partition(".")[0]
    if not is_model(name):
        module, dot, function = model.name.rpartition(".")
        hint = f" To use your own function, write {module}:{function}." if dot else ""
        raise UserError(f"timm has no network {name!r}.{did_you_mean(name, list_models())}{hint}")
    try:
        host: nn.Module = timm.create_model(
            model.name, pretrained=model.pretrained, num_classes=num_classes, in_chans=channels, **model.options
        )
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # timm does not check options: a wrong one may raise anything
        raise UserError(f"model {model.name}: {_explain_timm_error(model, error)}") from error
    return host


def _explain_timm_error(model: Model, error: Exception) -> str:
    """Return timm's error as a message in terms of the recipe, with suggestions."""
    name, _, tag = model.name.partition(".")
    module = sys.modules[model_entrypoint(name).__module__]
    if match := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        class_name, option = match.groups()
        classes = [cls for cls in vars(module).values() if inspect.isclass(cls)]
        subclasses = [cls for cls in classes if class_name in (base.__name__ for base in cls.__mro__)]
        known = {parameter for cls in subclasses for parameter in inspect.signature(cls).parameters}
        return f"{class_name} has no option {option!r}.{did_you_mean(option, known)}"
    if tag and f"Invalid pretrained tag ({tag})" in str(error):
        tags = [full_name.partition(".")[2] for full_name in list_models(f"{name}.*", pretrained=True)]
        return f"there are no weights {tag!r}.{did_you_mean(tag, tags)} There are {', '.join(tags) or 'none'}."
    if model.pretrained and not isinstance(error, TypeError):
        return f"the pretrained weights could not be downloaded: {error} Give a local file with model.checkpoint"
    return f"timm could not build the network with options {model.options}: {error}"
