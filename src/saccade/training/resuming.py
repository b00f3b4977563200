"""Tell whether a saved state belongs to this run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from saccade.errors import UserError
from saccade.metrics.rows import count_images

__all__ = ["misfit"]


def misfit(
    state: Mapping[str, Any],
    network: nn.Module,
    optimizer: Optimizer,
    *,
    epochs: int,
    images: int,
    averaged: bool = False,
) -> str | None:
    """Name what in ``state`` cannot belong to a run of ``network``; None if all of it can.

    Args:
        state: as ``RunFolder.keep`` takes it, from a file that may be damaged.
        network: at its start.
        optimizer: at its start, over the parameters of ``network``.
        epochs: of the whole run.
        images: number of test images.
        averaged: whether the run averages its weights.
    """
    rows, test = state["rows"], state["test"]
    if not 1 <= len(rows) <= epochs + 1:
        return "rows"
    if not _are_rows(test, images):
        return "test"
    best = state["best"]
    if best is not None and not _is_best(best, len(rows), images):
        return "best"
    own = network.state_dict()
    average = state.get("average")
    for saved in (state["network"], *([] if average is None else [average]), *([best["network"]] if best else [])):
        if not isinstance(saved, Mapping) or saved.keys() != own.keys():
            return "network"
        for name, tensor in own.items():
            if not _alike(saved[name], tensor):
                return f"network.{name}"
    begun = len(rows) > 1  # epoch 0 is the test before there is an optimiser or an average
    if (average is not None) != (averaged and begun):
        return "average"
    if state["optimizer"] is None:
        return "optimizer" if begun else None
    return None if _of(optimizer, state["optimizer"]) else "optimizer"


def _are_rows(found: object, images: int) -> bool:
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        return False
    try:
        return count_images(dict(found)) == images
    except UserError:
        return False


def _is_best(found: object, epochs: int, images: int) -> bool:
    if not isinstance(found, Mapping) or not {"score", "epoch", "network", "test"} <= found.keys():
        return False
    epoch, score = found["epoch"], found["score"]
    chosen = isinstance(epoch, int) and 1 <= epoch < epochs and isinstance(score, float)
    return chosen and _are_rows(found["test"], images)


def _alike(found: object, tensor: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == tensor.shape and found.dtype == tensor.dtype


def _of(optimizer: Optimizer, saved: object) -> bool:
    """Return whether ``saved`` is a state of ``optimizer`` after some steps."""
    if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= saved.keys():
        return False
    own, groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own):
        return False
    for mine, theirs in zip(own, groups, strict=True):
        if not isinstance(theirs, Mapping) or not {"params", "lr"} <= theirs.keys():
            return False
        # The rate is set anew at every step; another version of PyTorch may have other keys.
        if any(theirs[key] != mine[key] for key in mine.keys() & theirs.keys() - {"lr"}):
            return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(saved["state"], Mapping):
        return False
    for number, values in saved["state"].items():
        if number not in range(len(parameters)) or not isinstance(values, Mapping):
            return False
        tensors = [value for value in values.values() if value is not None]
        if not all(isinstance(t, Tensor) and t.shape in ((), parameters[number].shape) for t in tensors):
            return False
    return True
