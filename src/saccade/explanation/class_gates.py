r"""Channel gates by class: which channels a trained network lets pass for images of each class.

    mean      m_kc = mean of the gate g_c over the images of class k
    between   sqrt(mean_c var_k m_kc)            spread of the class means
    within    sqrt(mean_c mean_i (g_ic − m_kc)²) spread of the images around the mean of their class

A ratio between / within near 0 means that all classes excite the same channels. Hu et al., "Squeeze-and-Excitation
Networks", arXiv:1709.01507, draw m_kc for five gates of SE-ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from saccade import tasks
from saccade.bases import Gate
from saccade.data.samples import ImageSet, collate
from saccade.errors import UserError, did_you_mean
from saccade.explanation.finished_runs import open_splits, read_finished_run
from saccade.explanation.gates import number_calls
from saccade.graph.states import preserve_state
from saccade.hooks import temporary_hooks
from saccade.saving import load
from saccade.surgery import plugs, record
from saccade.surgery.controls import unshuffled
from saccade.surgery.record import effective_gate, tapped_modules
from saccade.trust import Trust

__all__ = ["SATURATED", "ClassGates", "GateSpread", "StageSpread", "class_gates"]

SATURATED = 0.99
"""A gate above this value passes its channel almost unchanged."""
_BATCH = 64


@dataclass(frozen=True)
class GateSpread:
    """One channel gate.

    Attributes:
        path: path of the gate, or of the site where it is plugged.
        stage: 1 for the first gates; one more each time the size of the feature map changes.
        size: height and width of the feature map.
        class_means: (K, C), mean gate of the images of each class.
        between: spread of the class means.
        within: spread of the images around the mean of their class.
        mean: mean over all images and channels.
        saturated: fraction of all values above ``SATURATED``.
    """

    path: str
    stage: int
    size: tuple[int, int]
    class_means: Tensor
    between: float
    within: float
    mean: float
    saturated: float

    @property
    def ratio(self) -> float | None:
        """Spread between classes / within classes; None if the gate is the same for all images of a class."""
        return self.between / self.within if self.within > 1e-6 else None


@dataclass(frozen=True)
class StageSpread:
    """Means over the gates of a stage; attributes are those of ``GateSpread``.

    The ratio leaves out gates without one, and is None if none has one.
    """

    stage: int
    ratio: float | None
    mean: float
    saturated: float


@dataclass(frozen=True)
class ClassGates:
    """Channel gates of a trained run by class, in the order of the forward pass.

    Attributes:
        name: name of the run's folder.
        model: name of the host.
        attention: name of the plugged mechanism, or ``none``.
        classes: the K classes that have test images.
        counts: number of test images of each class.
        gates: the channel gates.
    """

    name: str
    model: str
    attention: str
    classes: list[str]
    counts: list[int]
    gates: list[GateSpread]

    @property
    def stages(self) -> list[StageSpread]:
        """Means over the gates of each stage, in order."""
        stages = []
        for stage, group in groupby(self.gates, key=lambda gate: gate.stage):
            gates = list(group)
            ratios = [gate.ratio for gate in gates if gate.ratio is not None]
            mean, saturated = fmean(gate.mean for gate in gates), fmean(gate.saturated for gate in gates)
            stages.append(StageSpread(stage, fmean(ratios) if ratios else None, mean, saturated))
        return stages

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON-serialisable objects."""
        rows = [
            {
                "path": gate.path, "stage": gate.stage, "size": list(gate.size), "between": gate.between,
                "within": gate.within, "ratio": gate.ratio, "mean": gate.mean, "saturated": gate.saturated,
                "class_means": gate.class_means.tolist(),
            }
            for gate in self.gates
        ]  # fmt: skip
        return {"run": self.name, "model": self.model, "attention": self.attention, "classes": self.classes,
                "images": self.counts, "saturated_above": SATURATED,
                "stages": [asdict(stage) for stage in self.stages], "gates": rows}  # fmt: skip


