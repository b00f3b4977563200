"""The arms of a study: what is compared, each a difference of recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import getitem
from typing import Any

from saccade import builders, catalog
from saccade.controls import CONTROLS
from saccade.errors import UserError, did_you_mean
from saccade.recipe import Recipe, parse_setting
from saccade.recipe_paths import with_absolute_paths

__all__ = ["BASELINE", "Arm", "arms", "one_for_all", "placed", "repeated", "spelt_out"]

BASELINE = "none"
"""The arm without attention; first in every study."""
_SHORT = {
    "model": "model.name",
    "pretrained": "model.pretrained",
    "checkpoint": "model.checkpoint",
    "attention": "attention.mechanism",
    "where": "attention.where",
    "start": "attention.start",
    "control": "attention.control",
}
"""Short words of ``--arm`` for keys of a recipe."""
_OF_THE_STUDY = (
    "training.seed", "training.threads", "data.source", "data.layout", "data.split_seed", "data.test_images",
    "data.test_part", "data.skip_bad", "data.score_on", "data.val_part",
)  # fmt: skip
"""Keys that are one for all arms: with others the runs would be scored on other images."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Attributes:
        name: ``none``, ``se``, ``eca:kernel_size=5``, ``das:where=block``, ``extra for das``, or any other.
        settings: what its recipe has and the study's has not, dotted keys to values.
        by_seed: what it has beside that with one seed, as tuning chose it.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    by_seed: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    @property
    def mechanism(self) -> str:
        """The mechanism, ``none`` without one."""
        return str(self.settings.get("attention.mechanism", BASELINE))

    @property
    def control(self) -> str | None:
        """The control that stands in the mechanism's place."""
        return self.settings.get("attention.control")

    @property
    def untuned(self) -> Arm:
        """The arm with one recipe for all seeds."""
        return replace(self, by_seed={})

    @property
    def slug(self) -> str:
        """The name as a folder name: letters, digits, ``.``, ``_``, ``=``, ``-``.

        >>> Arm("extra for das").slug
        'extra-for-das'
        """
        sliced = re.sub(r":(?=[^\[\]]*\])", "_", self.name)  # else stage[:-1] would share a folder with stage[-1]
        return re.sub(r"[^A-Za-z0-9._=-]+", "-", sliced).strip("-")

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """The recipe of its run with ``seed``. Another model does not take over the options of the base's."""
        settings = dict(self.settings)
        if settings.get("model.name", base.model.name) != base.model.name:
            settings = {"model.options": {}, "model.code": None, **settings}
        return base.with_overrides({**settings, **self.by_seed.get(seed, {}), "training.seed": seed})

    def shares_host(self, base: Recipe) -> bool:
        """Whether its host is that of ``base``, so that runs of one seed start from the same host weights."""
        recipe = self.untuned.recipe(base, 0)
        return (recipe.model, recipe.data.size) == (base.model, base.data.size)


