"""File of ``HeldGates``: tensors and JSON in one safetensors file, valid for one network on one set of images."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

import saccade
from saccade.explanation.held_gates import ALL_GATES, GateFacts, HeldGates, Plan
from saccade.files import write_atomically
from saccade.metrics.rows import Rows, count_images
from saccade.tasks.base import Task

__all__ = ["FILE", "held_gates_key", "read_held_gates", "write_held_gates"]

FILE = "held_gates.safetensors"
"""Name of the file in a run's folder."""
_FORMAT = 1
"""Increase when the results of the same network change."""


def held_gates_key(folder: Path, task: Task) -> str:
    """Return a digest of the run in ``folder`` and of the images of ``task``.

    Raises:
        OSError: a file of the run cannot be read.
    """
    digest = hashlib.sha256(f"{_FORMAT} {saccade.__version__} {task.data.fingerprint}".encode())
    for name in ("recipe.toml", "config.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def write_held_gates(path: Path, key: str, results: HeldGates) -> None:
    """Write the results; a folder that cannot be written is left as it is."""
    tensors: dict[str, Tensor] = {f"own|{column}": values for column, values in results.own.items()}
    for kind in ("held", "other"):
        for n, rows in enumerate(getattr(results, kind).values()):
            # The truth, and all of a gate that does not matter, is stored once.
            tensors |= {f"{kind}{n}|{k}": v for k, v in rows.items() if not _equal(v, results.own[k])}
    facts = {
        "plan": asdict(results.plan), "n_images": results.n_images, "n_training": results.n_training,
        "gates": {gate: asdict(facts) for gate, facts in results.gates.items()}, "names": list(results.held),
        "skipped": dict(results.skipped),
    }  # fmt: skip
    metadata = {"key": key, "facts": json.dumps(facts)}
    with suppress(OSError):
        write_atomically(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


def read_held_gates(path: Path, key: str) -> HeldGates | None:
    """Return the results stored under ``key``; None if there is no such file, or a broken one."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        facts = json.loads(metadata["facts"])
        own = _columns(tensors, "own")
        changed: dict[str, dict[str, Rows]] = {
            kind: {name: own | _columns(tensors, f"{kind}{n}") for n, name in enumerate(facts["names"])}
            for kind in ("held", "other")
        }
        for rows in (own, *changed["held"].values(), *changed["other"].values()):
            if rows and (rows.keys() != own.keys() or count_images(rows) != facts["n_images"]):
                return None
        gates = {str(gate): _gate_facts(**each) for gate, each in facts["gates"].items()}
        if not gates.keys() >= set(facts["names"]) - {ALL_GATES}:
            return None
        plan = Plan(**{name: int(value) for name, value in facts["plan"].items()})
        skipped = {str(gate): str(reason) for gate, reason in facts["skipped"].items()}
        return HeldGates(plan, int(facts["n_images"]), int(facts["n_training"]), own, gates, changed["held"],
                         changed["other"], skipped)  # fmt: skip
    except Exception:  # a damaged file may raise anything; the results are computed again
        return None


def _gate_facts(shape: list[int], constant: bool, **values: float) -> GateFacts:
    """Return the facts; raise ValueError if a value is not finite."""
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("a value is not finite")
    numbers = {name: float(value) for name, value in values.items()}
    return GateFacts(shape=tuple(map(int, shape)), constant=bool(constant), **numbers)


def _columns(tensors: dict[str, Tensor], prefix: str) -> Rows:
    """Return the columns of one set of rows."""
    return {name.partition("|")[2]: values for name, values in tensors.items() if name.startswith(f"{prefix}|")}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
