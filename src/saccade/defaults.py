"""Choice of the recipe of a training: the caller's, or the built-in recipe that suits data and host."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade import builders, catalog
from saccade.data import find_layout
from saccade.recipe import Recipe, builtin_recipe, parse_setting
from saccade.recipe_paths import with_absolute_paths
from saccade.study.arms import split_position
from saccade.trust import Trust, check_mechanism

__all__ = ["Host", "Settings", "choose_recipe", "make_paths_absolute", "overrides_from"]

Host = str | Callable[..., Any] | Mapping[str, Any]
"""Host as a caller gives it: a name, a function that builds it, or a dictionary of the recipe's section ``model``,
whose ``name`` is a name or a function."""
Settings = Iterable[str] | Mapping[str, Any]
"""Changes of a recipe: ``["training.epochs=3"]``, ``{"training.epochs": 3}`` or ``{"training": {"epochs": 3}}``."""
_WEIGHT_KEYS = ("model.pretrained", "model.checkpoint", "model.init_from")
"""Keys that give the host trained weights."""
_GEOMETRY_KEYS = ("size", "resize", "augment")
"""Keys of ``data`` that move the targets of a task."""


def overrides_from(
    *,
    model: Host | None = None,
    task: str | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    skip_bad: bool = False,
    settings: Settings = (),
) -> dict[str, Any]:
    """Convert arguments of ``train`` and ``compare`` to dotted keys and values of a recipe; ``settings`` take
    precedence.

    Raises:
        UserError: one of ``settings`` has no ``=``, or the model is neither a name nor a function.
    """
    model_keys = model if isinstance(model, Mapping) else {} if model is None else {"name": model}
    overrides: dict[str, Any] = {f"model.{key}": value for key, value in model_keys.items()}
    if pretrained:
        overrides["model.pretrained"] = True
    if checkpoint is not None:
        overrides["model.checkpoint"] = os.fspath(checkpoint)
    if task is not None:
        overrides["task.name"] = task
    if skip_bad:
        overrides["data.skip_bad"] = True
    for key, value in settings.items() if isinstance(settings, Mapping) else map(parse_setting, settings):
        is_section = "." not in key and isinstance(value, Mapping)  # {"training": {"epochs": 3}}
        overrides |= {f"{key}.{name}": inner for name, inner in value.items()} if is_section else {key: value}
    if (name := overrides.get("model.name")) is not None and not isinstance(name, str):
        overrides["model.name"], overrides["model.code"] = builders.identify(name)
    return with_absolute_paths(overrides)


def choose_recipe(
    recipe: Recipe | str | Path | None,
    data: str | Path | None,
    settings: Mapping[str, Any],
    *,
    mechanism_given: bool = False,
    trust: Trust = False,
) -> Recipe:
    """Return the recipe of a new training, with ``settings`` applied.

    Without ``recipe`` the built-in recipe is chosen: ``finetune`` if ``settings`` give the host trained weights, else
    the one that suits the layout of the data.

    Args:
        recipe: recipe, path of a TOML file, or name of a built-in recipe.
        data: source of the images; its path becomes absolute.
        settings: maps dotted key to value. If ``model.name`` differs from the recipe's, the recipe's
            ``model.options`` are dropped.
        mechanism_given: True if the caller replaces the mechanism of a recipe file.
        trust: names, such as ``my.module:Class``, that a recipe file may use; see ``saccade.load``.

    Raises:
        UserError: a file, folder, name or setting is invalid, or a file uses an untrusted name.
    """
    if recipe is None:
        base = _builtin_for(data or settings.get("data.source") or "digits", settings)
    elif isinstance(recipe, Recipe):
        base = recipe
    else:
        base = _load(recipe)
        _check_names(
            base, str(recipe), settings.keys() | ({"attention.mechanism"} if mechanism_given else set()), trust
        )
    if data is not None:
        base = base.with_overrides({"data.source": os.fspath(data)})
    if settings.get("model.name", base.model.name) != base.model.name:
        base = base.with_overrides({"model.options": {}, "model.code": None, "model.name": settings["model.name"]})
    base = base.with_overrides(settings)
    if builders.is_builder(base.model.name) and base.model.code is None:
        name, code = builders.identify(base.model.name)
        base = base.with_overrides({"model.name": name, "model.code": code})
    return base if data is None else make_paths_absolute(base)


def make_paths_absolute(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with absolute paths, so that a run can be resumed from any working directory.

    Raises:
        UserError: the source of the images does not exist.
    """
    source = find_layout(recipe.data).resolve_source(recipe.data.source)
    sections = recipe.model_dump(include={"model", "training"})
    values = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    paths = {key: value for key, value in with_absolute_paths(values).items() if value != values[key]}
    return recipe.with_overrides({**paths, "data.source": source})


def _builtin_for(source: str | Path, settings: Mapping[str, Any]) -> Recipe:
    data = Recipe().with_overrides({"data.source": os.fspath(source)}).data
    layout = find_layout(data)
    task_recipe = layout.task_recipes.get(str(settings.get("task.name", "auto")))
    if any(settings.get(key) for key in _WEIGHT_KEYS):
        # The weights in settings replace those of the recipe.
        overrides: dict[str, Any] = {"model.pretrained": False}
        if task_recipe is not None:
            geometry = builtin_recipe(task_recipe).data.model_dump(mode="json", include=set(_GEOMETRY_KEYS))
            overrides |= {f"data.{key}": value for key, value in geometry.items()}
        return builtin_recipe("finetune").with_overrides(overrides)
    if task_recipe is not None:
        return builtin_recipe(task_recipe)
    name, overrides = layout.suggest_recipe(data.source)
    return builtin_recipe(name).with_overrides(overrides)


def _load(name: str | Path) -> Recipe:
    """Return the recipe in the file ``name``, or the built-in recipe of that name."""
    path = Path(name)
    is_file = isinstance(name, Path) or path.suffix != "" or len(path.parts) > 1 or path.is_file()
    return Recipe.load(path) if is_file else builtin_recipe(str(name))


def _check_names(recipe: Recipe, file: str, replaced: Collection[str], trust: Trust) -> None:
    """Raise UserError unless a recipe file's host and mechanism are Saccade's, a library's, trusted or ``replaced``."""
    if "model.name" not in replaced and builders.is_builder(recipe.model.name):
        from saccade.saving.hosts import check_host_name  # imports torch

        check_host_name({"call": recipe.model.name}, file, trust)
    if "attention.mechanism" in replaced:
        return
    for text in catalog.split_list(recipe.attention.mechanism):
        # A study removes a position from the text before reading the name; check both names.
        for name in {catalog.mechanism_name(text), catalog.mechanism_name(split_position(text)[0])}:
            if ":" in name:
                check_mechanism(name, {}, file, trust)
