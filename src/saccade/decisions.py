"""Settings that a recipe may leave to Saccade as ``auto``.

Before the first run of a study, their values are chosen by timing training steps of the plain host. The study stores
the values, and keeps them when resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from saccade.recipe import Recipe, Training

__all__ = ["auto_keys", "choices", "decide", "is_auto", "value_of"]

_AUTO = "auto"
_KEYS = ("training.memory_format", "training.precision")


def choices(key: str) -> tuple[str, ...]:
    """Return the values that ``auto`` can become for ``key``, the default first."""
    return tuple(value for value in get_args(Training.model_fields[_last_part(key)].annotation) if value != _AUTO)


def value_of(recipe: Recipe, key: str) -> str:
    """Return the value of ``key``, a setting that can be ``auto``."""
    value: str = getattr(recipe.training, _last_part(key))
    return value


def is_auto(key: str, value: Any) -> bool:
    """Return True if ``value`` is ``auto`` and ``key``, with any prefix, names a setting that can be ``auto``."""
    return value == _AUTO and key.endswith(_KEYS)


def auto_keys(recipes: Iterable[Recipe]) -> list[str]:
    """Return the keys that are ``auto`` in any of ``recipes``."""
    recipes = list(recipes)
    return [key for key in _KEYS if any(value_of(recipe, key) == _AUTO for recipe in recipes)]


def decide(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with its ``auto`` settings set to ``values`` (key to value)."""
    return recipe.with_overrides({key: values[key] for key in auto_keys([recipe]) if key in values})


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]
