"""The recipe of a run with every value that the weights of its host decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.runfiles import read_done, read_recipe

__all__ = ["filled_in", "resolved"]

_OF_THE_PLANE = ("size", "crop_pct")
"""Keys that would cut away or scale what a target in the image's plane says."""
_WHOLE = ("label", "vector")
"""Kinds of targets that are of the image as a whole."""


def resolved(recipe: Recipe, target: str) -> Recipe:
    """Return ``recipe`` with what its host's weights were trained on, wherever it states nothing itself.

    A host with random weights leaves it as it is.

    Args:
        recipe: of a run, as it was asked for.
        target: the kind of target; where it lies in the image's plane, images keep their own size and are not cut.

    Raises:
        UserError: the weights cannot be read, or need an option of the network that the recipe states otherwise.
    """
    model = recipe.model
    if not model.pretrained and model.checkpoint is None and model.init_from is None:
        return recipe
    from saccade.models import origin  # brings timm

    found = origin(model)
    if found is None:
        return recipe
    settings: dict[str, Any] = {}
    for key, value in found.data.items():
        skipped = (key in _OF_THE_PLANE and target not in _WHOLE) or (
            key == "crop_pct" and recipe.data.resize != "crop"
        )
        if getattr(recipe.data, key) is None and not skipped:
            settings[f"data.{key}"] = value
    for key, value in found.options.items():
        if key not in model.options:
            settings[f"model.options.{key}"] = value
        elif key == "pad_type" and model.options[key] != value:
            raise UserError(
                f"{found.owner} needs model.options.pad_type = {value!r}; the recipe says {model.options[key]!r}. The "
                "weights would load and work worse: leave the option out"
            )
    if start := _start(recipe, target):
        settings["attention.start"] = start
    try:
        return recipe.with_overrides(settings)
    except UserError as error:
        raise UserError(f"{found.owner}: {str(error).removeprefix('settings: ')}; state it in the recipe") from None


def filled_in(asked: Recipe, whole: Recipe) -> str | None:
    """Return a sentence on what :func:`resolved` put into a recipe; None where it put nothing in."""
    before, after = (dict(_flat(recipe.model_dump(mode="json"))) for recipe in (asked, whole))
    new = [f"{key} = {value!r}" for key, value in after.items() if before.get(key) != value]
    return f"Taken from what the host's weights were trained with: {', '.join(new)}." if new else None


def _start(recipe: Recipe, target: str) -> str | None:
    """The start of the plugs of the run that ``recipe`` begins from, where it has the same: they are loaded."""
    if recipe.model.init_from is None or recipe.attention.start != "auto":
        return None
    from saccade.models import is_dense, saved_network

    folder, name = Path(recipe.model.init_from), recipe.model.name
    theirs, done = read_recipe(folder / "recipe.toml"), read_done(folder / "done.json")
    if theirs is None or done is None:
        return None
    same = all(
        getattr(theirs.attention, key) == getattr(recipe.attention, key) for key in ("mechanism", "control", "where")
    )
    # The sites of an encoder have other paths than those of the same network alone.
    around = name == "fcn" or (target == "mask" and not is_dense(name))
    same = same and around == ((saved_network(folder)["host"] or {}).get("timm") == "fcn")
    return done.get("start") if same else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found
