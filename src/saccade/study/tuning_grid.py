"""Grid of settings that the arms of a study choose from, parsed from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

from saccade import catalog
from saccade.errors import UserError, did_you_mean
from saccade.recipe import Recipe, parse_setting
from saccade.study.arms import full_key, is_shared_key

__all__ = ["Settings", "label", "tuning_grid", "values_of"]

Settings = Mapping[str, Any]
"""Maps dotted keys of a recipe to values."""
_FACTORS = (1 / 3, 1.0, 3.0)
"""Factors of the recipe's value that are tried if no values are given."""
_FIXED = ("data.size", "data.train_images", "attention.mechanism", "attention.control")
"""Keys that cannot be tuned, in addition to the shared keys and all ``model`` keys but its options."""
_MODEL_OPTIONS_PREFIX = "model.options."
"""Prefix of the model keys that can be tuned."""


def label(values: Settings) -> str:
    """Return ``values`` as text for the name of a tuning arm.

    >>> label({"training.lr": 0.01, "training.momentum": 0.9})
    'lr=0.01 momentum=0.9'
    """
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())


def tuning_grid(texts: Sequence[str], base: Recipe) -> tuple[Settings, ...]:
    """Return every combination of the settings to try; () without ``texts``.

    Args:
        texts: ``training.lr=0.01,0.03,0.1``, or ``training.lr`` for a third, one and three times the value of ``base``.
            The last part of a key, such as ``lr``, is enough.
        base: recipe of the study.

    Raises:
        UserError: a key is unknown, repeated or not tunable, a value is wrong, or the default values need a positive
            float in ``base``.
    """
    values_by_key: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, rest = (part.strip() for part in text.partition("="))
        key = _full_tunable_key(name, base)
        if key in values_by_key:
            raise UserError(f"--tune: {key} is given twice")
        values_by_key[key] = (
            [parse_setting(f"{key}={part}")[1] for part in catalog.split_list(rest)]
            if equals
            else _default_values(key, base)
        )
        if not values_by_key[key]:
            raise UserError(f"--tune {text!r}: write the values to try, as in --tune training.lr=0.01,0.03,0.1")
    if not values_by_key:
        return ()
    grid = []
    for values in product(*values_by_key.values()):
        settings = dict(zip(values_by_key, values, strict=True))
        try:
            grid.append(values_of(base.with_overrides(settings), list(values_by_key)))
        except UserError as error:
            raise UserError(f"--tune: {str(error).removeprefix('settings: ')}") from None
    return tuple(grid)


def _full_tunable_key(name: str, base: Recipe) -> str:
    """Return the dotted key that ``name`` stands for."""
    sections = base.model_dump(mode="json")
    full_keys = {
        key: f"{section}.{key}" for section in ("data", "model", "attention", "training") for key in sections[section]
    }
    key = full_key(full_keys.get(name, name))
    if key not in full_keys.values() and not key.startswith(_MODEL_OPTIONS_PREFIX):
        raise UserError(
            f"--tune {name}: the recipe has no such key.{did_you_mean(name, [*full_keys.values(), *full_keys])}"
        )
    if is_shared_key(key) or key in _FIXED or (key.startswith("model.") and not key.startswith(_MODEL_OPTIONS_PREFIX)):
        raise UserError(
            f"--tune {name}: {key} cannot be tuned, because it sets what is compared; tune training settings, for "
            "example training.lr"
        )
    return key


def _default_values(key: str, base: Recipe) -> list[Any]:
    """Return the default values of ``key``: multiples of the value in ``base``, to three digits."""
    value = values_of(base, [key])[key]
    if not isinstance(value, float) or value <= 0:
        raise UserError(f"--tune {key}: it is {value!r} in the recipe; write the values to try: --tune {key}=…,…")
    return [value if factor == 1 else float(f"{factor * value:.3g}") for factor in _FACTORS]


def values_of(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``keys`` in ``recipe``, as TOML stores them.

    Raises:
        UserError: a key is missing or its value is None.
    """
    values = recipe.model_dump(mode="json")
    try:
        settings = {key: reduce(getitem, key.split("."), values) for key in keys}
    except KeyError as error:
        raise UserError(f"the recipe does not have {error.args[0]!r}; write the values to try") from None
    if unset := [key for key, value in settings.items() if value is None]:
        raise UserError(f"{unset[0]} is None, which a recipe file cannot hold; give a value")
    return settings
