"""What a study consists of: arms × seeds, one run folder each, all of it written down in ``study.toml``.

A study is a block design. One seed is one block: the same initialisation of the host, the same order of data and
augmentation for every arm. Nothing here imports torch, so that a mistake costs no waiting.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from saccade import catalog
from saccade.controls import CONTROLS
from saccade.errors import UserError, did_you_mean
from saccade.escaping import printable
from saccade.recipe import MAX_SEED, Recipe, described
from saccade.runfiles import Done, StudyFile, make_folders, read, read_recipe

__all__ = ["BASELINE", "Arm", "Run", "Study", "arms", "seeds", "shipped", "write_atomically"]

BASELINE = "none"
"""The arm without attention; first in every study."""
_MAX_SEEDS = 10_000
_MAX_RUNS = 10_000
"""The least squares of a study hold a square of its runs in memory: 800 MB at so many."""
_MAX_MARGIN = 100.0
_LONGEST = 200
"""Bytes of a folder name; file systems take 255, and temporary names are longer."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a mechanism, or a control at a mechanism's sites."""

    name: str
    """``none``, ``se``, ``eca:kernel_size=5``, ``das:where=block``, ``extra for das``, ``shuffled for das``."""
    mechanism: str
    control: str | None = None
    where: str | None = None
    """The position asked for by ``das:where=block``; None: the study's own."""

    @property
    def slug(self) -> str:
        """The name as a folder name: letters, digits, ``.``, ``_``, ``=``, ``-``.

        >>> Arm("extra for das", "das", "extra").slug
        'extra-for-das'
        """
        sliced = re.sub(r":(?=[^\[\]]*\])", "_", self.name)  # else stage[:-1] would share a folder with stage[-1]
        return re.sub(r"[^A-Za-z0-9._=-]+", "-", sliced).strip("-")


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
        done = read(self.folder / "done.json", Done)
        return done if done is not None and read_recipe(self.folder / "recipe.toml") == self.recipe else None


@dataclass(frozen=True)
class Study:
    """Arms × seeds under one recipe, and the margin (in points of top-1) within which two arms count as equal."""

    base: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    folder: Path
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuses an empty or ambiguous design.

        Raises:
            UserError: no seeds, too many runs, a seed or an arm given twice, a name that no folder can have, two arms
                of one folder name, a margin not above 0 or above 100.
        """
        neutral = {"attention.mechanism": BASELINE, "attention.control": None, "training.seed": 0}
        object.__setattr__(self, "base", self.base.having(neutral))
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
            if not 0 < len(arm.slug) <= _LONGEST or not arm.slug.strip("."):
                raise UserError(
                    f"the arm {described(arm.name)} gives no folder name: it has {len(arm.slug)} letters, digits and "
                    f"signs that a folder takes; 1 to {_LONGEST} are needed, and not dots alone"
                )
        for what, values in (("seed", self.seeds), ("arm", [arm.name for arm in self.arms])):
            if twice := _twice(values):
                raise UserError(f"the {what} {twice[0]!r} is given twice")
        if twice := _twice([arm.slug for arm in self.arms]):
            both = " and ".join(repr(arm.name) for arm in self.arms if arm.slug == twice[0])
            raise UserError(f"the arms {both} would share the folder {twice[0]!r}; study them apart")
        if not self.arms or self.arms[0].name != BASELINE:
            raise UserError(f"the first arm of a study is {BASELINE!r}: it is what the others are compared with")
        if not 0 < self.margin < math.inf:
            raise UserError(f"margin = {self.margin:g}: it must be a finite number of points of top-1 above 0")
        if self.margin > _MAX_MARGIN:
            raise UserError(f"margin = {self.margin:g}: it is at most {_MAX_MARGIN:g} points of top-1")

    def runs(self) -> list[Run]:
        """Every run: seeds outermost, so that whole blocks are complete early; arms in their order within."""
        return [self.run(arm, seed) for seed in self.seeds for arm in self.arms]

    def run(self, arm: Arm, seed: int) -> Run:
        """The run of ``arm`` with ``seed``."""
        what = {"attention.mechanism": arm.mechanism, "attention.control": arm.control, "training.seed": seed}
        recipe = self.base.having(what if arm.where is None else {**what, "attention.where": arm.where})
        return Run(arm, seed, recipe, self.folder / arm.slug / f"seed{seed}")

    def to_dict(self) -> dict[str, Any]:
        """The study without its folder, as TOML and JSON know it."""
        arms = [{k: v for k, v in vars(arm).items() if v is not None} for arm in self.arms]
        recipe = self.base.model_dump(mode="json", exclude_none=True)
        return {"margin": self.margin, "seeds": list(self.seeds), "arms": arms, "recipe": recipe}

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
            raise UserError(f"{folder} {what}")
        found = tuple(Arm(**arm) for arm in values["arms"])
        recipe, margin = Recipe.read(values["recipe"], str(path)), float(values["margin"])
        try:
            return cls(recipe, found, tuple(values["seeds"]), Path(folder), margin)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def claim(self) -> bool:
        """May this study live in its folder? True if it is there already, False if the folder is free.

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
            theirs, ours = (dict(_flat(s.to_dict())) for s in (Study.open(self.folder), self))
            other = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
            if other:
                key, more = other[0], f" (and {len(other) - 1} more)" if len(other) > 1 else ""
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
        own = (".lock", ".study.toml.")  # what a process killed in write() leaves
        if place == self.folder and (things := sorted(p.name for p in place.iterdir() if not p.name.startswith(own))):
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
            for torn in self.folder.glob(".study.toml.*"):
                torn.unlink()
            write_atomically(self.folder / "study.toml", tomli_w.dumps(self.to_dict()))
        except OSError as error:
            raise UserError(f"cannot write to {self.folder}: {error.strerror}") from None


