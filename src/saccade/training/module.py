"""A task as Lightning trains it: one optimiser, a learning rate by step, rows of every test image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from saccade.metrics.rows import Rows, concatenate, is_finite
from saccade.recipe import Training
from saccade.surgery import parameter_groups
from saccade.tasks.base import Phase, Task
from saccade.training.divergence import DivergenceError, locate
from saccade.training.freezing import hold, silent

__all__ = ["TaskModule", "only_trainable", "optimizer_of", "rate", "training_loss"]


def rate(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps`` as a share of the recipe's.

    Rises linearly over ``warmup`` steps, then stays (``constant``) or falls along half a cosine to 0 (``cosine``).

    >>> [round(rate(step, 6, 2, "cosine"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * max(0.0, step - warmup) / max(1.0, steps - warmup)))


def optimizer_of(network: nn.Module, training: Training, lr_factor: float = 1.0) -> torch.optim.Optimizer:
    """Build SGD with momentum or AdamW over the groups of the host and of the plugs.

    Args:
        network: its trainable parameters are optimised.
        training: the recipe's part.
        lr_factor: the learning rate of the plugs over that of the host.
    """
    groups = parameter_groups(network, training.lr, training.lr * lr_factor, training.weight_decay)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum)
    return torch.optim.AdamW(groups, lr=training.lr)


@contextmanager
def only_trainable(network: nn.Module, phase: Phase) -> Iterator[list[nn.Module]]:
    """Freeze all but the parameters that ``phase`` names; yield the modules that learn nothing.

    Parameters that were frozen before stay frozen.

    Raises:
        ValueError: it names no trainable parameter.
    """
    if phase.trainable == ("*",):
        yield []
        return
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    chosen = {name for name in learning if any(fnmatchcase(name, glob) for glob in phase.trainable)}
    if not chosen:
        raise ValueError(f"the phase {phase.name!r} trains {', '.join(phase.trainable)}: no parameter is called so")
    try:
        for name, parameter in learning.items():
            parameter.requires_grad_(name in chosen)
        yield silent(network)
    finally:
        for parameter in learning.values():
            parameter.requires_grad_(True)


def training_loss(task: Task, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
    """Return the named parts of the loss: of ``network.training_loss()`` if there is such a method, else the task's."""
    own = getattr(network, "training_loss", None)
    return dict(own(images, targets)) if callable(own) else task.loss(network, images, targets)


class TaskModule(LightningModule):
    """Train ``network`` as a task says, for one phase.

    Epochs count from 1 over all phases; epoch 0 is the test before any training.

    Args:
        network: the host with whatever is plugged into it.
        task: what is learnt.
        phase: what of the network learns, and for how long.
        steps: optimiser steps in one epoch.
        frozen: modules that stay in eval mode.
        before: epochs of the phases before this one.
        first_epoch: the epoch that Lightning's first is.
        optimizer_state: the optimiser's state after the epoch before, in the same phase.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        phase: Phase,
        *,
        steps: int,
        frozen: Sequence[nn.Module] = (),
        before: int = 0,
        first_epoch: int = 1,
        optimizer_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.task, self.phase = task, phase
        self.steps, self.before, self.first_epoch = steps, before, first_epoch
        self.optimizer_state = optimizer_state
        self.lr: float | None = None
        self.frozen = frozen
        self._losses: dict[str, float] = {}
        self._seen = 0
        self._rows: list[list[Rows]] = [[], []]

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; 0 while the untrained network is tested."""
        return self.first_epoch + self.current_epoch if self.trainer.state.fn == TrainerFn.FITTING else 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser and restore its state."""
        recipe = self.task.recipe
        optimizer = optimizer_of(self.network, recipe.training, recipe.attention.lr_factor)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        self._optimizer = optimizer
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Keep frozen modules in eval mode: their statistics stay as they are."""
        hold(self.frozen)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate, a function of the step's number: no scheduler state needs saving."""
        part = self.task.recipe.training
        step = (self.epoch - self.before - 1) * self.steps + batch_idx
        factor = rate(step, self.phase.epochs * self.steps, part.warmup_epochs * self.steps, part.schedule)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * factor
        self.lr = part.lr * factor

    def training_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            DivergenceError: it is not finite.
        """
        first, *others = (parts := training_loss(self.task, self.network, *batch)).values()
        loss = sum(others, first)
        if not math.isfinite(loss.item()):
            raise DivergenceError(
                self.epoch, batch_idx + 1, *locate(self.network, lambda: training_loss(self.task, self.network, *batch))
            )
        count = len(batch[0])
        self._seen += count
        for name, part in parts.items():
            self._losses[name] = self._losses.get(name, 0.0) + part.item() * count
        return loss

    def validation_step(self, batch: tuple[Tensor, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the rows of one batch of the test part (0) or the validation part (1).

        Raises:
            DivergenceError: they are not finite, though the network has been trained.
        """
        rows = self.task.rows(self.network, *batch)
        if self.epoch and not is_finite(rows):
            raise DivergenceError(self.epoch, 0, *locate(self.network, lambda: self.task.rows(self.network, *batch)))
        self._rows[dataloader_idx].append({name: values.detach().cpu() for name, values in rows.items()})

    def take(self) -> tuple[dict[str, float], Rows, Rows | None]:
        """Return and forget mean training losses by name, rows of the test part, and rows of the validation part."""
        losses = {name: total / self._seen for name, total in self._losses.items()}
        test, val = self._rows
        self._losses, self._seen, self._rows = {}, 0, [[], []]
        return losses, concatenate(test), concatenate(val) if val else None
