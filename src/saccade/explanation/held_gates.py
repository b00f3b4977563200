r"""Results of a network whose gates are held at their mean, or taken from another image.

    own     y_i = g(x_i) ⊙ x_i
    held    y_i = ḡ ⊙ x_i,             ḡ the mean of g over training images, one value per element
    other   y_i = g(x_j) ⊙ x_i,        j another image

ḡ and g(x_j) are those of the unchanged network, at every gate and call. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.bases import Gate
from saccade.data.samples import ImageSet, collate
from saccade.errors import UserError
from saccade.graph.states import preserve_state
from saccade.metrics.rows import Rows, concatenate, select_images
from saccade.surgery import plugs, record
from saccade.surgery.controls import NoiseGate, Shuffled, unshuffled
from saccade.surgery.hold import held
from saccade.surgery.record import effective_gate, tapped_modules
from saccade.tasks.base import Task

__all__ = ["ALL_GATES", "GateFacts", "HeldGates", "Plan", "count_gates", "hold_gates"]

ALL_GATES = "all gates"
"""Key of the results with all gates changed at once; no module path has a space."""
_MAX_BATCH = 128
_BATCH_VALUES = 2**22
"""Largest number of values of a batch of images, so that large images take little memory."""
_ROUNDING = 1e-6
"""Relative tolerance for float32 rounding, which depends on the order of summation."""


@dataclass(frozen=True)
class Plan:
    """Largest numbers of images and gates to measure.

    Attributes:
        images: test images, evenly spaced.
        training_images: training images of the mean, evenly spaced, not augmented.
        gates: gates that are changed alone, evenly spaced; all together are measured too.
    """

    images: int = 1000
    training_images: int = 512
    gates: int = 12

    def forward_passes(self, n_gates: int) -> int:
        """Return the number of images that pass the network if it has ``n_gates`` gates."""
        changed = 1 if n_gates == 1 else min(self.gates, n_gates) + 1
        return self.images * (1 + 2 * changed) + self.training_images

    def covers(self, other: Plan) -> bool:
        """Return True if results of this plan contain those of ``other``."""
        return (
            self.images >= other.images and self.training_images >= other.training_images and self.gates >= other.gates
        )


@dataclass(frozen=True)
class GateFacts:
    """Effective gate 1 + a (g − 1) of one site on the training and test images.

    Attributes:
        shape: (C | 1, H | 1, W | 1) of one image's gate.
        low: smallest value.
        high: largest value.
        mean: mean over elements and training images.
        spread: standard deviation over training images, root mean square over elements.
        constant: True if every image has the same gate, but for rounding.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    mean: float
    spread: float
    constant: bool


@dataclass(frozen=True)
class HeldGates:
    """Rows of a network on test images with its own gates and with changed ones; ``own`` is empty without gates.

    Attributes:
        plan: numbers of images and gates that were asked for.
        n_images: number of test images of the rows, in file order.
        n_training: number of training images of the mean.
        own: rows of the unchanged network.
        gates: facts of every gate, by path, in the order of ``record``.
        held: path, or ``ALL_GATES``, -> rows with the gate at its mean.
        other: the same with the gate of another image.
        skipped: path -> reason why the gate is not changed.
    """

    plan: Plan
    n_images: int
    n_training: int
    own: Rows
    gates: Mapping[str, GateFacts]
    held: Mapping[str, Rows]
    other: Mapping[str, Rows]
    skipped: Mapping[str, str]


