"""Arms of a study: the settings that each compared network adds to the study's recipe."""

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

__all__ = ["BASELINE", "Arm", "arms", "duplicates", "full_key", "is_shared_key", "split_position"]

BASELINE = "none"
"""Name of the arm without attention; first in every study."""
_SHORT_KEYS = {
    "model": "model.name",
    "pretrained": "model.pretrained",
    "checkpoint": "model.checkpoint",
    "attention": "attention.mechanism",
    "where": "attention.where",
    "start": "attention.start",
    "control": "attention.control",
}
"""Maps short keys of ``--arm`` to recipe keys."""
_SHARED_KEYS = (
    "training.seed", "training.threads", "data.source", "data.layout", "data.split_seed", "data.test_images",
    "data.test_part", "data.skip_bad", "data.score_on", "data.val_part",
)  # fmt: skip
"""Recipe keys with one value for all arms; otherwise runs would be scored on different images."""


@dataclass(frozen=True)
class Arm:
    """One network of a study and its settings.

    Attributes:
        name: ``none``, ``se``, ``eca:kernel_size=5``, ``das:where=block``, ``extra for das``, or a name chosen by the
            user.
        settings: dotted keys and values that replace those of the study's recipe.
        by_seed: seed -> further settings for its run, chosen by tuning.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    by_seed: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    @property
    def mechanism(self) -> str:
        """Text of the mechanism, or ``none``."""
        return str(self.settings.get("attention.mechanism", BASELINE))

    @property
    def control(self) -> str | None:
        """Kind of control that replaces the mechanism, or None."""
        return self.settings.get("attention.control")

    @property
    def untuned(self) -> Arm:
        """Copy of the arm without per-seed settings."""
        return replace(self, by_seed={})

    @property
    def slug(self) -> str:
        """Folder name of the arm.

        >>> Arm("extra for das").slug
        'extra-for-das'
        """
        escaped = re.sub(r":(?=[^\[\]]*\])", "_", self.name)  # so that stage[:-1] and stage[-1] have different folders
        return re.sub(r"[^A-Za-z0-9._=-]+", "-", escaped).strip("-")

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """Return the recipe of the run with ``seed``, without the base model's options if the arm's model differs."""
        settings = dict(self.settings)
        if settings.get("model.name", base.model.name) != base.model.name:
            settings = {"model.options": {}, "model.code": None, **settings}
        return base.with_overrides({**settings, **self.by_seed.get(seed, {}), "training.seed": seed})

    def shares_host(self, base: Recipe) -> bool:
        """Return True if the arm has the host of ``base``, so that runs of one seed share the initial host weights."""
        recipe = self.untuned.recipe(base, 0)
        return (recipe.model, recipe.data.size) == (base.model, base.data.size)


def arms(
    attention: Iterable[str],
    controls: Iterable[str] = (),
    others: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
) -> tuple[Arm, ...]:
    """Return the baseline ``none`` and the arms named on the command line.

    Args:
        attention: mechanisms, each with an optional position: ``das:where=block``.
        controls: ``extra``, ``noise`` or ``shuffled`` for every mechanism, or ``extra:das`` for one.
        others: other changes of the recipe, ``["NAME: key=value key=value"]`` or ``{NAME: {key: value}}``, with keys of
            the recipe or of ``_SHORT_KEYS``. A model may be a function that builds a network.

    Raises:
        UserError: a name, option or key is unknown, a control does not fit, a key must be the same for all arms, or an
            arm is repeated.
    """
    texts = [text.strip() for text in attention if text.strip()]
    if repeated := duplicates(texts):
        raise UserError(f"the arm {repeated[0]!r} is given twice")
    compared = [_mechanism_arm(text, *split_position(text)) for text in texts if text != BASELINE]
    if isinstance(others, Mapping):
        compared += [
            _make_arm(name, _setting_items(name, settings), f"the arm {name!r}") for name, settings in others.items()
        ]
    else:
        compared += [_parse_arm(text) for text in others]
    if not compared:
        raise UserError(f"nothing to compare with {BASELINE!r}; name a mechanism, for example --attention se,das")
    with_controls = [Arm(BASELINE), *compared]
    mechanism_arms = [arm for arm in compared if arm.mechanism != BASELINE and arm.control is None]
    for text in controls:
        kind, _, target = (part.strip() for part in text.partition(":"))
        if kind not in CONTROLS:
            raise UserError(
                f"there is no control {kind!r}.{did_you_mean(kind, CONTROLS)} Known: {', '.join(CONTROLS)}."
            )
        targets = [arm for arm in mechanism_arms if not target or _names_arm(target, arm)]
        if not targets:
            names = [arm.name for arm in mechanism_arms]
            compared_text = f"compared are {', '.join(names)}" if names else "no mechanism is compared"
            raise UserError(
                f"the control {text!r} needs the mechanism {target!r}; {compared_text}.{did_you_mean(target, names)}"
                if target
                else f"the control {text!r} needs a mechanism; no mechanism is compared"
            )
        with_controls += [Arm(f"{kind} for {arm.name}", {**arm.settings, "attention.control": kind}) for arm in targets]
    for arm in with_controls:
        _check_control(arm)
    if repeated := duplicates([arm.name for arm in with_controls]):
        raise UserError(f"the arm {repeated[0]!r} is given twice")
    return tuple(with_controls)


def _names_arm(target: str, arm: Arm) -> bool:
    """Return True if ``target`` is the name of ``arm`` or another spelling of its mechanism."""
    if target == arm.name:
        return True
    try:
        return _mechanism_arm(target, *split_position(target)).settings == arm.settings
    except UserError:
        return False


def _mechanism_arm(name: str, mechanism: str, where: str | None) -> Arm:
    """Return the arm called ``name`` with its mechanism in canonical form."""
    settings = {"attention.mechanism": catalog.canonical_text(mechanism)}
    return Arm(name, settings if where is None else {**settings, "attention.where": where})


def _parse_arm(text: str) -> Arm:
    """Parse ``NAME: key=value key=value``."""
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not name or not rest:
        raise UserError(
            f"--arm {text!r}: write a name and what differs, as in --arm 'wide: model.options.width=32 attention=se'"
        )
    return _make_arm(name, map(parse_setting, _split_settings(rest)), f"--arm {name}")


def _setting_items(name: str, settings: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(settings, Mapping):
        raise UserError(f"the arm {name!r} is {settings!r}; a dictionary is needed, as in {{'model': 'resnet50'}}")
    return settings.items()


def _make_arm(name: str, settings: Iterable[tuple[str, Any]], message_prefix: str) -> Arm:
    """Return the arm called ``name``; ``message_prefix`` begins error messages."""
    if name == BASELINE:
        raise UserError(
            f"{message_prefix}: {BASELINE!r} is the name of the plain network; choose another name for the arm"
        )
    try:
        return Arm(name, _validate_settings(settings))
    except UserError as error:
        raise UserError(f"{message_prefix}: {str(error).removeprefix('settings: ')}") from None


def _validate_settings(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return validated settings under full dotted keys, with values as TOML stores them."""
    settings: dict[str, Any] = {}
    for short_key, value in items:
        key = full_key(short_key)
        if "." not in key:
            raise UserError(
                f"{key!r} is not a recipe key.{did_you_mean(key, _SHORT_KEYS)} "
                f"Write section.key=value, or one of {', '.join(_SHORT_KEYS)}."
            )
        if key in settings:
            raise UserError(f"{key} is given twice")
        if is_shared_key(key):
            how = "--seeds" if key == "training.seed" else "--set"
            raise UserError(f"{key} must be the same for all arms of a study; set it with {how}")
        settings[key] = value
    model = settings.get("model.name")
    if callable(model) or (isinstance(model, str) and builders.is_builder(model)):
        settings["model.name"], settings["model.code"] = builders.identify(model)
    if "attention.mechanism" in settings:
        mechanism, where = split_position(str(settings["attention.mechanism"]))
        settings["attention.mechanism"] = mechanism if mechanism == BASELINE else catalog.canonical_text(mechanism)
        if where is not None and "attention.where" in settings:
            raise UserError("attention.where is given twice")
        if where is not None:
            settings["attention.where"] = where
    values = Recipe().with_overrides(with_absolute_paths(settings)).model_dump(mode="json")
    validated = {key: reduce(getitem, key.split("."), values) for key in settings}
    if unset := [key for key, value in validated.items() if value is None]:
        raise UserError(f"{unset[0]} is None, which a recipe file cannot hold; give a value")
    return validated


