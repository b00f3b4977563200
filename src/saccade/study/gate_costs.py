"""Costs, in a study's score, of holding a gate at its mean and of using the gate of another image.

Nothing is trained. A cost is the difference to the same network with its own gates, paired over seeds and images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from saccade.errors import UserError
from saccade.explanation.held_gates import ALL_GATES, GateFacts, HeldGates, Plan, count_gates, hold_gates
from saccade.explanation.held_gates_file import FILE, held_gates_key, read_held_gates, write_held_gates
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows
from saccade.saving import load
from saccade.study import pseudovalues
from saccade.study.arms import Arm
from saccade.study.blocks import t_quantile
from saccade.study.costs import ArmCost
from saccade.study.findings import Difference
from saccade.study.opening import check_saved, task_of
from saccade.study.precision import image_df
from saccade.study.stats import analyse
from saccade.tasks.base import Task
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["REPORT_SECONDS", "ArmGates", "GateCost", "Reading", "gates_of_results"]

REPORT_SECONDS = 30.0
"""Longest estimated time per run that a report spends on measuring."""
_MACS_PER_SECOND = 2e10
"""Assumed speed; not measured, so that the same study always gets the same plan."""
_PLANS = (Plan(), Plan(gates=0), Plan(images=200, training_images=128, gates=0))
"""Plans from which a time limit chooses the first that fits."""

Floats = NDArray[np.float64]
Reading = Literal["constant", "depends on the image", "not decided"]
"""Conclusion from the cost of holding a gate at its mean.