def arms(
    attention: Iterable[str],
    controls: Iterable[str] = (),
    others: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
) -> tuple[Arm, ...]:
    """The arms as the command line names them; ``none`` comes first, asked for or not.

    Args:
        attention: mechanisms; ``das:where=block`` is one at a position of its own.
        controls: ``extra``, ``noise`` or ``shuffled`` (for every mechanism), or ``extra:das`` (for that one).
        others: any difference of recipe, ``["NAME: key=value key=value"]`` or ``{NAME: {key: value}}``; ``model``,
            ``attention``, ``where``, ``start``, ``control``, ``pretrained`` and ``checkpoint`` are short for the keys
            of a recipe. A model may be a function that builds a network.

    Raises:
        UserError: an unknown mechanism, option, control or key, a control for a mechanism that is not compared,
            ``shuffled`` for one that is neither gate nor context, any for one that takes the place of convolutions, a
            key that is one for all arms, or the same arm twice.
    """
    asked = [text.strip() for text in attention if text.strip()]
    if twice := repeated(asked):
        raise UserError(f"the arm {twice[0]!r} is given twice")
    found = [_at(text, *placed(text)) for text in asked if text != BASELINE]
    if isinstance(others, Mapping):
        found += [_differing(name, _items(name, settings), f"the arm {name!r}") for name, settings in others.items()]
    else:
        found += [_parsed(text) for text in others]
    if not found:
        raise UserError(f"nothing to compare with {BASELINE!r}; name a mechanism, for example --attention se,das")
    with_controls = [Arm(BASELINE), *found]
    plugged = [arm for arm in found if arm.mechanism != BASELINE and arm.control is None]
    for text in controls:
        kind, _, target = (part.strip() for part in text.partition(":"))
        if kind not in CONTROLS:
            raise UserError(
                f"there is no control {kind!r}.{did_you_mean(kind, CONTROLS)} Known: {', '.join(CONTROLS)}."
            )
        meant = [arm for arm in plugged if not target or _means(target, arm)]
        if not meant:
            names = [arm.name for arm in plugged]
            raise UserError(
                f"the control {text!r} needs {f'{target!r} among the' if target else ''} mechanisms compared, "
                f"{', '.join(names) or 'of which there are none'}.{did_you_mean(target, names)}"
            )
        with_controls += [Arm(f"{kind} for {arm.name}", {**arm.settings, "attention.control": kind}) for arm in meant]
    for arm in with_controls:
        _check_lending(arm)
    if twice := repeated([arm.name for arm in with_controls]):
        raise UserError(f"the arm {twice[0]!r} is given twice")
    return tuple(with_controls)


def _means(target: str, arm: Arm) -> bool:
    """Whether ``target`` is the name of ``arm``, or spells its mechanism otherwise."""
    if target == arm.name:
        return True
    try:
        return _at(target, *placed(target)).settings == arm.settings
    except UserError:
        return False


def _at(name: str, mechanism: str, where: str | None) -> Arm:
    """The arm of a mechanism, checked, under the name that files keep.

    Raises:
        UserError: an unknown mechanism or option.
    """
    settings = {"attention.mechanism": catalog.canonical_text(mechanism)}
    return Arm(name, settings if where is None else {**settings, "attention.where": where})


def _parsed(text: str) -> Arm:
    """The arm ``NAME: key=value key=value``.

    Raises:
        UserError: it is written otherwise, or a key is unknown, is one for all arms, or has a wrong value.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not name or not rest:
        raise UserError(
            f"--arm {text!r}: write a name and what differs, as in --arm 'wide: model.options.width=32 attention=se'"
        )
    return _differing(name, map(parse_setting, _split(rest)), f"--arm {name}")


def _items(name: str, settings: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(settings, Mapping):
        raise UserError(f"the arm {name!r} is {settings!r}; a dictionary is needed, as in {{'model': 'resnet50'}}")
    return settings.items()


def _differing(name: str, settings: Iterable[tuple[str, Any]], owner: str) -> Arm:
    """The arm ``name`` whose recipe has these keys and values; ``owner`` begins the messages.

    Raises:
        UserError: as :func:`_settings`, or the name is that of the plain network.
    """
    if name == BASELINE:
        raise UserError(f"{owner}: {BASELINE!r} is the name of the plain network; give the arm another")
    try:
        return Arm(name, _settings(settings))
    except UserError as error:
        raise UserError(f"{owner}: {str(error).removeprefix('settings: ')}") from None


def _settings(given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted keys and values, as TOML holds them, of ``given``, whose keys may be short.

    Raises:
        UserError: a key is unknown, given twice or one for all arms, or a value is wrong.
    """
    settings: dict[str, Any] = {}
    for short, value in given:
        key = spelt_out(short)
        if "." not in key:
            raise UserError(
                f"{key!r} is no key of a recipe.{did_you_mean(key, _SHORT)} "
                f"Write part.key=value, or one of {', '.join(_SHORT)}."
            )
        if key in settings:
            raise UserError(f"{key} is given twice")
        if one_for_all(key):
            how = "--seeds" if key == "training.seed" else "--set"
            raise UserError(f"{key} is one for all arms of a study; set it with {how}")
        settings[key] = value
    model = settings.get("model.name")
    if callable(model) or (isinstance(model, str) and builders.is_builder(model)):
        settings["model.name"], settings["model.code"] = builders.identify(model)
    if "attention.mechanism" in settings:
        mechanism, where = placed(str(settings["attention.mechanism"]))
        settings["attention.mechanism"] = mechanism if mechanism == BASELINE else catalog.canonical_text(mechanism)
        if where is not None and "attention.where" in settings:
            raise UserError("attention.where is given twice")
        if where is not None:
            settings["attention.where"] = where
    values = Recipe().with_overrides(with_absolute_paths(settings)).model_dump(mode="json")
    found = {key: reduce(getitem, key.split("."), values) for key in settings}
    if missing := [key for key, value in found.items() if value is None]:
        raise UserError(f"{missing[0]} is None, which TOML has no word for")
    return found


