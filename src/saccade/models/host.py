"""The host a recipe names: made by timm, started from a file where one is given, every mistake named."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model, list_models, model_entrypoint
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.recipe import Model

__all__ = ["create_host"]

_log = logging.getLogger("saccade")


def create_host(model: Model, classes: int, channels: int) -> nn.Module:
    """The network that ``model`` describes, with a head for ``classes`` and a stem for ``channels``.

    Weights it does not load are drawn from torch's global generator.

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
    if model.pretrained and model.checkpoint:
        raise UserError("model.pretrained and model.checkpoint exclude each other; give one of them")
    try:
        host: nn.Module = timm.create_model(
            model.name, pretrained=model.pretrained, num_classes=classes, in_chans=channels, **model.options
        )
    except UserError as error:
        raise UserError(f"model {model.name}: {error}") from None
    except Exception as error:  # timm checks little itself: an option it cannot use may raise anything
        raise UserError(f"model {model.name}: {_reason(model, error)}") from error
    if model.checkpoint:
        _start_from(host, Path(model.checkpoint))
    return host


def _reason(model: Model, error: Exception) -> str:
    """What timm's error means to the one who wrote the recipe."""
    name, _, tag = model.name.partition(".")
    module = sys.modules[model_entrypoint(name).__module__]
    if unknown := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        owner, option = unknown.groups()
        options = inspect.signature(getattr(module, owner)).parameters if hasattr(module, owner) else ()
        return f"{owner} has no option {option!r}.{did_you_mean(option, options)}"
    if tag and f"Invalid pretrained tag ({tag})" in str(error):
        tags = [full.partition(".")[2] for full in list_models(f"{name}.*", pretrained=True)]
        return f"there are no weights {tag!r}.{did_you_mean(tag, tags)} There are {', '.join(tags) or 'none'}."
    if model.pretrained and not isinstance(error, TypeError):
        return f"the pretrained weights could not be had: {error}"
    return f"timm could not build it with options {model.options}: {error}"


def _start_from(host: nn.Module, path: Path) -> None:
    """Load the weights of ``path``; a head of another size stays as it was drawn, with a warning."""
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(
            f"model.checkpoint: there is no file {path}.{did_you_mean(path.name, _siblings(path))}"
        ) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.checkpoint: {path} is no readable safetensors file: {error}") from None
    own: dict[str, Tensor] = host.state_dict()
    head = _head(host)
    other = {
        key: f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    }
    left_out = [key for key in other if key.rpartition(".")[0] in head]
    wrong = [other[key] for key in other if key not in left_out]
    missing = [key for key in own if key not in weights]
    foreign = [key for key in weights if key not in own]
    if missing or foreign or wrong:
        parts = (("missing", missing), ("unknown", foreign), ("of another shape", wrong))
        found = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for what, keys in parts if keys
        )
        raise UserError(f"model.checkpoint: {path} holds the weights of another network ({found})")
    host.load_state_dict({key: own[key] if key in left_out else weights[key] for key in own})
    if left_out:
        _log.warning(
            "%s: the head is of another size and is left out (%s); it starts at random",
            path, "; ".join(other[key] for key in left_out),
        )  # fmt: skip


def _head(host: nn.Module) -> set[str]:
    """Paths of the host's classifiers, as timm declares them."""
    declared = getattr(host, "default_cfg", {}).get("classifier") or ()
    return {declared} if isinstance(declared, str) else set(declared)


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
