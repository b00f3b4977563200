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

from saccade.errors import UserError
from saccade.metrics.rows import Rows, concatenate, is_finite
from saccade.recipe import Training
from saccade.tasks.base import Phase, Task
from saccade.training.averaging import Average
from saccade.training.distilling import Teacher
from saccade.training.divergence import DivergenceError, locate
from saccade.training.freezing import hold, silent
from saccade.training.mixing import Mixing
from saccade.training.optimizers import clip, optimizer_of
from saccade.training.schedules import rate

__all__ = ["TaskModule", "check_own_loss", "only_trainable", "training_loss"]


@contextmanager
def only_trainable(network: nn.Module, phase: Phase) -> Iterator[list[nn.Module]]:
    """Freeze all but the parameters that ``phase`` names; yield the modules that learn nothing.

    Parameters that were frozen before stay frozen.

    Raises:
        UserError: it names no trainable parameter.
    """
    if phase.trainable == ("*",):
        yield []
        return
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    without = [glob[1:] for glob in phase.trainable if glob.startswith("!")]
    globs = [glob for glob in phase.trainable if not glob.startswith("!")] or ["*"] * bool(without)
    chosen = {
        name
        for name in learning
        if any(fnmatchcase(name, glob) for glob in globs) and not any(fnmatchcase(name, glob) for glob in without)
    }
    if not chosen:
        frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
        if held := [name for name in frozen if any(fnmatchcase(name, glob) for glob in globs)]:
            raise UserError(
                f"the phase {phase.name!r} trains {', '.join(phase.trainable)}: training.freeze has frozen all of it, "
                f"such as {held[0]}"
            )
        there = dict.fromkeys(name.partition(".")[0] for name in learning)
        raise UserError(
            f"the phase {phase.name!r} trains {', '.join(phase.trainable)}: no parameter is called so; they begin with "
            f"{', '.join(there)}"
        )
    try:
        for name, parameter in learning.items():
            parameter.requires_grad_(name in chosen)
        yield silent(network)
    finally:
        for parameter in learning.values():
            parameter.requires_grad_(True)


def training_loss(
    task: Task, network: nn.Module, images: Tensor, targets: Any, teacher: Teacher | None = None
) -> dict[str, Tensor]:
    """Return the named parts of the loss: of ``network.training_loss()`` if there is such a method, else the task's.

    A ``teacher`` adds its own part to the task's.
    """
    own = getattr(network, "training_loss", None)
    if callable(own):
        return dict(own(images, targets))
    return task.loss(network, images, targets) if teacher is None else teacher.loss(task, network, images, targets)


def check_own_loss(network: nn.Module, training: Training) -> None:
    """Raise UserError where the recipe changes a loss that is the network's own."""
    if callable(getattr(network, "training_loss", None)):
        for key in ("mixup_alpha", "cutmix_alpha", "teacher"):
            if getattr(training, key):
                raise UserError(f"training.{key}: {type(network).__name__} has a loss of its own; leave {key} out")


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
        average_state: that of the averaged network, where the recipe asks for one.
        mixing: of the images of a batch.
        teacher: a trained network to learn from.
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
        average_state: dict[str, Tensor] | None = None,
        mixing: Mixing | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.task, self.phase = task, phase
        self.steps, self.before, self.first_epoch = steps, before, first_epoch
        self.optimizer_state, self._average_state = optimizer_state, average_state
        self.mixing, self.teacher = mixing, teacher
        self.average: Average | None = None
        self.lr: float | None = None
        self.frozen = frozen
        self._losses: dict[str, float] = {}
        self._seen = 0
        self._rows: list[list[Rows]] = [[], []]

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; 0 while the untrained network is tested."""
        return self.first_epoch + self.current_epoch if self.trainer.state.fn == TrainerFn.FITTING else 0

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and saved: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.network

    def on_fit_start(self) -> None:
        """Begin or continue the average, and move the teacher, on the device that the network is on by now."""
        decay = self.task.recipe.training.ema_decay
        if decay is not None:
            self.average = Average(self.network, decay, self._average_state)
        if self.teacher is not None:
            self.teacher.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser and restore its state."""
        recipe = self.task.recipe
        optimizer = optimizer_of(self.network, recipe.training, recipe.attention.lr_factor, self.phase.lr)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        self._optimizer = optimizer
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Keep frozen modules in eval mode: their statistics stay as they are."""
        hold(self.frozen)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate."""
        part = self.task.recipe.training
        factor = rate(self._step(batch_idx), self.steps, self.phase.epochs, part)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * factor
        self.lr = (part.lr if self.phase.lr is None else self.phase.lr) * factor

    def _step(self, batch_idx: int) -> int:
        """Return the number of a step, from 0, in its phase."""
        return (self.epoch - self.before - 1) * self.steps + batch_idx

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the gradients as the recipe says; they are float32, under bf16 too."""
        if (norm := self.task.recipe.training.clip_norm) is not None:
            clip((p for group in optimizer.param_groups for p in group["params"]), norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the step into the average."""
        if self.average is not None:
            self.average.update(self.network, self._step(batch_idx) + 1)

    def training_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            DivergenceError: it is not finite.
        """
        if self.mixing is not None:
            batch = self.mixing(*batch, self.epoch, batch_idx)

        def forward() -> dict[str, Tensor]:
            return training_loss(self.task, self.network, *batch, self.teacher)

        first, *others = (parts := forward()).values()
        loss = sum(others, first)
        if not math.isfinite(loss.item()):
            raise DivergenceError(self.epoch, batch_idx + 1, *locate(self.network, forward))
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
        rows = self.task.rows(self.scored, *batch)
        if self.epoch and not is_finite(rows):
            raise DivergenceError(self.epoch, 0, *locate(self.scored, lambda: self.task.rows(self.scored, *batch)))
        self._rows[dataloader_idx].append({name: values.detach().cpu() for name, values in rows.items()})

    def take(self) -> tuple[dict[str, float], Rows, Rows | None]:
        """Return and forget mean training losses by name, rows of the test part, and rows of the validation part."""
        losses = {name: total / self._seen for name, total in self._losses.items()}
        test, val = self._rows
        self._losses, self._seen, self._rows = {}, 0, [[], []]
        return losses, concatenate(test), concatenate(val) if val else None