def full_key(key: str) -> str:
    """Return the full recipe key of a short key; other keys are returned unchanged."""
    return _SHORT_KEYS.get(key, key)


def is_shared_key(key: str) -> bool:
    """Return True if ``key`` sets the task or the scored images, so all arms need the same value."""
    return key in _SHARED_KEYS or key.startswith(("task.", "data.options"))


def split_position(text: str) -> tuple[str, str | None]:
    """Split the text of an arm into its mechanism and its ``where=`` position, None without one.

    Raises:
        UserError: the position is empty or repeated, or has no mechanism.

    >>> split_position("das:where=stage[:-1]:alpha=0.1")
    ('das:alpha=0.1', 'stage[:-1]')
    """
    matches = list(re.finditer(r":\s*where\s*=((?:\[[^\]]*\]|[^:\[])*)", text))
    if not matches:
        return text, None
    positions = [match[1].strip() for match in matches]
    if len(positions) > 1 or not positions[0]:
        raise UserError(
            f"{text!r}: where= names one position, as in das:where=block; found {' and '.join(map(repr, positions))}"
        )
    mechanism = text[: matches[0].start()] + text[matches[0].end() :]
    if mechanism == BASELINE:
        raise UserError(f"{text!r}: {BASELINE!r} is the network without attention, which has no position")
    return mechanism, positions[0]


def _check_control(arm: Arm) -> None:
    """Raise UserError if the mechanism of ``arm`` cannot have this kind of control."""
    if arm.control is None or arm.mechanism == BASELINE:
        return
    name, _ = catalog.parse(arm.mechanism)
    spec = catalog.declared_spec(name)
    if spec is not None and spec.kind == "conv":
        raise UserError(
            f"the control {arm.control!r} cannot be made for {name!r}, which replaces convolutions: its "
            f"control is the arm {BASELINE!r}, which keeps the host's convolutions; name the mechanisms that need the "
            f"control, as in {arm.control}:se"
        )
    if arm.control == "shuffled" and spec is not None and spec.kind not in ("gate", "context"):
        raise UserError(
            f"the control {arm.control!r} cannot be made for {name!r}, a {spec.kind}: only the gate or the context "
            "of one image can be applied to another; name the mechanisms that need the control, as in shuffled:se"
        )


def _split_settings(text: str) -> list[str]:
    """Split a text into ``key=value`` parts at spaces and commas outside quotes and brackets."""
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


def duplicates(values: Sequence[Any]) -> list[Any]:
    """Return the values that occur more than once."""
    return [value for i, value in enumerate(values) if value in values[:i]]
