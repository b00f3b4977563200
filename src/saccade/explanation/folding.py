"""Fold those gates of a trained run that it does not need: held at their mean over the training images.

Gates are held one after another, the cheapest first, while the score stays within a margin of the network's own. They
are chosen on the validation images if the data have any, else on the test images, which makes their cost look smaller
than it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.cost import count_macs
from saccade.data.samples import ImageSet, collate
from saccade.errors import UserError
from saccade.explanation.finished_runs import open_task, read_finished_run
from saccade.graph.states import preserve_state
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, concatenate, select_images
from saccade.saving import describe, load, save
from saccade.surgery import fold, held, mean_gates, plugs
from saccade.surgery.fold import Folded
from saccade.tasks.base import Task
from saccade.training.loaders import shuffled_order
from saccade.trust import Trust

__all__ = ["FoldedRun", "FoldedSite", "fold_run"]

Progress = Callable[[str, int, int], None]
"""Called with a description, the number of steps done, and the number of all."""


@dataclass(frozen=True)
class FoldedSite:
    """Outcome for one plug of a run.

    Attributes:
        site: its site.
        outcome: ``folded``; ``kept``, as holding its gate costs too much; ``refused``, as it cannot be folded.
        into: module whose weights took the gate, if folded.
        reason: the reason, unless folded.
        cost: loss of the score on the choosing images if this gate alone is held, in units of the metric.
        cost_together: the same with the gates that were accepted before it.
    """

    site: str
    outcome: Literal["folded", "kept", "refused"]
    into: str | None = None
    reason: str = ""
    cost: float | None = None
    cost_together: float | None = None


@dataclass(frozen=True)
class FoldedRun:
    """Result of ``fold_run``.

    Attributes:
        name: name of the run's folder.
        folder: folder of the folded network; None if nothing was folded.
        metric: metric that chose.
        margin: largest loss that was accepted, in its unit.
        n_training: number of training images of the mean gates.
        chosen_on: ``validation`` or ``test``.
        n_choosing: number of these images.
        n_test: number of test images of ``scores``.
        sites: one row per plug.
        scores: score on the test images of the network as it is (``own``), with the folded gates held (``held``), and
            folded (``folded``); None if not finite.
        macs: multiply-adds per image before and after.
        parameters: number of parameters before and after.
    """

    name: str
    folder: Path | None
    metric: Metric
    margin: float
    n_training: int
    chosen_on: str
    n_choosing: int
    n_test: int
    sites: Sequence[FoldedSite]
    scores: Mapping[str, float | None]
    macs: tuple[int, int]
    parameters: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON-serialisable objects."""
        values = {key: value for key, value in vars(self).items() if key not in ("folder", "metric", "sites")}
        metric = {"metric": self.metric.name, "unit": self.metric.difference_unit}
        folder = None if self.folder is None else str(self.folder)
        return values | metric | {"folder": folder, "sites": [asdict(site) for site in self.sites]}


