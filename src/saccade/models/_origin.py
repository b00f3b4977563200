"""What the weights of a host were trained on: the size of the images, how they were resized, their normalisation."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_data_config
from timm.models import get_pretrained_cfg

from saccade.builders import is_builder
from saccade.errors import UserError
from saccade.models._checkpoint import metadata, saved_network
from saccade.models._own import build_own
from saccade.recipe import Model

__all__ = ["Origin", "origin"]

_STATED = ("mean", "std", "interpolation", "crop_pct")


@dataclass(frozen=True)
class Origin:
    """What is known of the weights that a host starts from.

    Attributes:
        owner: what says so.
        data: keys of a recipe's ``data`` part and their values: ``size`` (height, width), ``mean``, ``std``,
            ``interpolation``, ``crop_pct``; those that are known.
        options: options of the network that the weights need.
    """

    owner: str
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def origin(model: Model) -> Origin | None:
    """Return what is known of the weights that ``model`` starts from; None for random ones.

    A checkpoint is asked first, then timm's configuration of the network's pretrained weights.

    Raises:
        UserError: the checkpoint or the run cannot be read.
    """
    if model.init_from is not None:
        return _of_run(model, Path(model.init_from))
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        stated = {key: _value(text) for key, text in metadata(path).items()}
        options = {key: stated[key] for key in ("pad_type",) if key in stated}
        return Origin(f"model.checkpoint: {path}", {**_of_timm(model), **_data(stated)}, options)
    return Origin(f"timm's configuration of {model.name}", _of_timm(model)) if model.pretrained else None


def _of_timm(model: Model) -> dict[str, Any]:
    """What timm says of the pretrained weights of a network, of an encoder where it has one; {} without weights."""
    if is_builder(model.name):
        return _of_own(model) if model.pretrained else {}
    found = get_pretrained_cfg(str(model.options.get("encoder", model.name)))
    if found is None or not found.has_weights:
        return {}
    return _data(resolve_data_config({}, pretrained_cfg=found.to_dict()))


def _of_own(model: Model) -> dict[str, Any]:
    """What the network that a function of the user's builds says of its weights, as networks of timm's do."""
    try:
        with torch.random.fork_rng(devices=[]):
            host = build_own(model, 2, 3)
    except UserError:  # for other classes or channels it may be right; the run says what is wrong then
        return {}
    stated = getattr(host, "pretrained_cfg", None)
    return _data(resolve_data_config({}, pretrained_cfg=stated)) if isinstance(stated, dict) and stated else {}


def _of_run(model: Model, folder: Path) -> Origin:
    saved = saved_network(folder)
    host = saved["host"] or {}
    name, options = host.get("timm"), dict(host.get("options") or {})
    if name == "fcn" != model.name:  # what segmentation puts around the network that a recipe names
        name, options = options.get("encoder"), dict(options.get("encoder_options") or {})
    if name is not None and name.partition(".")[0] != model.name.partition(".")[0]:
        raise UserError(f"model.init_from: {folder} holds the network {name!r}; model.name is {model.name!r}")
    options = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans")}
    return Origin(f"model.init_from: {folder}", _data({**saved["facts"], "input_size": saved["input"]}), options)


def _data(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe's ``data`` part among those of a configuration."""
    found = {key: stated[key] for key in _STATED if stated.get(key) is not None}
    size = stated.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3:
        found["size"] = size[1] if size[1] == size[2] else list(size[1:])
    return found


def _value(text: str) -> Any:
    """The number or the numbers that ``text`` spells, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
