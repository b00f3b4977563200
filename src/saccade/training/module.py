"""LightningModule that trains a task for one phase."""

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
from saccade.training.averaging import WeightAverage
from saccade.training.distilling import Teacher
from saccade.training.divergence import DivergenceError, locate_nonfinite
from saccade.training.freezing import fully_frozen_modules, set_eval
from saccade.training.mixing import Mixing
from saccade.training.network import derive_seed
from saccade.training.optimizers import build_optimizer, clip_gradients
from saccade.training.schedules import lr_factor

__all__ = ["TaskModule", "check_own_loss", "train_only", "training_loss"]


@contextmanager
def train_only(network: nn.Module, phase: Phase) -> Iterator[list[nn.Module]]:
    """Freeze all parameters but those of ``phase`` in a context manager that yields the fully frozen modules.

    Parameters that were already frozen stay frozen.

    Raises:
        UserError: the phase matches no trainable parameter.
    """
    if phase.trainable == ("*",):
        yield []
        return
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    excluded = [glob[1:] for glob in phase.trainable if glob.startswith("!")]
    globs = [glob for glob in phase.trainable if not glob.startswith("!")] or ["*"] * bool(excluded)
    chosen = {
        name
        for name in trainable
        if any(fnmatchcase(name, glob) for glob in globs) and not any(fnmatchcase(name, glob) for glob in excluded)
    }
    if not chosen:
        frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
        if matches := [name for name in frozen if any(fnmatchcase(name, glob) for glob in globs)]:
            raise UserError(
                f"the phase {phase.name!r} trains {', '.join(phase.trainable)}: training.freeze has frozen all of "
                f"them, such as {matches[0]}"
            )
        prefixes = dict.fromkeys(name.partition(".")[0] for name in trainable)
        raise UserError(
            f"the phase {phase.name!r} trains {', '.join(phase.trainable)}: these globs match no trainable "
            f"parameter; the names begin with {', '.join(prefixes)}"
        )
    try:
        for name, parameter in trainable.items():
            parameter.requires_grad_(name in chosen)
        yield fully_frozen_modules(network)
    finally:
        for parameter in trainable.values():
            parameter.requires_grad_(True)


def training_loss(
    task: Task, network: nn.Module, images: Tensor, targets: Any, teacher: Teacher | None = None
) -> dict[str, Tensor]:
    """Return the loss terms by name, each a scalar, for ``images`` (B, C, H, W).

    A network's method ``training_loss(images, targets)`` takes precedence over the loss of the task and ``teacher``.
    """
    own_loss = getattr(network, "training_loss", None)
    if callable(own_loss):
        return dict(own_loss(images, task.network_targets(targets)))
    return task.loss(network, images, targets) if teacher is None else teacher.loss(task, network, images, targets)


def check_own_loss(network: nn.Module, training: Training) -> None:
    """Raise UserError if a network with its own loss has mixing or a teacher."""
    if callable(getattr(network, "training_loss", None)):
        for key in ("mixup_alpha", "cutmix_alpha", "teacher"):
            if getattr(training, key):
                raise UserError(
                    f"training.{key}: {type(network).__name__} computes its own loss; leave training.{key} out"
                )