def fold_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    margin: float | None = None,
    images: int = 512,
    sites: Sequence[str] | None = None,
    trust: Trust = False,
    progress: Progress | None = None,
) -> FoldedRun:
    """Fold the gates of a finished run that cost at most ``margin`` when held, and save the network.

    Args:
        run: folder of the run.
        out: folder for ``saccade.load``; None for ``folded`` in that of the run. Not written if nothing is folded.
        margin: largest loss of the score, in units of the task's metric; None for the metric's own margin.
        images: largest number of training images of the mean gates.
        sites: sites or globs that may be folded; None for all.
        trust: True, or names that the saved network may import; see ``saccade.load``.
        progress: called after each pass over the images.

    Raises:
        UserError: ``run`` is no finished run, has no plugs or no such site, its images are missing or have changed, or
            an argument is invalid.
    """
    folder = Path(run)
    recipe, done = read_finished_run(folder)
    destination = folder / "folded" if out is None else Path(out)
    if destination.resolve() == folder.resolve():
        raise UserError(f"{destination} holds the network that is folded; choose another folder with --out")
    if (destination / "recipe.toml").exists() or (destination / "study.toml").exists():
        raise UserError(f"{destination} is the folder of another run or study; choose another one with --out")
    if sites is not None and not sites:
        raise UserError("sites is empty; leave it out to try all")
    if images < 1:
        raise UserError(f"images must be at least 1, got {images}")
    model = load(folder, trust=trust)
    if not plugs(model):
        raise UserError(
            f"{folder}: {recipe.model.name} with attention {recipe.attention.mechanism} has no plugs to fold; gates of "
            "the architecture itself stay"
        )
    task = open_task(folder, recipe, done)
    metric = task.primary_metric()
    if margin is None:
        margin = metric.margin
    else:
        metric.check_margin(margin)
    progress = progress or (lambda text, step, steps: None)
    train, test = task.data.train, task.data.test
    choosing = test if task.data.val is None else task.data.val
    n_training = min(images, len(train))
    indices = [n * len(train) // n_training for n in range(n_training)]
    progress("mean gates", 0, 1)
    means = {
        site: value for site, value in mean_gates(model, (x for x, _ in _batches(train, task, indices))).items()
        if isinstance(value, Tensor) and value.shape[1:] == (1, 1)
    }  # fmt: skip
    probe = next(_batches(train, task, [0, len(train) // 2]))[0]
    trial = copy.deepcopy(model)
    possible = fold(trial, means, sites, probe)
    results = {row.site: FoldedSite(row.site, "refused", reason=row.reason) for row in possible}
    foldable = [row.site for row in possible if row.into is not None]
    chosen = _choose(model, task, metric, choosing, {site: means[site] for site in foldable}, margin, results, progress)
    scores: dict[str, float | None] = dict.fromkeys(("own", "held", "folded"), metric.compute(_rows(model, task, test)))
    costs = [(count_macs(model, probe[:1]), _count_parameters(model))]
    if chosen:
        with held(model, {site: means[site] for site in chosen}):
            scores["held"] = metric.compute(_rows(model, task, test))
        _update(fold(model, means, chosen, probe), results)
        folded_rows = _rows(model, task, test)
        scores["folded"] = metric.compute(folded_rows)
    costs.append((count_macs(model, probe[:1]), _count_parameters(model)))
    is_folded = any(site.outcome == "folded" for site in results.values())
    result = FoldedRun(
        folder.resolve().name, destination if is_folded else None, metric, margin, n_training,
        "test" if task.data.val is None else "validation", len(choosing), len(test), list(results.values()), scores,
        (costs[0][0], costs[1][0]), (costs[0][1], costs[1][1]),
    )  # fmt: skip
    if is_folded:
        config = describe(folder)
        new_facts = {"scores": task.scores(folded_rows), "folded": {"run": str(folder), **result.to_json()}}
        saved = {key: config[key] for key in ("host", "input", "classes")}
        save(model, destination, **saved, **config["facts"] | new_facts)
    return result


def _choose(
    model: nn.Module,
    task: Task,
    metric: Metric,
    images: ImageSet,
    means: Mapping[str, Tensor],
    margin: float,
    results: dict[str, FoldedSite],
    progress: Progress,
) -> list[str]:
    """Return the sites to fold, cheapest first, and enter the costs of all into ``results``."""
    steps = iter(range(1, 2 * len(means) + 2))
    own = metric.compute(_rows(model, task, images))
    if own is None:
        raise UserError(f"the network has no finite {metric.name} on these images")

    def cost(sites: Sequence[str]) -> float:
        """Return the loss of the score with ``sites`` held."""
        progress("holding gates", next(steps), 2 * len(means))
        with held(model, {site: means[site] for site in sites}):
            score = metric.compute(_rows(model, task, images))
        return float("inf") if score is None else (own - score) * (1 if metric.higher_is_better else -1)

    alone = {site: cost([site]) for site in means}
    chosen: list[str] = []
    for site in sorted(means, key=lambda site: alone[site]):
        together = cost([*chosen, site]) if chosen else alone[site]
        unit = f" {metric.difference_unit}".rstrip()
        if together <= margin:
            chosen.append(site)
            results[site] = FoldedSite(site, "folded", None, "", alone[site], together)
        else:
            words = "" if alone[site] > margin else " with those folded"
            reason = f"holding it{words} costs {together:.{metric.digits}f}{unit}, more than {margin:g}"
            results[site] = FoldedSite(site, "kept", None, reason, alone[site], together)
    return chosen


def _update(rows: Sequence[Folded], results: dict[str, FoldedSite]) -> None:
    """Enter what ``fold`` did into ``results``."""
    for row in rows:
        old = results[row.site]
        outcome: Literal["folded", "refused"] = "refused" if row.into is None else "folded"
        results[row.site] = FoldedSite(row.site, outcome, row.into, row.reason, old.cost, old.cost_together)


def _rows(model: nn.Module, task: Task, images: ImageSet) -> Rows:
    """Return the rows of all ``images``, in file order."""
    order = shuffled_order(task.recipe, len(images))
    with preserve_state(model), torch.no_grad():
        rows = concatenate([task.rows(model, x, targets) for x, targets in _batches(images, task, order)])
    return (rows if order is None else select_images(rows, torch.tensor(order).argsort())) | images.codes()


def _batches(images: ImageSet, task: Task, indices: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Any]]:
    """Yield images (B, C, H, W), not augmented, and their targets."""
    indices = range(len(images)) if indices is None else indices
    size = task.recipe.training.batch_size
    for start in range(0, len(indices), size):
        yield collate(images.__getitems__(list(indices[start : start + size])))


def _count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
