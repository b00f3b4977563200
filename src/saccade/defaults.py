"""The recipe that a training begins with: the one that is named, or the built-in one that suits data and host."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade import builders, catalog
from saccade.data import layout_of
from saccade.recipe import Recipe, builtin_recipe, setting
from saccade.recipe_paths import whole_paths
from saccade.study.arms import placed
from saccade.trust import Trust, check_mechanism

__all__ = ["Host", "Settings", "asked", "choose", "located"]

Host = str | Callable[..., Any] | Mapping[str, Any]
"""A name, a function that builds a network, or keys of the recipe's part ``model``, whose ``name`` may be either."""
Settings = Iterable[str] | Mapping[str, Any]
"""Set over a recipe: ``["training.epochs=3"]``, ``{"training.epochs": 3}`` or ``{"training": {"epochs": 3}}``."""
_WEIGHTS = ("model.pretrained", "model.checkpoint", "model.init_from")
"""Keys that give the host trained weights."""


def asked(
    *,
    model: Host | None = None,
    task: str | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    skip_bad: bool = False,
    settings: Settings = (),
) -> dict[str, Any]:
    """Return the arguments of ``train`` and ``compare`` as dotted keys and values of a recipe; ``settings`` win.

    Raises:
        UserError: one of ``settings`` has no ``=``, or the model is neither a name nor a function.
    """
    parts = model if isinstance(model, Mapping) else {} if model is None else {"name": model}
    found: dict[str, Any] = {f"model.{key}": value for key, value in parts.items()}
    if pretrained:
        found["model.pretrained"] = True
    if checkpoint is not None:
        found["model.checkpoint"] = os.fspath(checkpoint)
    if task is not None:
        found["task.name"] = task
    if skip_bad:
        found["data.skip_bad"] = True
    for key, value in settings.items() if isinstance(settings, Mapping) else map(setting, settings):
        whole = "." not in key and isinstance(value, Mapping)  # {"training": {"epochs": 3}}
        found |= {f"{key}.{name}": each for name, each in value.items()} if whole else {key: value}
    if (name := found.get("model.name")) is not None and not isinstance(name, str):
        found["model.name"], found["model.code"] = builders.identify(name)
    return whole_paths(found)


def choose(
    recipe: Recipe | str | Path | None,
    data: str | Path | None,
    settings: Mapping[str, Any],
    *,
    mechanism_given: bool = False,
    trust: Trust = False,
) -> Recipe:
    """Return the recipe to begin with, ``settings`` put in.

    Without ``recipe`` it is the built-in one that suits the images: ``finetune`` where ``settings`` give the host
    trained weights, else the one that the layout of the data names.

    Args:
        recipe: a recipe, a TOML file, or the name of one that comes with the package.
        data: the source of the images; its path is kept whole.
        settings: dotted keys and values; another ``model.name`` drops the recipe's own ``model.options``.
        mechanism_given: whether the caller names the mechanism besides, which replaces that of a file.
        trust: what a recipe file may name that is not Saccade's; see ``saccade.load``.

    Raises:
        UserError: a file, folder, name or setting is wrong, or a file names what is not trusted.
    """
    if recipe is None:
        base = _suited(data or settings.get("data.source") or "digits", settings)
    elif isinstance(recipe, Recipe):
        base = recipe
    else:
        base = _read(recipe)
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
    return base if data is None else located(base)


def located(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with whole paths, so that what is begun with it goes on from any folder.

    Raises:
        UserError: there is no such source.
    """
    source = layout_of(recipe.data).located(recipe.data.source)
    parts = recipe.model_dump(include={"model", "training"})
    named = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    moved = {key: value for key, value in whole_paths(named).items() if value != named[key]}
    return recipe.with_overrides({**moved, "data.source": source})


def _suited(source: str | Path, settings: Mapping[str, Any]) -> Recipe:
    if any(settings.get(key) for key in _WEIGHTS):
        # What the recipe says of its own weights gives way to what was asked for.
        return builtin_recipe("finetune").with_overrides({"model.pretrained": False})
    spec = Recipe().with_overrides({"data.source": os.fspath(source)}).data
    name, suited = layout_of(spec).suited(spec.source)
    return builtin_recipe(name).with_overrides(suited)


def _read(name: str | Path) -> Recipe:
    """Return the recipe of the file ``name``, or the one of that name that comes with the package."""
    path = Path(name)
    is_file = isinstance(name, Path) or path.suffix != "" or len(path.parts) > 1 or path.is_file()
    return Recipe.load(path) if is_file else builtin_recipe(str(name))


def _check_names(recipe: Recipe, owner: str, replaced: Collection[str], trust: Trust) -> None:
    """Raise UserError unless a recipe out of the file ``owner`` may name its host and its mechanism.

    Raises:
        UserError: one that is not among the keys ``replaced`` is neither Saccade's or a library's nor trusted.
    """
    if "model.name" not in replaced and builders.is_builder(recipe.model.name):
        from saccade.saving.hosts import check_host_name  # imports torch

        check_host_name({"call": recipe.model.name}, owner, trust)
    if "attention.mechanism" in replaced:
        return
    for text in catalog.split(recipe.attention.mechanism):
        # As a study reads it: a list, each with a position of its own. What runs is what must be checked.
        for name in {catalog.named(text), catalog.named(placed(text)[0])}:
            if ":" in name:
                check_mechanism(name, {}, owner, trust)
