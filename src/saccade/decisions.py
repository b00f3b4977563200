"""Settings that a recipe can leave to the machine by ``auto``.

Timed training steps of the plain host decide them before the first run of a study (``saccade.training.fastest``). The
study and its runs hold the values decided on; ``auto`` asked for again matches whatever was decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from saccade.recipe import Recipe, Training

__all__ = ["choices", "decide", "is_open", "setting", "undecided"]

_AUTO = "auto"
_KEYS = ("training.memory_format", "training.precision")


def choices(key: str) -> tuple[str, ...]:
    """The values that ``auto`` can become, the default first."""
    return tuple(value for value in get_args(Training.model_fields[_last(key)].annotation) if value != _AUTO)


def setting(recipe: Recipe, key: str) -> str:
    """The value of ``key``, one of those that can be left open."""
    value: str = getattr(recipe.training, _last(key))
    return value


def is_open(key: str, value: Any) -> bool:
    """Whether ``value`` leaves the setting ``key`` (a recipe's key, or one that ends so) to the machine."""
    return value == _AUTO and key.endswith(_KEYS)


def undecided(recipes: Iterable[Recipe]) -> list[str]:
    """The keys that any of ``recipes`` leaves open."""
    recipes = list(recipes)
    return [key for key in _KEYS if any(setting(recipe, key) == _AUTO for recipe in recipes)]


def decide(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """``recipe`` with what it leaves open set to ``values`` (key -> value)."""
    return recipe.with_overrides({key: values[key] for key in undecided([recipe]) if key in values})


def _last(key: str) -> str:
    return key.rpartition(".")[2]
