"""Check that a saved state belongs to a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from saccade.errors import UserError
from saccade.metrics.rows import count_images

__all__ = ["find_mismatch"]


def find_mismatch(
    state: Mapping[str, Any],
    network: nn.Module,
    optimizer: Optimizer,
    *,
    epochs: int,
    n_images: int,
    averaged: bool = False,
) -> str | None:
    """Return the name of the first part of ``state`` that does not fit the run, or None.

    Args:
        state: state from resume.pt, which may be damaged.
        network: network of the run.
        optimizer: new optimiser of its parameters.
        epochs: number of epochs of the run.
        n_images: number of test images.
        averaged: True if the run averages its weights.
    """
    epoch_rows, test = state["rows"], state["test"]
    if not 1 <= len(epoch_rows) <= epochs + 1:
        return "rows"
    if not _are_outputs(test, n_images):
        return "test"
    best = state["best"]
    if best is not None and not _is_best(best, len(epoch_rows), n_images):
        return "best"
    expected = network.state_dict()
    average = state.get("average")
    for saved in (state["network"], *([] if average is None else [average]), *([best["network"]] if best else [])):
        if not isinstance(saved, Mapping) or saved.keys() != expected.keys():
            return "network"
        for name, tensor in expected.items():
            if not _same_shape_and_dtype(saved[name], tensor):
                return f"network.{name}"
    has_trained = len(epoch_rows) > 1  # epoch 0 has neither optimiser nor average
    if (average is not None) != (averaged and has_trained):
        return "average"
    if state["optimizer"] is None:
        return "optimizer" if has_trained else None
    return None if _fits_optimizer(optimizer, state["optimizer"]) else "optimizer"


def _are_outputs(value: object, n_images: int) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(column, Tensor) for column in value.values()):
        return False
    try:
        return count_images(dict(value)) == n_images
    except UserError:
        return False


def _is_best(value: object, n_rows: int, n_images: int) -> bool:
    if not isinstance(value, Mapping) or not {"score", "epoch", "network", "test"} <= value.keys():
        return False
    epoch, score = value["epoch"], value["score"]
    is_valid = isinstance(epoch, int) and 1 <= epoch < n_rows and isinstance(score, float)
    return is_valid and _are_outputs(value["test"], n_images)


def _same_shape_and_dtype(value: object, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == tensor.shape and value.dtype == tensor.dtype


def _fits_optimizer(optimizer: Optimizer, saved: object) -> bool:
    """Return True if ``saved`` is a valid state dict of ``optimizer``."""
    if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= saved.keys():
        return False
    expected_groups, groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(expected_groups):
        return False
    for expected, group in zip(expected_groups, groups, strict=True):
        if not isinstance(group, Mapping) or not {"params", "lr"} <= group.keys():
            return False
        # The learning rate is set at every step; the set of keys depends on the version of PyTorch.
        if any(group[key] != expected[key] for key in expected.keys() & group.keys() - {"lr"}):
            return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(saved["state"], Mapping):
        return False
    for index, values in saved["state"].items():
        if index not in range(len(parameters)) or not isinstance(values, Mapping):
            return False
        tensors = [value for value in values.values() if value is not None]
        if not all(isinstance(tensor, Tensor) and tensor.shape in ((), parameters[index].shape) for tensor in tensors):
            return False
    return True
