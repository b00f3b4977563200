"""What each arm of a study costs on this machine, measured once and kept as ``costs.json``."""

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
"""Images of the second latency: what a network costs when it is not fed one by one."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a batch: the median, and the range of the middle 90 %."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Latency:
        """Read an entry of ``costs.json``."""
        return cls(values["median"], values["low"], values["high"])


@dataclass(frozen=True)
class ArmCost:
    """Parameters and MACs of one image, and the latency of one and of ``batch`` images."""

    parameters: int
    macs: int
    latency: Latency
    batch: int
    batched: Latency
    threads: int
    device: str


def read_costs(folder: Path) -> dict[str, ArmCost]:
    """Arm -> its cost, as far as they are measured.

    Raises:
        UserError: ``costs.json`` is damaged.
    """
    found = read(folder / "costs.json", Costs) or {}
    return {
        name: ArmCost(
            values["parameters"],
            values["macs"],
            Latency.of(values["latency_ms"]),
            values["batched"]["batch"],
            Latency.of(values["batched"]["latency_ms"]),
            values["threads"],
            values["device"],
        )
        for name, values in found.items()
    }


def measure_costs(folder: str | Path, again: bool = False, trust: Trust = False) -> None:
    """Measure every arm that has a finished run.

    The arms take turns on the clock, so that what else the machine does hits them alike; where one has no entry yet,
    or ``again`` is asked for, all are measured. Meant for when all runs have ended. ``trust`` is that of
    ``saccade.load``.

    Raises:
        UserError: ``folder`` holds no study, or a saved network is damaged.
    """
    import torch

    from saccade.cost import measure_all
    from saccade.saving import describe, load

    study = Study.open(folder)
    saved: dict[str, Path] = {}
    for run in study.runs():
        if run.arm.name not in saved and run.finished and (run.folder / "model.safetensors").exists():
            saved[run.arm.name] = run.folder
    # Of costs that are made anew, the old ones are not looked at: they may be damaged.
    if not saved or (not again and saved.keys() <= (read(study.folder / "costs.json", Costs) or {}).keys()):
        return
    costs: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(study.base.training.threads)
    try:
        for size, names in _by_size(study, saved, describe).items():
            models = [load(saved[name], trust=trust) for name in names]
            one, many = (measure_all(models, size, batch=batch) for batch in (1, BATCH))
            for name, single, batch in zip(names, one, many, strict=True):
                batched = {"batch": batch.batch, "latency_ms": asdict(batch.latency_ms)}
                costs[name] = asdict(single) | {"batched": batched}
    finally:
        torch.set_num_threads(threads)
    write_atomically(study.folder / "costs.json", json.dumps({name: costs[name] for name in saved}, indent=1) + "\n")


def _by_size(study: Study, saved: Mapping[str, Path], describe: Any) -> dict[tuple[int, ...], list[str]]:
    """Input size -> the arms that take it.

    Raises:
        UserError: arms of one recipe for the data are saved for different sizes.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    data: dict[Any, tuple[Path, tuple[int, ...]]] = {}
    arms = {arm.name: arm for arm in study.arms}
    for name, place in saved.items():
        size = tuple(describe(place)["input"])
        key = arms[name].recipe(study.base, 0).data.model_dump_json()
        _, other = data.setdefault(key, (place, size))
        if size != other:
            raise UserError(
                f"{place}/config.json is damaged: input is {list(size)}, the other arms have {list(other)}. Delete the "
                f"folder {place} and give the same command again: that run is done anew."
            )
        found.setdefault(size, []).append(name)
    return found
