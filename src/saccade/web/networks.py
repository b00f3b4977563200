"""Networks of the page: those of run folders, of studies (the first seed of each arm), and other saved networks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from saccade import tasks
from saccade.cost import count_macs
from saccade.errors import UserError
from saccade.escaping import brief, printable
from saccade.explanation import PreparedNetwork, prepare
from saccade.metrics.rows import Rows
from saccade.recipe import Recipe
from saccade.runfiles import read_done, read_recipe, read_rows
from saccade.saving import describe
from saccade.study.costs import read_costs
from saccade.study.plan import Study
from saccade.trust import Trust

__all__ = ["MAX_NETWORKS", "Network", "open_networks"]

MAX_NETWORKS = 24
"""Largest number of networks of one page; all are kept in memory."""


@dataclass(frozen=True, eq=False)
class Network:
    """Network of the page.

    Attributes:
        name: name on the page, unique.
        prepared: the network with its way of reading pictures.
        labels: unique names of its classes; () if unknown.
        task: name of its task; "" if unknown.
        recipe: recipe of the run; None for a network that was only saved.
        rows: outputs for the test images; None if there are none.
        fingerprint: fingerprint of its images; "" if unknown.
        parameters: number of parameters.
        macs: multiply-adds of one image; None if they cannot be counted.
    """

    name: str
    prepared: PreparedNetwork
    labels: tuple[str, ...]
    task: str
    recipe: Recipe | None
    rows: Rows | None
    fingerprint: str
    parameters: int
    macs: int | None

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Size (C, H, W) of its images; None if it takes any."""
        frame = self.prepared.frame
        return None if frame is None else (len(self.prepared.mean), frame.height, frame.width)

    def label(self, index: int) -> str:
        """Return the name of the class ``index``."""
        return self.labels[index] if 0 <= index < len(self.labels) else f"class {index}"

    def class_index(self, label: str) -> int:
        """Return the index of the class ``label``.

        Raises:
            UserError: the network has no such class.
        """
        if label in self.labels:
            return self.labels.index(label)
        if not self.labels and (match := re.fullmatch(r"class ([0-9]{1,6})", label)):
            return int(match[1])
        raise UserError(f"This network has no class {brief(label, 80)!r}.")


def open_networks(folders: Sequence[str | Path], trust: Trust = False) -> list[Network]:
    """Load the networks in ``folders``: run folders, folders of ``saccade.save``, and studies.

    Raises:
        UserError: a folder holds no network, or there are more than ``MAX_NETWORKS``.
    """
    found: list[tuple[str, Path, int | None]] = []
    for given in folders:
        folder = Path(given)
        if (folder / "study.toml").exists():
            found += _study_runs(folder)
        else:
            found.append((_name(folder), folder, None))
    if len(found) > MAX_NETWORKS:
        raise UserError(f"{len(found)} networks are too many for one page; it shows at most {MAX_NETWORKS}")
    names = _unique([printable(name) for name, _, _ in found])
    return [_open(name, folder, macs, trust) for name, (_, folder, macs) in zip(names, found, strict=True)]


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names; one that occurred before gets the first free number.

    >>> _unique(["a", "a", "a (2)"])
    ['a', 'a (2)', 'a (2) (2)']
    """
    unique: dict[str, None] = {}
    for name in names:
        numbered = (f"{name} ({n})" for n in count(2))
        unique[name if name not in unique else next(each for each in numbered if each not in unique)] = None
    return list(unique)


def _study_runs(folder: Path) -> list[tuple[str, Path, int | None]]:
    """Return (name, folder, MACs) of the first finished seed of each arm."""
    study, runs = Study.open(folder), {}
    for run in study.runs():
        if run.arm.name not in runs and run.done_record and (run.folder / "model.safetensors").exists():
            runs[run.arm.name] = run.folder
    if not runs:
        raise UserError(f"{brief(folder)} has no finished run with a saved network")
    costs = read_costs(folder)
    return [(name, path, costs[name].macs if name in costs else None) for name, path in runs.items()]


def _name(folder: Path) -> str:
    """Return the mechanism and seed of a run, else the name of the folder."""
    recipe = read_recipe(folder / "recipe.toml")
    if recipe is None:
        return folder.resolve().name
    attention = recipe.attention
    mechanism = f"{attention.control} for {attention.mechanism}" if attention.control else attention.mechanism
    return f"{mechanism}, seed {recipe.training.seed}"


def _open(name: str, folder: Path, macs: int | None, trust: Trust) -> Network:
    prepared, recipe = prepare(folder, name, trust=trust), read_recipe(folder / "recipe.toml")
    if len(prepared.mean) not in (1, 3):
        raise UserError(f"{brief(folder)}: its input has {len(prepared.mean)} channels; 1 or 3 are needed")
    task = str(describe(folder)["facts"].get("task", ""))
    task = task if task in tasks.names() else ""
    if recipe is not None and task:
        recipe = tasks.resolve(recipe, tasks.get(task).target)
    parameters = sum(parameter.numel() for parameter in prepared.module.parameters())
    rows = None if recipe is None else read_rows(folder)
    done = None if recipe is None else read_done(folder / "done.json")
    fingerprint = str((done or {}).get("fingerprint") or "")
    network = Network(name, prepared, _labels(prepared), task, recipe, rows, fingerprint, parameters, macs)
    return network if macs is not None else replace(network, macs=_macs(network))


def _labels(prepared: PreparedNetwork) -> tuple[str, ...]:
    """Return the names of the classes; those that occur twice, as two of ImageNet's do, get their index."""
    names = [printable(prepared.class_name(i)) for i in range(len(prepared.class_names))]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))


def _macs(network: Network) -> int | None:
    try:
        return None if network.size is None else count_macs(network.prepared.module, network.size)
    except UserError:
        return None