def spelt_out(key: str) -> str:
    """The key of a recipe that a short word of ``--arm`` means; any other as it is."""
    return _SHORT.get(key, key)


def one_for_all(key: str) -> bool:
    """Whether all runs of a study have one value of ``key``: another would score them on other images or tasks."""
    return key in _OF_THE_STUDY or key.startswith(("task.", "data.options"))


def placed(text: str) -> tuple[str, str | None]:
    """The mechanism of an arm, and the position it names for itself.

    Raises:
        UserError: it names an empty one, or several, or one for no mechanism.

    >>> placed("das:where=stage[:-1]:alpha=0.1")
    ('das:alpha=0.1', 'stage[:-1]')
    """
    found = list(re.finditer(r":\s*where\s*=((?:\[[^\]]*\]|[^:\[])*)", text))
    if not found:
        return text, None
    places = [match[1].strip() for match in found]
    if len(places) > 1 or not places[0]:
        raise UserError(
            f"{text!r}: where= names one position, as in das:where=block; found {' and '.join(map(repr, places))}"
        )
    mechanism = text[: found[0].start()] + text[found[0].end() :]
    if mechanism == BASELINE:
        raise UserError(f"{text!r}: {BASELINE!r} is the network without attention, which has no position")
    return mechanism, places[0]


def _check_lending(arm: Arm) -> None:
    """Raise UserError where ``arm`` is a control of a mechanism that states it has nothing to lend its place.

    Raises:
        UserError: it takes the place of convolutions, or ``shuffled`` is asked of neither gate nor context.
    """
    if arm.control is None or arm.mechanism == BASELINE:
        return
    name, _ = catalog.parse(arm.mechanism)
    facts = catalog.stated(name)
    if facts is not None and facts.kind == "conv":
        raise UserError(
            f"the control {arm.control!r} cannot be made for {name!r}, which takes the place of convolutions: what it "
            f"is compared with are the convolutions, {BASELINE!r}; name the mechanisms it is meant for, as in "
            f"{arm.control}:se"
        )
    if arm.control == "shuffled" and facts is not None and facts.kind not in ("gate", "context"):
        raise UserError(
            f"the control {arm.control!r} cannot be made for {name!r}, a {facts.kind}: only the gate or the context "
            "of one image can be put on another; name the mechanisms it is meant for, as in shuffled:se"
        )


def _split(text: str) -> list[str]:
    """The parts ``key=value`` of a text, at blanks and commas outside quotes and brackets."""
    starts, depth, quote = [0], 0, ""
    for n, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in " \t," and not depth and re.match(r"[\s,]+[\w.]+\s*=", text[n:]):
            starts.append(n)
    parts = [text[a:b].strip(" \t,") for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [part for part in parts if part]


def repeated(values: Sequence[Any]) -> list[Any]:
    """The values that stand there more than once."""
    return [value for i, value in enumerate(values) if value in values[:i]]
