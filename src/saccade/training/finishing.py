"""Final files of a run: outputs for the test images, network and result."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader

from saccade import saving
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, select_images
from saccade.tasks.base import Phase, Task
from saccade.training.folder import RunFolder
from saccade.training.gates import constant_plugs
from saccade.training.loaders import shuffled_order
from saccade.training.network import actual_start

__all__ = ["write_results"]


def write_results(
    task_name: str,
    task: Task,
    metric: Metric,
    run: RunFolder,
    network: nn.Module,
    last_phase: Phase,
    diverged: dict[str, Any] | None,
    notes: list[str],
    test_loader: DataLoader,
    device: torch.device,
) -> dict[str, Any]:
    """Write the final files from the state after the last finished epoch, and return the result."""
    recipe, splits = task.recipe, task.data
    state = run.load_state()
    assert state is not None
    epoch_rows = state["rows"]
    chosen = state["best"] if last_phase.choose and state["best"] and not diverged else state
    average_state = chosen.get("average")
    network.load_state_dict(chosen["network"] if average_state is None else average_state)
    network.to(device).eval()
    constant_sites = {} if diverged else constant_plugs(network, (images.to(device) for images, _ in test_loader))
    network.cpu()
    outputs: Rows = dict(chosen["test"])
    if (order := shuffled_order(recipe, len(splits.test))) is not None:
        outputs = select_images(outputs, torch.tensor(order).argsort())
    codes = splits.test.codes()
    outputs |= codes
    description, constant_rows = task.trivial_baseline()
    by = splits.test.by
    by_metrics = task.metrics_by(task.applicable_metrics(), by.name, by.levels, outputs) if by else ()
    references = {name: rows | codes for name, rows in task.references().items()}
    scores, constant_scores, *reference_scores = (
        task.scores(rows) | {metric.name: metric.compute(rows) for metric in by_metrics}
        for rows in (outputs, constant_rows | codes, *references.values())
    )
    result = {
        "task": task_name,
        "metric": metric.name,
        "score": metric.format(scores[metric.name]),
        "scores": scores,
        "by_class": _by_class(task, outputs),
        "trivial": {"answer": description, "scores": constant_scores},
        **({"references": dict(zip(references, reference_scores, strict=True))} if references else {}),
        "epochs": chosen.get("epoch", epoch_rows[-1]["epoch"]),
        "seconds": round(sum(row["seconds"] for row in epoch_rows), 3),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "start": actual_start(network),
        "fingerprint": state.get("fingerprint", splits.fingerprint),
        "left_out": splits.left_out,
        "cautions": splits.cautions,
        "constant": constant_sites,
        "diverged": diverged,
        **({"by": {"column": by.name, "values": by.levels}} if by else {}),
        **({"notes": notes} if notes else {}),
    }
    run.write("rows.safetensors", save({key: value.contiguous() for key, value in outputs.items()}))
    saving.save(
        network,
        run.path,
        host=task.host(recipe.model),
        input=(splits.channels, *splits.size),
        classes=splits.classes,
        mean=list(splits.mean),
        std=list(splits.std),
        **{key: value for key in ("interpolation", "crop_pct") if (value := getattr(recipe.data, key)) is not None},
        epochs=result["epochs"],
        task=task_name,
        scores=scores,
    )
    run.finish(result)
    return result


def _by_class(task: Task, outputs: Rows) -> dict[str, list[float | None]]:
    """Map metric to the score of each class, for metrics with per-class scores; None if undefined."""
    scores = {}
    for metric in task.applicable_metrics():
        if metric.by_class is not None:
            values = metric.by_class(outputs).tolist()
            values += [float("nan")] * (len(task.data.classes) - len(values))
            scores[metric.name] = [None if value != value else value for value in values]
    return scores