def class_gates(
    run: str | Path,
    trust: Trust = False,
    progress: Callable[[int, int], None] | None = None,
    needed_classes: Sequence[str] = (),
) -> ClassGates:
    """Return the channel gates of a finished run on its test images, by class.

    A channel gate is a ``saccade.bases.Gate`` with one value per channel, plugged or part of the architecture; for a
    plug it is the effective gate 1 + a (g − 1). An image with several labels counts for each.

    Args:
        run: folder of the run.
        trust: True, or names that the saved network may import; see ``saccade.load``.
        progress: called with the number of images done, and of all.
        needed_classes: names that must be among the classes, checked before the network runs.

    Raises:
        UserError: ``run`` is no finished run, its images are missing or have changed or have no classes, a needed class
            does not exist, or the network has no channel gates.
    """
    folder = Path(run)
    recipe, done = read_finished_run(folder)
    target = tasks.get(done["task"]).target
    if target not in ("label", "vector"):
        raise UserError(f"{folder}: the task {done['task']} gives images no class; classify and multilabel do")
    model = load(folder, trust=trust)
    if not _channel_gate_candidates(model):
        raise UserError(f"{folder}: {recipe.model.name} with attention {recipe.attention.mechanism} has no gates; "
                        "plug a mechanism that gates channels, such as se or eca")  # fmt: skip
    splits = open_splits(folder, recipe, done)
    for name in needed_classes:
        if name not in splits.classes:
            raise UserError(f"{folder}: no class is named {name!r}.{did_you_mean(name, splits.classes)}")
    totals = _read_gates(model, splits.test, len(splits.classes), progress)
    if not totals:
        raise UserError(f"{folder}: no gate of {recipe.model.name} with attention {recipe.attention.mechanism} has one "
                        "value per channel; plug a mechanism that gates channels, such as se or eca")  # fmt: skip
    counts = next(iter(totals.values())).counts
    present = [k for k, n in enumerate(counts.tolist()) if n]
    gates: list[GateSpread] = []
    for path, total in totals.items():
        is_first_of_stage = not gates or gates[-1].size != total.size
        gates.append(total.spread(path, (gates[-1].stage if gates else 0) + is_first_of_stage))
    return ClassGates(folder.resolve().name, recipe.model.name, recipe.attention.mechanism,
                      [splits.classes[k] for k in present], [int(counts[k]) for k in present], gates)  # fmt: skip


def _channel_gate_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules with a gate by key of ``record``."""
    return {path: module for path, module in tapped_modules(model).items() if isinstance(unshuffled(module), Gate)}


class _Total:
    """Sums over images of one gate's values and squares, by class."""

    def __init__(self, size: tuple[int, int], n_classes: int, channels: int) -> None:
        self.size = size
        self.counts = torch.zeros(n_classes, dtype=torch.float64)
        self.sums = torch.zeros(n_classes, channels, dtype=torch.float64)
        self.squares = torch.zeros(n_classes, channels, dtype=torch.float64)
        self.sum = self.saturated = 0.0
        self.values = 0

    def add(self, values: Tensor, membership: Tensor) -> None:
        """Add values (B, C) of images in the classes ``membership`` (B, K)."""
        self.counts += membership.sum(0)
        self.sums += membership.T @ values
        self.squares += membership.T @ values.square()
        self.sum += float(values.sum())
        self.saturated += float((values > SATURATED).sum())
        self.values += values.numel()

    def spread(self, path: str, stage: int) -> GateSpread:
        """Return the statistics of the classes that have images."""
        present = self.counts > 0
        counts = self.counts[present, None]
        means = self.sums[present] / counts
        between = means.var(0, correction=0).mean()
        residual = (self.squares[present] - counts * means.square()).clamp(min=0).sum(0) / counts.sum()
        return GateSpread(path, stage, self.size, means, float(between.sqrt()), float(residual.mean().sqrt()),
                          self.sum / self.values, self.saturated / self.values)  # fmt: skip


def _read_gates(
    model: nn.Module, images: ImageSet, n_classes: int, progress: Callable[[int, int], None] | None
) -> dict[str, _Total]:
    """Return the sums of the channel gates on all images, by name, in the order of the forward pass."""
    candidates = _channel_gate_candidates(model)
    factors = {row.site: row.module.a for row in plugs(model)}
    modules = {path: unshuffled(module) for path, module in candidates.items()}
    sizes: dict[str, list[tuple[int, int]]] = {}

    def remember_size(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            sizes.setdefault(path, []).append((args[0].shape[2], args[0].shape[3]))

        return hook

    totals: dict[str, _Total] = {}
    with temporary_hooks() as handles, preserve_state(model), torch.no_grad():
        handles += [module.register_forward_pre_hook(remember_size(path)) for path, module in modules.items()]
        for x, membership, done in _batches(images, n_classes):
            sizes.clear()
            with record(model) as recorded:
                model(x)
            for path in sorted(set(sizes) & set(recorded), key=list(sizes).index):
                for (name, gate), size in zip(number_calls(path, recorded[path]), sizes[path], strict=True):
                    if gate.shape[2:] != (1, 1) or gate.shape[1] == 1:
                        continue
                    values = effective_gate(gate, factors.get(path)).flatten(1).expand(len(x), -1).double()
                    total = totals.setdefault(name, _Total(size, n_classes, values.shape[1]))
                    total.add(values, membership)
            if progress is not None:
                progress(done, len(images))
    return totals


def _batches(images: ImageSet, n_classes: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield images (B, C, H, W), their classes as 0 and 1 (B, K), and the number of images so far."""
    for start in range(0, len(images), _BATCH):
        stop = min(start + _BATCH, len(images))
        x, targets = collate(images.__getitems__(range(start, stop)))
        membership = torch.nn.functional.one_hot(targets, n_classes) if targets.ndim == 1 else targets
        yield x, membership.double(), stop