``constant``: the whole interval is better than −margin, or the gate is the same for all images. ``depends on the
image``: else, if the whole interval is worse than zero, or each network by itself is worse on its test images.
"""


@dataclass(frozen=True)
class GateCost:
    """One gate of an arm, or all of them.

    Attributes:
        path: path of the gate, or ``ALL_GATES``.
        facts: facts over all seeds: extremes of range, means of mean and spread; None for all gates.
        held: difference to the own gates with the gate at its mean; + is better.
        other: the same with the gate of another image.
        reading: conclusion from ``held``.
    """

    path: str
    facts: GateFacts | None
    held: Difference
    other: Difference
    reading: Reading


@dataclass(frozen=True)
class ArmGates:
    """Gates of one arm.

    Attributes:
        arm: name of the arm.
        seeds: seeds of the runs.
        own: score of each run with its own gates, on the images measured.
        n_images: number of these test images.
        n_training: number of training images of the means.
        n_gates: number of gates of the network.
        gates: costs of the gates; all together first.
        skipped: path -> reason why a gate is not changed.
        seconds: estimated time per run, if that is why nothing was measured; else None.
    """

    arm: str
    seeds: tuple[int, ...]
    own: tuple[float | None, ...] = ()
    n_images: int = 0
    n_training: int = 0
    n_gates: int = 0
    gates: tuple[GateCost, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = []
        for gate in self.gates:
            row: dict[str, Any] = {"path": gate.path, "reading": gate.reading}
            row |= {} if gate.facts is None else asdict(gate.facts) | {"shape": list(gate.facts.shape)}
            for kind, cost in (("held", gate.held), ("other", gate.other)):
                keys = ("difference", "low", "high", "seeds", "margin", "unit", "reason")
                row[kind] = {key: getattr(cost, key) for key in keys} | {"raw": list(cost.raw)}
            rows.append(row)
        more = {"seeds": list(self.seeds), "own": list(self.own), "gates": rows, "skipped": dict(self.skipped)}
        return {field.name: getattr(self, field.name) for field in fields(self)} | more


def gates_of_results(
    results: StudyResults,
    task: Task,
    trust: Trust = False,
    limit: float | None = REPORT_SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ArmGates, ...]:
    """Return the costs of constant gates for each arm whose networks have gates; () for given scores.

    Args:
        results: results of a study.
        task: its task, with the images.
        trust: True, or names that saved networks may import; see ``saccade.load``.
        limit: longest estimated time per run in seconds; fewer images and gates are measured to keep it.
        progress: called with the number of runs done, and of all.

    Raises:
        UserError: a network cannot be opened, or is not for these images.
    """
    study = results.study
    if study is None:
        return ()
    runs = [(row, run) for row in results.arms for run in results.of(row.arm.name) if run.status == "done"]
    runs = [(row, run) for row, run in runs if (study.folder / run.folder / "model.safetensors").exists()]
    found: dict[str, dict[int, HeldGates]] = {}
    seconds: dict[str, float] = {}
    tasks: dict[str, Task] = {}
    for n, (row, run) in enumerate(runs, 1):
        recipe_key = row.arm.recipe(study.base, run.seed).data.model_dump_json()
        own_task = tasks.get(recipe_key) or tasks.setdefault(recipe_key, task_of(study, row.arm, run.seed, task))
        held_gates = _of_run(study.folder / run.folder, own_task, row.cost, trust, limit)
        if isinstance(held_gates, float):
            seconds[row.arm.name] = held_gates
        elif held_gates.own:
            found.setdefault(row.arm.name, {})[run.seed] = held_gates
        if progress is not None:
            progress(n, len(runs))
    arms = []
    for row in results.arms:
        name = row.arm.name
        if name in found:
            try:
                arms.append(_arm_gates(row.arm, found[name], results.metric, results.margin))
            except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
                files = study.folder / row.arm.slug / "seed*" / FILE
                raise UserError(f"{files} give no {results.metric.name} ({error}); delete these files") from None
        elif name in seconds:
            arms.append(ArmGates(name, (), seconds=seconds[name]))
    return tuple(arms)


def _of_run(folder: Path, task: Task, cost: ArmCost | None, trust: Trust, limit: float | None) -> HeldGates | float:
    """Return the results of one run, from its file if that is valid; or the time needed if it exceeds the limit.

    Raises:
        UserError: the network cannot be loaded, or is not for these images.
    """
    data = task.data
    check_saved(folder, data.classes, [data.channels, *data.size])
    try:
        key = held_gates_key(folder, task)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    stored = read_held_gates(folder / FILE, key)
    if stored is not None:
        plan, _ = _choose_plan(task, cost, limit, len(stored.gates))
        if not stored.own or plan is None or stored.plan.covers(plan):
            return stored
    model = load(folder, trust=trust)
    plan, seconds = _choose_plan(task, cost, limit, count_gates(model))
    if plan is None:
        return seconds
    measured = hold_gates(model, task, plan)
    write_held_gates(folder / FILE, key, measured)
    return measured


def _choose_plan(task: Task, cost: ArmCost | None, limit: float | None, n_gates: int) -> tuple[Plan | None, float]:
    """Return the first plan that keeps the limit, or None, and the estimated seconds of the last one tried."""
    seconds_per_image = 0.0 if cost is None else cost.macs / _MACS_PER_SECOND
    seconds = 0.0
    for largest in _PLANS:
        plan = replace(
            largest,
            images=min(largest.images, len(task.data.test)),
            training_images=min(largest.training_images, len(task.data.train)),
        )
        seconds = seconds_per_image * plan.forward_passes(n_gates)
        if not n_gates or limit is None or seconds <= limit:
            return plan, seconds
    return None, seconds


def _arm_gates(arm: Arm, by_seed: Mapping[int, HeldGates], metric: Metric, margin: float) -> ArmGates:
    """Return the costs of the gates of one arm."""
    runs = list(by_seed.values())
    scorer = _Scorer(metric, margin, tuple(by_seed), [run.own for run in runs])
    gates = []
    for path in runs[0].held:
        if not all(path in run.held for run in runs):
            continue
        facts = None if path == ALL_GATES else _over_seeds([run.gates[path] for run in runs])
        is_constant = all(gate.constant for run in runs for p, gate in run.gates.items() if path in (p, ALL_GATES))
        held, loses_everywhere = scorer.compare("held", [run.held[path] for run in runs])
        other, _ = scorer.compare("other", [run.other[path] for run in runs])
        gates.append(GateCost(path, facts, held, other, _reading(held, is_constant, loses_everywhere)))
    first = runs[0]
    return ArmGates(arm.name, tuple(by_seed), tuple(scorer.own_scores), first.n_images, first.n_training,
                    len(first.gates), tuple(gates), dict(first.skipped))  # fmt: skip


def _reading(held: Difference, is_constant: bool, loses_everywhere: bool) -> Reading:
    if is_constant or (held.low is not None and held.low >= -held.margin):
        return "constant"
    is_worse = held.high is not None and (held.high < 0 or loses_everywhere)
    return "depends on the image" if is_worse else "not decided"


def _over_seeds(facts: Sequence[GateFacts]) -> GateFacts:
    return GateFacts(
        facts[0].shape, min(gate.low for gate in facts), max(gate.high for gate in facts),
        fmean(gate.mean for gate in facts), fmean(gate.spread for gate in facts), all(gate.constant for gate in facts),
    )  # fmt: skip


class _Scorer:
    """Differences to the own gates of one arm, by the metric of the study.

    Each is analysed by itself: costs of different gates vary too much between seeds to share one residual.
    """

    def __init__(self, metric: Metric, margin: float, seeds: tuple[int, ...], own: Sequence[Rows]) -> None:
        self.metric, self.margin, self.seeds, self.own = metric, margin, seeds, own
        self.own_scores = [metric.compute(rows) for rows in own]
        self.own_values = [pseudovalues.pseudo_values(metric, rows) for rows in own]
        self.sizes = [int(size) for size in pseudovalues.metric_unit_sizes(metric, own[0])]

    def compare(self, name: str, changed: Sequence[Rows]) -> tuple[Difference, bool]:
        """Return the difference of ``changed``, the rows of each seed, to the own ones.

        The second value is True if each network by itself is worse, by the 95 % interval over its test images.
        """
        values = [
            own_values if _are_equal(own, rows) else pseudovalues.pseudo_values(self.metric, rows)
            for own, own_values, rows in zip(self.own, self.own_values, changed, strict=True)
        ]
        has_same_units = {len(each) for each in (*self.own_values, *values)} == {len(self.sizes)}
        difference = analyse(
            {"own": self.own_scores, name: [self.metric.compute(rows) for rows in changed]},
            metric=self.metric,
            values={"own": np.stack(self.own_values), name: np.stack(values)} if has_same_units else None,
            baseline="own",
            margin=self.margin,
            seeds=self.seeds,
            sizes=self.sizes if has_same_units else None,
        ).differences[0]
        return difference, has_same_units and all(map(self._is_worse, self.own_values, values))

    def _is_worse(self, own: Floats, changed: Floats) -> bool:
        """Return True if the interval of the mean of changed − own, pseudo-values (units,), is worse than zero."""
        d = (changed - own) * (1 if self.metric.higher_is_better else -1)
        d = d[np.isfinite(d)]
        if len(d) < 2:
            return False
        half_width = t_quantile(0.975, image_df(self.sizes)) * d.std(ddof=1) / math.sqrt(len(d))
        return bool(d.mean() + half_width < 0)


def _are_equal(one: Rows, other: Rows) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
