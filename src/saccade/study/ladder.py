"""The settings that the arms of a study choose from, as the command line names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

from saccade import catalog
from saccade.errors import UserError, did_you_mean
from saccade.recipe import Recipe, parse_setting
from saccade.study.arms import one_for_all, spelt_out

__all__ = ["Settings", "label", "ladder", "values_of"]

Settings = Mapping[str, Any]
"""Dotted keys of a recipe to values."""
_STEPS = (1 / 3, 1.0, 3.0)
"""The ladder around the value of the recipe, where no values are given."""
_FIXED = ("data.size", "data.train_images", "attention.mechanism", "attention.control")
"""Keys that say what an arm is or what images it sees, beside those of the study and all of ``model``."""
_MODEL = "model.options."
"""What may be tuned of a model."""


def label(values: Settings) -> str:
    """Values as the name of a tuning run has them.

    >>> label({"training.lr": 0.01, "training.momentum": 0.9})
    'lr=0.01 momentum=0.9'
    """
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())


def ladder(texts: Sequence[str], base: Recipe) -> tuple[Settings, ...]:
    """The settings to choose from; () without ``texts``.

    Args:
        texts: ``training.lr=0.01,0.03,0.1``, or ``training.lr`` for a third, one and three times the value of ``base``;
            several give every combination, no text gives no settings. ``lr`` is short for the key that ends so.
        base: the recipe.

    Raises:
        UserError: an unknown key, one that is not to tune or given twice, a wrong value, or no values for a key that
            is no positive number with a point in ``base``.
    """
    steps: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, rest = (part.strip() for part in text.partition("="))
        key = _key(name, base)
        if key in steps:
            raise UserError(f"--tune: {key} is given twice")
        steps[key] = (
            [parse_setting(f"{key}={part}")[1] for part in catalog.split(rest)] if equals else _around(key, base)
        )
        if not steps[key]:
            raise UserError(f"--tune {text!r}: write the values to try, as in --tune training.lr=0.01,0.03,0.1")
    if not steps:
        return ()
    found = []
    for values in product(*steps.values()):
        asked = dict(zip(steps, values, strict=True))
        try:
            found.append(values_of(base.with_overrides(asked), list(steps)))
        except UserError as error:
            raise UserError(f"--tune: {str(error).removeprefix('settings: ')}") from None
    return tuple(found)


def _key(name: str, base: Recipe) -> str:
    """The dotted key that ``name`` means.

    Raises:
        UserError: there is no such key, or it is not to tune.
    """
    parts = base.model_dump(mode="json")
    known = {key: f"{part}.{key}" for part in ("data", "model", "attention", "training") for key in parts[part]}
    key = spelt_out(known.get(name, name))
    if key not in known.values() and not key.startswith(_MODEL):
        raise UserError(
            f"--tune {name}: there is no such key of a recipe.{did_you_mean(name, [*known.values(), *known])}"
        )
    if one_for_all(key) or key in _FIXED or (key.startswith("model.") and not key.startswith(_MODEL)):
        raise UserError(
            f"--tune {name}: {key} says what is compared, and is one for all values; what can be tuned is how it is "
            "trained, as training.lr"
        )
    return key


def _around(key: str, base: Recipe) -> list[Any]:
    """The ladder around the value of ``base``, to three digits."""
    value = values_of(base, [key])[key]
    if not isinstance(value, float) or value <= 0:
        raise UserError(f"--tune {key}: it is {value!r} in the recipe; write the values to try: --tune {key}=…,…")
    return [value if step == 1 else float(f"{step * value:.3g}") for step in _STEPS]


def values_of(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """The values of ``keys`` in ``recipe``, as TOML holds them.

    Raises:
        UserError: one is None, or not there.
    """
    values = recipe.model_dump(mode="json")
    try:
        found = {key: reduce(getitem, key.split("."), values) for key in keys}
    except KeyError as error:
        raise UserError(f"the recipe does not have {error.args[0]!r}; write the values to try") from None
    if missing := [key for key, value in found.items() if value is None]:
        raise UserError(f"{missing[0]} is None, which TOML has no word for")
    return found
