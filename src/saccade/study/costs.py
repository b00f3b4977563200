"""Cost of each arm of a study on this machine, measured once and stored in ``costs.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saccade.errors import UserError
from saccade.files import write_atomically
from saccade.runfiles import Costs, read
from saccade.study.plan import Study
from saccade.trust import Trust

__all__ = ["BATCH", "ArmCost", "Latency", "measure_costs", "read_costs"]

BATCH = 16
"""Batch size of ``ArmCost.batched``; a single image underuses most hardware."""


@dataclass(frozen=True)
class Latency:
    """Latency in milliseconds: median, and bounds of the middle 90 %."""

    median: float
    low: float
    high: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Latency:
        """Return the latency stored in an entry of ``costs.json``."""
        return cls(values["median"], values["low"], values["high"])


@dataclass(frozen=True)
class ArmCost:
    """Number of parameters, MACs of one image, latency of one image, and latency of a batch of ``batch`` images."""

    parameters: int
    macs: int
    latency: Latency
    batch: int
    batched: Latency
    threads: int
    device: str


def read_costs(folder: Path) -> dict[str, ArmCost]:
    """Return a mapping of arm to cost, for the arms that have been measured.

    Raises:
        UserError: ``costs.json`` is damaged.
    """
    entries = read(folder / "costs.json", Costs) or {}
    return {
        name: ArmCost(
            values["parameters"],
            values["macs"],
            Latency.from_json(values["latency_ms"]),
            values["batched"]["batch"],
            Latency.from_json(values["batched"]["latency_ms"]),
            values["threads"],
            values["device"],
        )
        for name, values in entries.items()
    }


def measure_costs(folder: str | Path, remeasure: bool = False, trust: Trust = False) -> None:
    """Measure every arm that has a finished run and write ``costs.json``; call it after all runs have ended.

    The arms take turns, so that other load affects all. If every arm has an entry, only ``remeasure`` measures again.
    ``trust`` is passed to ``saccade.load``.

    Raises:
        UserError: ``folder`` holds no study, or a saved network is damaged.
    """
    import torch

    from saccade.cost import measure_all
    from saccade.saving import describe, load

    study = Study.open(folder)
    saved: dict[str, Path] = {}
    for run in study.runs():
        if run.arm.name not in saved and run.done_record and (run.folder / "model.safetensors").exists():
            saved[run.arm.name] = run.folder
    # With ``remeasure`` the old file is not read, because it may be damaged.
    if not saved or (not remeasure and saved.keys() <= (read(study.folder / "costs.json", Costs) or {}).keys()):
        return
    costs: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(study.base.training.threads)
    try:
        for size, names in _by_size(study, saved, describe).items():
            models = [load(saved[name], trust=trust) for name in names]
            single_costs, batch_costs = (measure_all(models, size, batch=batch) for batch in (1, BATCH))
            for name, single, batch in zip(names, single_costs, batch_costs, strict=True):
                batched = {"batch": batch.batch, "latency_ms": asdict(batch.latency_ms)}
                costs[name] = asdict(single) | {"batched": batched}
    finally:
        torch.set_num_threads(threads)
    write_atomically(study.folder / "costs.json", json.dumps({name: costs[name] for name in saved}, indent=1) + "\n")


def _by_size(study: Study, saved: Mapping[str, Path], describe: Any) -> dict[tuple[int, ...], list[str]]:
    """Return a mapping of input size (C, H, W) to arm names."""
    arms_by_size: dict[tuple[int, ...], list[str]] = {}
    sizes: dict[Any, tuple[Path, tuple[int, ...]]] = {}
    arms = {arm.name: arm for arm in study.arms}
    for name, folder in saved.items():
        size = tuple(describe(folder)["input"])
        key = arms[name].recipe(study.base, 0).data.model_dump_json()
        _, first_size = sizes.setdefault(key, (folder, size))
        if size != first_size:
            raise UserError(
                f"{folder}/config.json is damaged: input is {list(size)}, the other arms have {list(first_size)}. "
                f"Delete the folder {folder} and give the same command again to repeat that run."
            )
        arms_by_size.setdefault(size, []).append(name)
    return arms_by_size
