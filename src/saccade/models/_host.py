"""Build the host that a recipe names, by timm or a function of the user's, from a checkpoint where one is given."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg, is_model, list_models, model_entrypoint
from torch import Tensor, nn

from saccade.builders import is_builder
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.models._own import build_own, saved_as
from saccade.recipe import Model
from saccade.trust import fetching

__all__ = ["create_host", "host_as_saved", "is_dense"]

_log = logging.getLogger("saccade")


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
    if fetched := fetching(model.options, "model.options"):
        raise UserError(
            f"model.options: {brief(fetched)} fetches weights or opens a file; model.pretrained = true and "
            "model.checkpoint say where the weights come from"
        )
    if model.pretrained and model.checkpoint:
        raise UserError("model.pretrained and model.checkpoint exclude each other; give one of them")
    host = build_own(model, classes, channels) if is_builder(model.name) else _of_timm(model, classes, channels)
    if model.checkpoint:
        _start_from(host, Path(model.checkpoint))
    return host


def host_as_saved(model: Model, classes: int, channels: int) -> Mapping[str, Any]:
    """Return how :func:`create_host` makes the host, as ``saccade.save`` takes it."""
    if is_builder(model.name):
        return saved_as(model, classes, channels)
    return {"timm": model.name, "options": {**model.options, "num_classes": classes, "in_chans": channels}}


def _of_timm(model: Model, classes: int, channels: int) -> nn.Module:
    name = model.name.partition(".")[0]
    if not is_model(name):
        raise UserError(f"timm knows no network {name!r}.{did_you_mean(name, list_models())}")
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
    in_head = {key for key in own if any(key.startswith(f"{path}.") for path in _head(host))}
    left_out: list[str] = []
    wrong: list[str] = []
    missing: list[str] = []
    for key, value in own.items():
        if key not in weights:
            missing.append(key)
        elif weights[key].shape != value.shape:
            (left_out if key in in_head else wrong).append(
                f"{key} {tuple(weights[key].shape)} for {tuple(value.shape)}"
            )
    headless = bool(missing) and set(missing) == in_head
    foreign = [key for key in weights if key not in own]
    if foreign or wrong or (missing and not headless):
        parts = (("missing", missing), ("unknown", foreign), ("of another shape", wrong))
        found = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}"
                          for what, keys in parts if keys)  # fmt: skip
        raise UserError(f"model.checkpoint: {path} holds the weights of another network ({found})")
    if headless:
        _log.warning("%s has no head; it starts at random", path)
    elif left_out:
        _log.warning("%s: the head is of another size and is left out (%s)", path, "; ".join(left_out))
    fresh = in_head if headless or left_out else set()
    host.load_state_dict({key: value if key in fresh else weights[key] for key, value in own.items()})


def _head(host: nn.Module) -> set[str]:
    """Return the paths of the host's classifiers, as timm declares them."""
    declared = getattr(host, "default_cfg", {}).get("classifier") or ()
    return {declared} if isinstance(declared, str) else set(declared)


def _siblings(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