def arms(attention: Iterable[str], controls: Iterable[str] = ()) -> tuple[Arm, ...]:
    """The arms for mechanisms and controls as the command line names them; ``none`` comes first, asked for or not.

    ``das:where=block`` is the mechanism at a position of its own. A control is ``extra``, ``noise`` or ``shuffled``
    (for every mechanism), or ``extra:das`` (for that one).

    Raises:
        UserError: an unknown mechanism, option or control, a control for a mechanism that is not compared, ``shuffled``
            for one that is neither gate nor context, any for one that takes the place of convolutions, or the same arm
            twice.
    """
    asked = [text.strip() for text in attention if text.strip()]
    if twice := _twice(asked):
        raise UserError(f"the arm {twice[0]!r} is given twice")
    at = {text: placed(text) for text in asked if text != BASELINE}
    mechanisms = list(at)
    for mechanism, _ in at.values():
        catalog.parse(mechanism)
    if not mechanisms:
        raise UserError(f"nothing to compare with {BASELINE!r}; name a mechanism, for example --attention se,das")
    found = [Arm(BASELINE, BASELINE)]
    found += [Arm(text, mechanism, where=where) for text, (mechanism, where) in at.items()]
    for text in controls:
        kind, _, target = (part.strip() for part in text.partition(":"))
        if kind not in CONTROLS:
            raise UserError(
                f"there is no control {kind!r}.{did_you_mean(kind, CONTROLS)} Known: {', '.join(CONTROLS)}."
            )
        if target and target not in mechanisms:
            raise UserError(
                f"the control {text!r} needs {target!r} among the mechanisms compared, {', '.join(mechanisms)}."
                f"{did_you_mean(target, mechanisms)}"
            )
        meant = [target] if target else mechanisms
        _check_lending(text, kind, [at[name][0] for name in meant])
        found += [Arm(f"{kind} for {name}", at[name][0], kind, at[name][1]) for name in meant]
    if twice := _twice([arm.name for arm in found]):
        raise UserError(f"the arm {twice[0]!r} is given twice")
    return tuple(found)


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


def _check_lending(control: str, kind: str, mechanisms: Iterable[str]) -> None:
    """Raises a UserError where one of ``mechanisms`` states that it has nothing a control could take the place of."""
    for text in mechanisms:
        name, _ = catalog.parse(text)
        facts = catalog.stated(name)
        if facts is not None and facts.kind == "conv":
            raise UserError(
                f"the control {control!r} cannot be made for {name!r}, which takes the place of convolutions: what it "
                f"is compared with are the convolutions, {BASELINE!r}; name the mechanisms it is meant for, as in "
                f"{kind}:se"
            )
        if kind == "shuffled" and facts is not None and facts.kind not in ("gate", "context"):
            raise UserError(
                f"the control {control!r} cannot be made for {name!r}, a {facts.kind}: only the gate or the context "
                "of one image can be put on another; name the mechanisms it is meant for, as in shuffled:se"
            )


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
    if twice := _twice(numbers):
        raise UserError(f"seeds = {text!r}: the seed {twice[0]} is given twice")
    return tuple(numbers)


def shipped(name: str) -> Recipe:
    """A recipe that comes with the package: ``digits``, ``cifar10``, …

    An installed package holds the folder ``recipes`` itself; in a checkout it stands beside ``src``.

    Raises:
        UserError: there is no such recipe.
    """
    package = Path(__file__).parents[1]
    home = next(place for place in (package / "recipes", package.parents[1] / "recipes") if place.is_dir())
    known = sorted(path.stem for path in home.glob("*.toml"))
    if name not in known:
        raise UserError(f"no recipe is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return Recipe.load(home / f"{name}.toml")


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either its old content or all of the new."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _twice(values: Sequence[Any]) -> list[Any]:
    """The values that stand there more than once."""
    return [value for i, value in enumerate(values) if value in values[:i]]


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists stay whole, those of arms as their names."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flat(value, f"{key}.{name}" if key else name)
    elif key == "arms":
        yield key, [arm["name"] for arm in values]
    else:
        yield key, values


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