def hold_gates(model: nn.Module, task: Task, plan: Plan | None = None) -> HeldGates:
    """Return the results of ``model``, on the CPU, with each gate held at its mean and with that of another image.

    A gate is a ``saccade.bases.Gate``, plugged or part of the architecture. The other image of image i is its successor
    within the batch, in one random order of the test images that is the same for all networks.

    Args:
        model: network for ``task``, unchanged afterwards.
        task: task with its images.
        plan: numbers of images and gates; None for the defaults.

    Raises:
        UserError: a gate of a test image differs in size from those of the training images.
    """
    plan = plan or Plan()
    candidates, skipped = _gates(model)
    train, test = task.data.train, task.data.test
    n_images, n_training = min(plan.images, len(test)), min(plan.training_images, len(train))
    if n_images < 2:
        skipped |= dict.fromkeys(candidates, "there is no other test image")
        candidates = {}
    totals: dict[str, _Totals] = {}
    with preserve_state(model), torch.no_grad():
        if candidates:
            totals = _means(model, candidates, train, _evenly(len(train), n_training), skipped)
        if not totals:
            return HeldGates(plan, n_images, n_training, {}, {}, {}, {}, skipped)
        indices = _evenly(len(test), n_images)
        order = torch.randperm(n_images, generator=torch.Generator().manual_seed(0))
        changes = _changes(list(totals), plan)
        parts: dict[tuple[str, str], list[Rows]] = {}
        for x, targets in _batches(test, [indices[i] for i in order.tolist()]):
            with record(model) as recorded:
                parts.setdefault(("own", ""), []).append(_rows(task, model, x, targets))
            gates = {path: _calls(recorded.get(path, []), len(x)) for path in totals}
            for path, total in totals.items():
                if not total.fits(gates[path]):
                    raise UserError(f"{path}: the size of this gate depends on the image")
                total.observe(gates[path])
            for name, paths in changes.items():
                means = {path: totals[path].means() for path in paths}
                others = {path: [gate.roll(-1, 0) for gate in gates[path]] for path in paths}
                for kind, values in (("held", means), ("other", others)):
                    with held(model, values):
                        parts.setdefault((kind, name), []).append(_rows(task, model, x, targets))
    codes = {key: values[indices] for key, values in test.codes().items()}
    rows = {key: select_images(concatenate(batches), order.argsort()) | codes for key, batches in parts.items()}
    return HeldGates(
        plan,
        n_images,
        n_training,
        rows["own", ""],
        {path: total.facts(candidates[path]) for path, total in totals.items()},
        {name: rows["held", name] for name in changes},
        {name: rows["other", name] for name in changes},
        skipped,
    )


def count_gates(model: nn.Module) -> int:
    """Return the number of gates that ``hold_gates`` would change."""
    return len(_gates(model)[0])


def _gates(model: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, str]]:
    """Return the factor ``a`` of each gate by key of ``record``, and the reasons for those left out."""
    factors = {row.site: row.module.a for row in plugs(model)}
    candidates, skipped = {}, {}
    for path, module in tapped_modules(model).items():
        if isinstance(module, Shuffled):
            skipped[path] = "the control uses the gate of another image already"
        elif isinstance(module, NoiseGate):
            skipped[path] = "the gate of this control is constant by design"
        elif isinstance(unshuffled(module), Gate):
            a = factors.get(path)
            candidates[path] = None if a is None else a.detach()
    return candidates, skipped


def _changes(paths: Sequence[str], plan: Plan) -> dict[str, list[str]]:
    """Return the paths to change at once, by name: some alone, and all together."""
    if len(paths) == 1:
        return {paths[0]: list(paths)}
    alone = [paths[i] for i in _evenly(len(paths), min(plan.gates, len(paths)))]
    return {ALL_GATES: list(paths)} | {path: [path] for path in alone}


