"""Plan of a study: arms × seeds, one folder per run, stored in ``study.toml``.

Each seed is a block with one order of data and augmentation for all arms, and one initialisation for arms that share a
host. This module does not import torch, so that wrong arguments are reported at once.
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
from saccade.study.arms import BASELINE, Arm, duplicates

__all__ = ["TUNING", "Run", "Study", "parse_seeds"]

TUNING = "tuning"
"""Subfolder of a tuned study that holds its tuning runs."""
_MAX_SEEDS = 10_000
"""Largest number of seeds that one number, as in ``--seeds 3``, can request."""
_MAX_RUNS = 10_000
"""Largest number of runs; the least squares of N runs need an N × N matrix, 800 MB at this limit."""
_RESERVED_NAMES = (
    ".lock", "study.toml", "costs.json", "results.json", "report.html", "table.md", "table.tex",
    "constant_gates.json",
)  # fmt: skip
"""Names of files in the study folder, which an arm cannot have."""
_MAX_NAME_BYTES = 200
"""Largest number of bytes of a folder name; file systems allow 255, and temporary names are longer."""


@dataclass(frozen=True)
class Run:
    """Training run of one arm with one seed."""

    arm: Arm
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def done_record(self) -> dict[str, Any] | None:
        """Content of ``done.json`` if the run has ended with this recipe, else None.

        Raises:
            UserError: ``done.json`` or ``recipe.toml`` is damaged.
        """
        done = read_done(self.folder / "done.json")
        return done if done is not None and read_recipe(self.folder / "recipe.toml") == self.recipe else None


@dataclass(frozen=True)
class Study:
    """Arms × seeds under one recipe.

    Attributes:
        base: recipe shared by the arms.
        arms: arms, the baseline first.
        seeds: seeds of each arm.
        folder: folder of the study.
        margin: largest negligible difference in the metric's unit; None uses the metric's default.
        decided: result of ``fastest.time_choices``, with the chosen ``settings``; {} if no setting was open.
    """

    base: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    folder: Path
    margin: float | None = None
    decided: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Normalise and validate the design.

        Raises:
            UserError: there are no seeds or too many runs; a seed, arm, recipe or folder name is repeated; or a name,
                a setting or the margin is not allowed.
        """
        baseline_settings = {"attention.mechanism": BASELINE, "attention.control": None, "training.seed": 0}
        object.__setattr__(self, "base", self.base.with_overrides(baseline_settings))
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
            if arm.slug in _RESERVED_NAMES:
                raise UserError(f"the arm {arm.name!r} would have the name of a file of the study; choose another name")
            if not 0 < len(arm.slug) <= _MAX_NAME_BYTES or not arm.slug.strip("."):
                raise UserError(
                    f"the arm {short_repr(arm.name)} gives the folder name {short_repr(arm.slug)} of {len(arm.slug)} "
                    f"characters; 1 to {_MAX_NAME_BYTES} are needed, not only dots"
                )
        for noun, values in (("seed", self.seeds), ("arm", [arm.name for arm in self.arms])):
            if repeated := duplicates(values):
                raise UserError(f"the {noun} {repeated[0]!r} is given twice")
        if repeated := duplicates([arm.slug for arm in self.arms]):
            names = " and ".join(repr(arm.name) for arm in self.arms if arm.slug == repeated[0])
            raise UserError(f"the arms {names} would share the folder {repeated[0]!r}; put them in separate studies")
        if not self.arms or self.arms[0].name != BASELINE:
            raise UserError(f"the first arm of a study is {BASELINE!r}: it is what the others are compared with")
        arm_by_recipe: dict[str, Arm] = {}
        for arm in self.arms:
            if unknown_seeds := [seed for seed in arm.by_seed if seed not in self.seeds]:
                raise UserError(
                    f"the arm {arm.name!r} has settings for the seed {unknown_seeds[0]}, which the study does not have"
                )
            try:
                for seed in arm.by_seed:
                    arm.recipe(self.base, seed)
                recipe = arm.untuned.recipe(self.base, 0)
            except UserError as error:
                raise UserError(f"the arm {arm.name!r}: {str(error).removeprefix('settings: ')}") from None
            if (other := arm_by_recipe.setdefault(recipe.model_dump_json(), arm)) is not arm:
                raise UserError(f"the arms {other.name!r} and {arm.name!r} have the same recipe; remove one of them")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise UserError(f"margin = {self.margin:g}: it must be a finite number above 0")

    def runs(self) -> list[Run]:
        """Return all runs, seed by seed, so that blocks are complete early."""
        return [self.run(arm, seed) for seed in self.seeds for arm in self.arms]

    def run(self, arm: Arm, seed: int) -> Run:
        """Return the run of ``arm`` with ``seed``."""
        return Run(arm, seed, arm.recipe(self.base, seed), self.folder / arm.slug / f"seed{seed}")

    def undecided(self) -> list[str]:
        """Return the keys of the settings that the recipe or an arm sets to ``auto``."""
        return decisions.auto_keys(arm.recipe(self.base, 0) for arm in self.arms)

    def decide(self, decided: Mapping[str, Any]) -> Study:
        """Return the study with its open settings replaced by ``decided["settings"]``.

        Raises:
            UserError: two arms end up with the same recipe.
        """
        values = decided["settings"]
        arms = tuple(
            replace(arm, settings={k: values[k] if decisions.is_auto(k, v) else v for k, v in arm.settings.items()})
            for arm in self.arms
        )
        return replace(self, base=decisions.decide(self.base, values), arms=arms, decided=decided)

    def to_dict(self) -> dict[str, Any]:
        """Return the study without its folder, as plain values for TOML and JSON."""
        margin = {} if self.margin is None else {"margin": self.margin}
        recipe = self.base.model_dump(mode="json", exclude_none=True)
        decided = {"decided": dict(self.decided)} if self.decided else {}
        arms = [_arm_to_dict(arm) for arm in self.arms]
        return {**margin, "seeds": list(self.seeds), "arms": arms, "recipe": recipe, **decided}

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """Return the study stored in ``folder``.

        Raises:
            UserError: ``study.toml`` is missing or damaged.
        """
        path = Path(folder) / "study.toml"
        values = read(path, StudyFile)
        if values is None:
            problem = "is not a folder" if not Path(folder).is_dir() else "is not a study: it holds no study.toml"
            if (Path(folder) / TUNING / "study.toml").exists():
                problem = "holds only tuning runs so far; give the command that started the study again"
            raise UserError(f"{folder} {problem}")
        recipe, margin = Recipe.read(values["recipe"], str(path)), values.get("margin")
        try:
            arms = tuple(_arm_from_dict(arm) for arm in values["arms"])
            return cls(recipe, arms, tuple(values["seeds"]), Path(folder), margin, values.get("decided", {}))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def check_folder(self) -> bool:
        """Return True if the folder already holds this study, False if the folder is free.

        Raises:
            UserError: the folder holds another study or other files, is a file, or cannot be written.
        """
        try:
            return self._check_folder()
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None

    def _check_folder(self) -> bool:
        if (self.folder / "study.toml").exists():
            stored, given = (dict(_flatten(replace(s, decided={}).to_dict())) for s in (Study.open(self.folder), self))
            if self.margin is None:
                given |= {key: value for key, value in stored.items() if key == "margin"}
            given |= {
                key: stored[key] for key, value in given.items() if key in stored and decisions.is_auto(key, value)
            }
            differing = [key for key in {**stored, **given} if stored.get(key) != given.get(key)]
            if differing:
                key, suffix = differing[0], f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
                suffix += "; the code of the function that builds the host changed" * key.endswith("model.code")
                raise UserError(
                    f"{self.folder} holds another study: {key} is {_format_value(stored.get(key))} there and "
                    f"{_format_value(given.get(key))} here{suffix}; name another folder with --out"
                )
            return True
        existing_folder = self.folder
        while not existing_folder.exists() and existing_folder != existing_folder.parent:
            existing_folder = existing_folder.parent
        if not existing_folder.is_dir():
            raise UserError(f"cannot write to {self.folder}: {existing_folder} is a file, not a folder")
        if not os.access(existing_folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {self.folder}: no permission in {existing_folder}")
        leftover_prefixes = (".lock", ".study.toml.")  # may be left over from a killed process
        ignored = (TUNING,) if any(arm.by_seed for arm in self.arms) else ()
        paths = self.folder.iterdir() if existing_folder == self.folder else []
        names = [path.name for path in paths if path.name not in ignored]
        if unexpected := sorted(name for name in names if not name.startswith(leftover_prefixes)):
            raise UserError(
                f"{self.folder} is not a study and not empty (it holds {unexpected[0]!r}); name a new folder with --out"
            )
        return False

    def write(self) -> None:
        """Create the folder and write ``study.toml``.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            make_folders(self.folder)
            remove_unfinished(self.folder)
            write_atomically(self.folder / "study.toml", tomli_w.dumps(self.to_dict()))
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None


def _arm_to_dict(arm: Arm) -> dict[str, Any]:
    """Return an arm as plain values for ``study.toml``."""
    settings = {"settings": dict(arm.settings)} if arm.settings else {}
    by_seed = {str(seed): dict(values) for seed, values in arm.by_seed.items()}
    return {"name": arm.name, **settings, **({"by_seed": by_seed} if by_seed else {})}


def _arm_from_dict(values: Mapping[str, Any]) -> Arm:
    """Return the arm of an entry in ``study.toml``; earlier versions wrote attention keys outside ``settings``."""
    try:
        by_seed = {int(seed): settings for seed, settings in values.get("by_seed", {}).items()}
    except ValueError:
        keys = ", ".join(values["by_seed"])
        raise UserError(f"by_seed of the arm {values['name']!r} is for {keys}; seeds are needed") from None
    if "settings" in values or values.keys() <= {"name", "by_seed"}:
        return Arm(values["name"], values.get("settings", {}), by_seed)
    settings = {f"attention.{key}": values[key] for key in ("mechanism", "control", "where") if values.get(key)}
    return Arm(values["name"], {} if values.get("mechanism") == BASELINE else settings)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse a number of seeds, ``3`` for 0, 1, 2, or a list of seeds, ``3,7,9``.

    Raises:
        UserError: the text has another form, or a seed or the number of seeds is not allowed.

    >>> parse_seeds("3"), parse_seeds("3,7,9")
    ((0, 1, 2), (3, 7, 9))
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"seeds = {text!r}: write their number (5) or the seeds themselves (3,7,9)") from None
    if "," not in text and numbers and numbers[0] > 0:
        if numbers[0] > _MAX_SEEDS:
            raise UserError(
                f"seeds = {text!r} asks for {numbers[0]} seeds; at most {_MAX_SEEDS} are allowed. For the "
                f"single seed {numbers[0]} write '{numbers[0]},'"
            )
        return tuple(range(numbers[0]))
    if not numbers or "," not in text:
        raise UserError(f"seeds = {text!r}: a study needs at least one seed")
    if min(numbers) < 0:
        raise UserError(f"seeds = {text!r}: a seed is 0 or above; found {min(numbers)}")
    if max(numbers) > MAX_SEED:
        raise UserError(f"seeds = {text!r}: a seed is at most {MAX_SEED}; found {max(numbers)}")
    if repeated := duplicates(numbers):
        raise UserError(f"seeds = {text!r}: the seed {repeated[0]} is given twice")
    return tuple(numbers)


def _flatten(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; ``arms`` yields its names, then a key ``arms.NAME.KEY`` per setting."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flatten(value, f"{key}.{name}" if key else name)
    elif key == "arms":
        yield key, [arm["name"] for arm in values]
        for arm in values:
            yield from _flatten(arm.get("settings", {}), f"arms.{arm['name']}")
            yield from _flatten(arm.get("by_seed", {}), f"arms.{arm['name']}.seed")
    else:
        yield key, values


def _format_value(value: Any) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
