"""Fill in recipe values that follow from the pretrained weights of the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.runfiles import read_done, read_recipe

__all__ = ["describe_resolved", "resolve"]

_GEOMETRY_KEYS = ("size", "crop_pct")
"""Keys that resize or crop images; left unset for targets with coordinates, such as masks."""
_IMAGE_TARGETS = ("label", "vector")
"""Kinds of targets without coordinates: one class index, or a vector of 0/1 labels, per image."""
_PIXEL_TARGETS = ("mask", "fixations")
"""Kinds of targets whose tasks need a network with an output per pixel."""


def resolve(recipe: Recipe, target: str) -> Recipe:
    """Return ``recipe`` with unset values set as in the training of the host's pretrained weights, if any.

    Args:
        recipe: recipe as the user wrote it.
        target: kind of target. For targets with coordinates, images keep their own size and are not cropped.

    Raises:
        UserError: the weights cannot be read, or need a network option that the recipe sets to another value.
    """
    model = recipe.model
    if not model.pretrained and model.checkpoint is None and model.init_from is None:
        return recipe
    from saccade.models import find_weight_settings  # imports timm

    origin = find_weight_settings(model)
    if origin is None:
        return recipe
    settings: dict[str, Any] = {}
    for key, value in origin.data.items():
        moves_target = key in _GEOMETRY_KEYS and target not in _IMAGE_TARGETS
        has_no_effect = key == "crop_pct" and recipe.data.resize != "crop"
        if getattr(recipe.data, key) is None and not (moves_target or has_no_effect):
            settings[f"data.{key}"] = value
    for key, value in origin.options.items():
        settings[f"model.options.{key}"] = _with_required(model.options, key, value, origin.source)
    if start := _previous_start(recipe, target):
        settings["attention.start"] = start
    try:
        return recipe.with_overrides(settings)
    except UserError as error:
        message = str(error).removeprefix("settings: ")
        raise UserError(f"{origin.source}: {message}; set the value in the recipe") from None


def describe_resolved(requested: Recipe, resolved: Recipe) -> str | None:
    """Return a sentence that lists the values set by :func:`resolve`; None if it set no value."""
    before, after = (dict(_flatten(recipe.model_dump(mode="json"))) for recipe in (requested, resolved))
    new = [f"{key} = {value!r}" for key, value in after.items() if before.get(key) != value]
    return f"Set to the values that the host's weights were trained with: {', '.join(new)}." if new else None


def _with_required(options: Mapping[str, Any], key: str, value: Any, source: str, prefix: str = "") -> Any:
    """Return the option ``key`` as the recipe sets it, else ``value``; a table is completed key by key.

    Raises:
        UserError: the recipe sets another pad_type than the weights in ``source`` need.
    """
    if key not in options:
        return value
    if isinstance(value, Mapping) and isinstance(options[key], Mapping):
        inner = {name: _with_required(options[key], name, value[name], source, f"{prefix}{key}.") for name in value}
        return {**options[key], **inner}
    if key == "pad_type" and options[key] != value:
        raise UserError(
            f"{source} needs model.options.{prefix}pad_type = {value!r}; the recipe says {options[key]!r}. The weights "
            "would load but lose accuracy; remove the option from the recipe"
        )
    return options[key]


def _previous_start(recipe: Recipe, target: str) -> str | None:
    """Return ``attention.start`` of the run ``model.init_from`` if ``recipe`` has the same plugs, else None.

    Their weights are loaded, so the start must be the same.
    """
    if recipe.model.init_from is None or recipe.attention.start != "auto":
        return None
    from saccade.models import DEFAULT_DETECTOR, is_dense, is_detector, saved_network_config

    folder, name = Path(recipe.model.init_from), recipe.model.name
    previous, done = read_recipe(folder / "recipe.toml"), read_done(folder / "done.json")
    if previous is None or done is None:
        return None
    has_same_plugs = all(
        getattr(previous.attention, key) == getattr(recipe.attention, key) for key in ("mechanism", "control", "where")
    )
    # Site paths change if the network becomes the encoder of another network.
    host_name = name.partition(".")[0]
    if target in _PIXEL_TARGETS and not is_dense(name):
        host_name = "fcn"
    elif target == "objects" and not is_detector(name):
        host_name = DEFAULT_DETECTOR
    saved_name = (saved_network_config(folder)["host"] or {}).get("timm")
    if has_same_plugs and (saved_name is None or saved_name.partition(".")[0] == host_name):
        return done.get("start")
    return None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs
