"""Settings that the weights of a host were trained with: image size, resizing, normalisation."""

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
from saccade.models._checkpoint import read_metadata, saved_network_config
from saccade.models._dense import encoder_of, has_encoder
from saccade.models._user_functions import build_with_function
from saccade.recipe import Model

__all__ = ["WeightSettings", "find_weight_settings"]

_DATA_KEYS = ("mean", "std", "interpolation", "crop_pct")


@dataclass(frozen=True)
class WeightSettings:
    """Settings that the weights of a host were trained with.

    Attributes:
        source: text that says where the settings were found, for messages.
        data: known values of the recipe's ``data`` section: ``size`` (height, width), ``mean``, ``std``,
            ``interpolation``, ``crop_pct``.
        options: values of ``model.options`` that the weights require; those of an encoder are in ``encoder_options``.
    """

    source: str
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def find_weight_settings(model: Model) -> WeightSettings | None:
    """Return the settings that the weights of ``model`` were trained with, or None for random weights.

    The metadata of a checkpoint takes precedence over timm's configuration of the pretrained weights.

    Raises:
        UserError: the checkpoint or the run cannot be read.
    """
    if model.init_from is not None:
        return _settings_of_run(model, Path(model.init_from))
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        metadata = {key: _parse(text) for key, text in read_metadata(path).items()}
        options = {key: metadata[key] for key in ("pad_type",) if key in metadata}
        if options and encoder_of(model) is not None and not is_builder(model.name):
            options = {"encoder_options": options}
        return WeightSettings(
            f"model.checkpoint: {path}", {**_pretrained_data(model), **_data_settings(metadata)}, options
        )
    return (
        WeightSettings(f"timm's configuration of {model.name}", _pretrained_data(model)) if model.pretrained else None
    )


def _pretrained_data(model: Model) -> dict[str, Any]:
    """Return the data settings of the pretrained weights of the network or its encoder; {} if unknown."""
    if is_builder(model.name):
        return _function_data(model) if model.pretrained else {}
    config = get_pretrained_cfg(encoder_of(model) or model.name)
    if config is None or not config.has_weights:
        return {}
    return _data_settings(resolve_data_config({}, pretrained_cfg=config.to_dict()))


def _function_data(model: Model) -> dict[str, Any]:
    """Return the data settings in ``pretrained_cfg`` of a user function's network; {} without such a dictionary."""
    try:
        with torch.random.fork_rng(devices=[]):
            host = build_with_function(model, 2, 3)
    except UserError:  # 2 classes and 3 channels are placeholders; if the real ones fail too, the run reports it
        return {}
    config = getattr(host, "pretrained_cfg", None)
    return _data_settings(resolve_data_config({}, pretrained_cfg=config)) if isinstance(config, dict) and config else {}


def _settings_of_run(model: Model, folder: Path) -> WeightSettings:
    config = saved_network_config(folder)
    host = config["host"] or {}
    name, options = host.get("timm"), dict(host.get("options") or {})
    encoder = encoder_of(model)
    if name is not None and _base(name) != _base(model.name) and has_encoder(name):
        name, options = options.get("encoder"), dict(options.get("encoder_options") or {})
    if name is not None and _base(name) not in (_base(model.name), _base(encoder)):
        raise UserError(f"model.init_from: {folder} holds the network {name!r}; model.name is {model.name!r}")
    options = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans")}
    if name is not None and _base(name) != _base(model.name) and options:
        options = {"encoder_options": options}
    data = _data_settings({**config["facts"], "input_size": config["input"]})
    return WeightSettings(f"model.init_from: {folder}", data, options)


def _base(name: str | None) -> str | None:
    """Return a timm name without the tag of its weights."""
    return None if name is None else str(name).partition(".")[0]


def _data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of ``config`` that are keys of the recipe's ``data`` section."""
    settings = {key: config[key] for key in _DATA_KEYS if config.get(key) is not None}
    size = config.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3:
        settings["size"] = size[1] if size[1] == size[2] else list(size[1:])
    return settings


def _parse(text: str) -> Any:
    """Parse ``text`` as a Python literal; return it unchanged if it is not one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