class TaskModule(LightningModule):
    """Training of ``network`` on ``task`` for one phase.

    Epochs count from 1 over all phases; epoch 0 is the test before training.

    Args:
        network: host with its plugs.
        task: task with its images.
        phase: trainable parameters and number of epochs.
        steps_per_epoch: optimiser steps per epoch.
        frozen: modules that stay in eval mode.
        epochs_before: epochs of earlier phases.
        first_epoch: epoch of the run that Lightning counts as 0.
        optimizer_state: state dict of the optimiser, if a phase is resumed.
        average_state: state dict of the averaged network, if a phase is resumed.
        mixing: mixing of images, if any.
        teacher: for distillation, if any.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        phase: Phase,
        *,
        steps_per_epoch: int,
        frozen: Sequence[nn.Module] = (),
        epochs_before: int = 0,
        first_epoch: int = 1,
        optimizer_state: dict[str, Any] | None = None,
        average_state: dict[str, Tensor] | None = None,
        mixing: Mixing | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.task, self.phase = task, phase
        self.steps_per_epoch, self.epochs_before, self.first_epoch = steps_per_epoch, epochs_before, first_epoch
        self.optimizer_state, self._average_state = optimizer_state, average_state
        self.mixing, self.teacher = mixing, teacher
        self.average: WeightAverage | None = None
        self.lr: float | None = None
        self.frozen = frozen
        self._losses: dict[str, float] = {}
        self._n_images = 0
        self._rows: list[list[Rows]] = [[], []]

    @property
    def epoch(self) -> int:
        """Current epoch, from 1; 0 while the untrained network is tested."""
        return self.first_epoch + self.current_epoch if self.trainer.state.fn == TrainerFn.FITTING else 0

    @property
    def scored_network(self) -> nn.Module:
        """Network to score and save: the averaged network if there is one, else ``network``."""
        return self.network if self.average is None else self.average.network

    def on_fit_start(self) -> None:
        """Create the average and move the teacher to the device of the network."""
        decay = self.task.recipe.training.ema_decay
        if decay is not None:
            self.average = WeightAverage(self.network, decay, self._average_state)
        if self.teacher is not None:
            self.teacher.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser and restore its state."""
        recipe = self.task.recipe
        optimizer = build_optimizer(self.network, recipe.training, recipe.attention.lr_factor, self.phase.lr)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        self._optimizer = optimizer
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Put frozen modules back into eval mode."""
        set_eval(self.frozen)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the step, and seed torch's global generator."""
        training = self.task.recipe.training
        # Per step, so that what one step draws, such as the proposals of a detector, does not change the next.
        torch.manual_seed(derive_seed(training.seed, "epoch", self.epoch, "step", batch_idx))
        factor = lr_factor(self._step(batch_idx), self.steps_per_epoch, self.phase.epochs, training)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * factor
        self.lr = (training.lr if self.phase.lr is None else self.phase.lr) * factor

    def _step(self, batch_idx: int) -> int:
        """Return the index of a step within the phase, from 0."""
        return (self.epoch - self.epochs_before - 1) * self.steps_per_epoch + batch_idx

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the gradients, which are float32 even with bf16."""
        if (norm := self.task.recipe.training.clip_norm) is not None:
            clip_gradients((p for group in optimizer.param_groups for p in group["params"]), norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the average with the new weights."""
        if self.average is not None:
            self.average.update(self.network, self._step(batch_idx) + 1)

    def training_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch, a scalar.

        Raises:
            DivergenceError: the loss is not finite, or fails after a weight or gradient became so.
        """
        if self.mixing is not None:
            batch = self.mixing(*batch, self.epoch, batch_idx)

        def forward() -> dict[str, Tensor]:
            return training_loss(self.task, self.network, *batch, self.teacher)

        try:
            terms = forward()
        except Exception:  # such as a matching of boxes, which refuses NaN
            kind, path = locate_nonfinite(self.network, lambda: None)
            if kind == "loss":
                raise
            raise DivergenceError(self.epoch, batch_idx + 1, kind, path) from None
        first, *others = terms.values()
        loss = sum(others, first)
        if not math.isfinite(loss.item()):
            raise DivergenceError(self.epoch, batch_idx + 1, *locate_nonfinite(self.network, forward))
        count = len(batch[0])
        self._n_images += count
        for name, term in terms.items():
            self._losses[name] = self._losses.get(name, 0.0) + term.item() * count
        return loss

    def validation_step(self, batch: tuple[Tensor, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Store the outputs for a batch of the test (``dataloader_idx`` 0) or validation split (1).

        Raises:
            DivergenceError: an output is not finite after epoch 0.
        """
        rows = self.task.rows(self.scored_network, *batch)
        if self.epoch and not is_finite(rows):
            raise DivergenceError(
                self.epoch,
                0,
                *locate_nonfinite(self.scored_network, lambda: self.task.rows(self.scored_network, *batch)),
            )
        self._rows[dataloader_idx].append({name: values.detach().cpu() for name, values in rows.items()})

    def pop_results(self) -> tuple[dict[str, float], Rows, Rows | None]:
        """Return and reset the mean losses by name and the outputs for the test and validation splits."""
        losses = {name: total / self._n_images for name, total in self._losses.items()}
        test, val = self._rows
        self._losses, self._n_images, self._rows = {}, 0, [[], []]
        return losses, concatenate(test), concatenate(val) if val else None
