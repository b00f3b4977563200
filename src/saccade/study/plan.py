"""What a study consists of: arms × seeds, one run folder each, all of it written down in ``study.toml``.

A study is a block design. One seed is one block: the same order of data and augmentation for every arm, and the same
initialisation of the host for arms that share one. Nothing here imports torch, so that a mistake costs no waiting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from saccade import decisions
from saccade.errors import UserError
from saccade.escaping import printable
from saccade.files import make_folders, remove_unfinished, write_atomically
from saccade.recipe import MAX_SEED, Recipe, short_repr
from saccade.runfiles import StudyFile, read, read_done, read_recipe
from saccade.study.arms import BASELINE, Arm, repeated

__all__ = ["TUNING", "Run", "Study", "seeds"]

TUNING = "tuning"
"""The folder, in that of a tuned study, of the study that tunes its arms."""
_MAX_SEEDS = 10_000
_MAX_RUNS = 10_000
"""The least squares of a study hold a square of its runs in memory: 800 MB at so many."""
_OWN = (
    ".lock", "study.toml", "costs.json", "results.json", "report.html", "table.md", "table.tex",
)  # fmt: skip
"""Files that lie beside the folders of the arms."""
_LONGEST = 200
"""Bytes of a folder name; file systems take 255, and temporary names are longer."""


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    arm: Arm
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def finished(self) -> dict[str, Any] | None:
        """The content of ``done.json`` if the run ended and was of this very recipe, else None.

        Raises:
            UserError: it or ``recipe.toml`` is damaged.
        """
        done = read_done(self.folder / "done.json")
        return done if done is not None and read_recipe(self.folder / "recipe.toml") == self.recipe else None


@dataclass(frozen=True)
class Study:
    """Arms × seeds under one recipe, and the margin within which two arms count as equal, in the metric's unit.

    A margin of None is the metric's own. ``decided`` is what ``fastest.time_choices`` found for
    settings that were left open; empty if none was.
    """

    base: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    folder: Path
    margin: float | None = None
    decided: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuses an empty or ambiguous design.

        Raises:
            UserError: no seeds, too many runs, a seed or an arm given twice, a name that no folder can have, settings
                that no recipe can have, two arms of one folder name, a margin not above 0.
        """
        neutral = {"attention.mechanism": BASELINE, "attention.control": None, "training.seed": 0}
        object.__setattr__(self, "base", self.base.with_overrides(neutral))
        object.__setattr__(self, "arms", tuple(self.arms))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "folder", Path(self.folder))
        if not self.seeds:
            raise UserError("a study needs at least one seed; found 0")
        if (count := len(self.arms) * len(self.seeds)) > _MAX_RUNS:
            raise UserError(
                f"{len(self.arms)} arms with {len(self.seeds)} seeds are {count} runs; a study has at most {_MAX_RUNS}"
            )
        for arm in self.arms:
            if printable(arm.name) != arm.name:
                raise UserError(f"the arm {arm.name!r} has a name with control characters; plain text is needed")
            if arm.slug in _OWN:
                raise UserError(f"the arm {arm.name!r} would have the name of a file of the study; call it otherwise")
            if not 0 < len(arm.slug) <= _LONGEST or not arm.slug.strip("."):
                raise UserError(
                    f"the arm {short_repr(arm.name)} gives no folder name: it has {len(arm.slug)} letters, digits and "
                    f"signs that a folder takes; 1 to {_LONGEST} are needed, and not dots alone"
                )
        for what, values in (("seed", self.seeds), ("arm", [arm.name for arm in self.arms])):
            if twice := repeated(values):
                raise UserError(f"the {what} {twice[0]!r} is given twice")
        if twice := repeated([arm.slug for arm in self.arms]):
            both = " and ".join(repr(arm.name) for arm in self.arms if arm.slug == twice[0])
            raise UserError(f"the arms {both} would share the folder {twice[0]!r}; study them apart")
        if not self.arms or self.arms[0].name != BASELINE:
            raise UserError(f"the first arm of a study is {BASELINE!r}: it is what the others are compared with")
        first: dict[str, Arm] = {}
        for arm in self.arms:
            if strange := [seed for seed in arm.by_seed if seed not in self.seeds]:
                raise UserError(f"the arm {arm.name!r} has settings for the seed {strange[0]}, which is not studied")
            try:
                for seed in arm.by_seed:
                    arm.recipe(self.base, seed)
                recipe = arm.untuned.recipe(self.base, 0)
            except UserError as error:
                raise UserError(f"the arm {arm.name!r}: {str(error).removeprefix('settings: ')}") from None
            if (other := first.setdefault(recipe.model_dump_json(), arm)) is not arm:
                raise UserError(f"the arms {other.name!r} and {arm.name!r} are of one recipe; name it once")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise UserError(f"margin = {self.margin:g}: it must be a finite number above 0")

    def runs(self) -> list[Run]:
        """Every run: seeds outermost, so that whole blocks are complete early; arms in their order within."""
        return [self.run(arm, seed) for seed in self.seeds for arm in self.arms]

    def run(self, arm: Arm, seed: int) -> Run:
        """The run of ``arm`` with ``seed``."""
        return Run(arm, seed, arm.recipe(self.base, seed), self.folder / arm.slug / f"seed{seed}")

    def undecided(self) -> list[str]:
        """The settings that the recipe or an arm leaves open."""
        return decisions.auto_keys(arm.recipe(self.base, 0) for arm in self.arms)

    def decide(self, decided: Mapping[str, Any]) -> Study:
        """The same study with ``decided["settings"]`` in the place of what is left open.

        Raises:
            UserError: two arms become of one recipe.
        """
        values = decided["settings"]
        arms = tuple(
            replace(arm, settings={k: values[k] if decisions.is_auto(k, v) else v for k, v in arm.settings.items()})
            for arm in self.arms
        )
        return replace(self, base=decisions.decide(self.base, values), arms=arms, decided=decided)

    def to_dict(self) -> dict[str, Any]:
        """The study without its folder, as TOML and JSON know it."""
        margin = {} if self.margin is None else {"margin": self.margin}
        recipe = self.base.model_dump(mode="json", exclude_none=True)
        decided = {"decided": dict(self.decided)} if self.decided else {}
        arms = [_values(arm) for arm in self.arms]
        return {**margin, "seeds": list(self.seeds), "arms": arms, "recipe": recipe, **decided}

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """The study that ``folder`` holds.

        Raises:
            UserError: there is no ``study.toml``, or it is damaged.
        """
        path = Path(folder) / "study.toml"
        values = read(path, StudyFile)
        if values is None:
            what = "is no folder" if not Path(folder).is_dir() else "is no study: it holds no study.toml"
            if (Path(folder) / TUNING / "study.toml").exists():
                what = "holds tuning runs and no judged run yet; give the command that began it again"
            raise UserError(f"{folder} {what}")
        recipe, margin = Recipe.read(values["recipe"], str(path)), values.get("margin")
        try:
            found = tuple(_arm(arm) for arm in values["arms"])
            return cls(recipe, found, tuple(values["seeds"]), Path(folder), margin, values.get("decided", {}))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def claim(self) -> bool:
        """Return True if the folder holds this study already, False if it is free.

        Raises:
            UserError: the folder holds another study (the first differing keys are named) or other things, is a file,
                or cannot be written.
        """
        try:
            return self._claim()
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None

    def _claim(self) -> bool:
        if (self.folder / "study.toml").exists():
            theirs, ours = (dict(_flat(replace(s, decided={}).to_dict())) for s in (Study.open(self.folder), self))
            if self.margin is None:
                ours |= {key: value for key, value in theirs.items() if key == "margin"}
            ours |= {key: theirs[key] for key, value in ours.items() if key in theirs and decisions.is_auto(key, value)}
            other = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
            if other:
                key, more = other[0], f" (and {len(other) - 1} more)" if len(other) > 1 else ""
                more += "; the code of the function that builds the host changed" * key.endswith("model.code")
                raise UserError(
                    f"{self.folder} holds another study: {key} is {_shown(theirs.get(key))} there and "
                    f"{_shown(ours.get(key))} here{more}; name another folder with --out"
                )
            return True
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise UserError(f"cannot write to {self.folder}: {place} is a file, not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {self.folder}: no permission in {place}")
        own = (".lock", ".study.toml.")  # left by a process that was killed
        beside = (TUNING,) if any(arm.by_seed for arm in self.arms) else ()
        names = [] if place != self.folder else [path.name for path in place.iterdir() if path.name not in beside]
        if things := sorted(name for name in names if not name.startswith(own)):
            raise UserError(
                f"{self.folder} is no study and not empty (it holds {things[0]!r}); name a new folder with --out"
            )
        return False

    def write(self) -> None:
        """Make the folder and its ``study.toml``.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            make_folders(self.folder)
            remove_unfinished(self.folder)
            write_atomically(self.folder / "study.toml", tomli_w.dumps(self.to_dict()))
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None


def _values(arm: Arm) -> dict[str, Any]:
    """An arm as ``study.toml`` holds it."""
    settings = {"settings": dict(arm.settings)} if arm.settings else {}
    by_seed = {str(seed): dict(own) for seed, own in arm.by_seed.items()}
    return {"name": arm.name, **settings, **({"by_seed": by_seed} if by_seed else {})}


def _arm(values: Mapping[str, Any]) -> Arm:
    """An arm of ``study.toml``; earlier versions wrote the keys of its attention beside its name.

    Raises:
        UserError: ``by_seed`` names no seed.
    """
    try:
        by_seed = {int(seed): own for seed, own in values.get("by_seed", {}).items()}
    except ValueError:
        found = ", ".join(values["by_seed"])
        raise UserError(f"by_seed of the arm {values['name']!r} is for {found}; seeds are needed") from None
    if "settings" in values or values.keys() <= {"name", "by_seed"}:
        return Arm(values["name"], values.get("settings", {}), by_seed)
    settings = {f"attention.{key}": values[key] for key in ("mechanism", "control", "where") if values.get(key)}
    return Arm(values["name"], {} if values.get("mechanism") == BASELINE else settings)


def seeds(text: str) -> tuple[int, ...]:
    """A number of seeds, ``3`` for 0, 1, 2, or the seeds themselves, ``3,7,9``.

    Raises:
        UserError: no whole number, none at all, too many, one below zero or above 2⁶³ - 1, or one twice.

    >>> seeds("3"), seeds("3,7,9")
    ((0, 1, 2), (3, 7, 9))
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"seeds = {text!r}: write their number (5) or the seeds themselves (3,7,9)") from None
    if "," not in text and numbers and numbers[0] > 0:
        if numbers[0] > _MAX_SEEDS:
            raise UserError(
                f"seeds = {text!r} means that many seeds, at most {_MAX_SEEDS} can be; for the seed itself write "
                f"'{numbers[0]},'"
            )
        return tuple(range(numbers[0]))
    if not numbers or "," not in text:
        raise UserError(f"seeds = {text!r}: a study needs at least one seed")
    if min(numbers) < 0:
        raise UserError(f"seeds = {text!r}: a seed is 0 or above; found {min(numbers)}")
    if max(numbers) > MAX_SEED:
        raise UserError(f"seeds = {text!r}: a seed is at most {MAX_SEED}; found {max(numbers)}")
    if twice := repeated(numbers):
        raise UserError(f"seeds = {text!r}: the seed {twice[0]} is given twice")
    return tuple(numbers)


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists stay whole. Of arms first the names, then ``arms.NAME.key``."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flat(value, f"{key}.{name}" if key else name)
    elif key == "arms":
        yield key, [arm["name"] for arm in values]
        for arm in values:
            yield from _flat(arm.get("settings", {}), f"arms.{arm['name']}")
            yield from _flat(arm.get("by_seed", {}), f"arms.{arm['name']}.seed")
    else:
        yield key, values


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