class _Totals:
    """Sums and ranges of one gate, one of each per call in a forward pass."""

    def __init__(self) -> None:
        self.n = 0
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.lows: list[Tensor] = []
        self.highs: list[Tensor] = []

    def fits(self, gates: Sequence[Tensor]) -> bool:
        """Return True if the gates have the calls and shapes of the earlier ones."""
        return not self.n or [gate.shape[1:] for gate in gates] == [low.shape for low in self.lows]

    def add(self, gates: Sequence[Tensor]) -> None:
        """Add the gates of a batch, one tensor (B, …) per call."""
        sums = [gate.double().sum(0) for gate in gates]
        squares = [gate.double().square().sum(0) for gate in gates]
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)] if self.n else sums
        self.squares = [old + new for old, new in zip(self.squares, squares, strict=True)] if self.n else squares
        self.observe(gates)
        self.n += len(gates[0])

    def observe(self, gates: Sequence[Tensor]) -> None:
        """Widen the ranges by the gates of a batch."""
        lows, highs = [gate.amin(0) for gate in gates], [gate.amax(0) for gate in gates]
        self.lows = [old.minimum(new) for old, new in zip(self.lows, lows, strict=True)] if self.lows else lows
        self.highs = [old.maximum(new) for old, new in zip(self.highs, highs, strict=True)] if self.highs else highs

    def means(self) -> list[Tensor]:
        """Return the mean gate of each call, without a batch dimension; that of a constant gate is exact."""
        means = [(total / self.n).float() for total in self.sums]
        return [
            torch.where(low == high, low, mean) for low, high, mean in zip(self.lows, self.highs, means, strict=True)
        ]

    def facts(self, a: Tensor | None) -> GateFacts:
        """Return the facts of the effective gate."""
        means = torch.cat([effective_gate(mean, a).flatten() for mean in self.means()])
        one_end, other_end = (
            torch.cat([effective_gate(end, a).flatten() for end in ends]) for ends in (self.lows, self.highs)
        )
        variance = torch.cat(
            [(square / self.n - (total / self.n).square()).clamp(min=0).flatten()
             for square, total in zip(self.squares, self.sums, strict=True)]
        )  # fmt: skip
        factor = 1.0 if a is None else abs(float(a))
        return GateFacts(
            tuple(self.lows[0].shape),
            float(one_end.minimum(other_end).min()),
            float(one_end.maximum(other_end).max()),
            float(means.mean()),
            factor * math.sqrt(float(variance.mean())),
            torch.allclose(one_end, other_end, rtol=_ROUNDING, atol=0),
        )


def _means(
    model: nn.Module, paths: Mapping[str, Any], images: ImageSet, indices: Sequence[int], skipped: dict[str, str]
) -> dict[str, _Totals]:
    """Return the totals of each gate on the images; add those without a mean to ``skipped``."""
    totals = {path: _Totals() for path in paths}
    for x, _ in _batches(images, indices):
        with record(model) as recorded:
            model(x)
        for path in list(totals):
            gates = _calls(recorded.get(path, []), len(x))
            if gates and totals[path].fits(gates):
                totals[path].add(gates)
                continue
            skipped[path] = "its size depends on the image" if gates else "it has no value for each image"
            del totals[path]
    return totals


def _calls(recorded: Tensor | list[Tensor], n_images: int) -> list[Tensor]:
    """Return the gate of each call as (B, …); [] if a call has no value for each image."""
    gates = recorded if isinstance(recorded, list) else [recorded]
    if any(len(gate) not in (1, n_images) for gate in gates):
        return []
    return [gate.expand(n_images, *gate.shape[1:]) for gate in gates]


def _rows(task: Task, model: nn.Module, x: Tensor, targets: Any) -> Rows:
    return {name: values.detach() for name, values in task.rows(model, x, targets).items()}


def _evenly(total: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced indices below ``total``."""
    return [n * total // count for n in range(count)]


def _batches(images: ImageSet, indices: Sequence[int]) -> Iterator[tuple[Tensor, Any]]:
    """Yield images and targets in batches of nearly equal size, at least two images each if there are two."""
    size = max(2, min(_MAX_BATCH, _BATCH_VALUES // images[indices[0]][0].numel()))
    for part in torch.tensor(indices).tensor_split(math.ceil(len(indices) / size)):
        yield collate(images.__getitems__(part.tolist()))
