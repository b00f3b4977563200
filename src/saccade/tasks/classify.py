"""One label an image: cross-entropy is learnt, top-1 is scored."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from saccade.recipe import Training
from saccade.surgery import parameter_groups
from saccade.tasks.divergence import DivergenceError, locate

__all__ = ["Classify", "optimizer_of", "rate"]


def rate(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``, over the recipe's.

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
    """SGD with momentum or AdamW over the groups of the host and of the plugs; see :class:`Classify`."""
    groups = parameter_groups(network, training.lr, training.lr * lr_factor, training.weight_decay)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum)
    return torch.optim.AdamW(groups, lr=training.lr)


class _Tally:
    """Losses and answers of one pass over a part; ``score`` empties it."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, loss: float, logits: Tensor, labels: Tensor) -> None:
        """One batch: ``loss`` is its mean, ``logits`` (B, K), ``labels`` (B,)."""
        self.loss += loss * len(labels)
        self.predicted.append(logits.detach().argmax(1))
        self.labels.append(labels)


class Classify(LightningModule):
    """Trains ``network``, images (B, C, H, W) -> logits (B, ``classes``), as a recipe says.

    Its epochs are counted from 1; epoch 0 is the test before any training. After each test ``row`` holds the figures
    of the epoch and ``predicted`` its answers.

    Args:
        network: the host with whatever is plugged into it.
        classes: how many labels there are.
        training: the recipe's part.
        steps: optimiser steps in one epoch.
        lr_factor: the learning rate of the plugs over that of the host.
        first_epoch: the epoch that Lightning's first is.
        optimizer_state: the optimiser's state after the epoch before.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        training: Training,
        steps: int,
        lr_factor: float = 1.0,
        first_epoch: int = 1,
        optimizer_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.training_part = training
        self.steps = steps
        self.lr_factor = lr_factor
        self.first_epoch = first_epoch
        self.optimizer_state = optimizer_state
        self.row: dict[str, float | None] = {}
        self.predicted = torch.empty(0, dtype=torch.int64)
        self._accuracy = MulticlassAccuracy(classes, average="micro")
        self._lr: float | None = None
        self._train, self._test = _Tally(), _Tally()

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1; 0 while the untrained network is tested."""
        return self.first_epoch + self.current_epoch if self.trainer.state.fn == TrainerFn.FITTING else 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """:func:`optimizer_of` the network, in the state given."""
        optimizer = optimizer_of(self.network, self.training_part, self.lr_factor)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        self._optimizer = optimizer
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the rate of the step: a function of its number alone, so that nothing of it need be saved."""
        part = self.training_part
        step = (self.epoch - 1) * self.steps + batch_idx
        factor = rate(step, part.epochs * self.steps, part.warmup_epochs * self.steps, part.schedule)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * factor
        self._lr = part.lr * factor

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch.

        Raises:
            DivergenceError: it is not finite.
        """
        images, labels = batch

        def loss_of(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.training_part.label_smoothing)

        logits = self.network(images)
        loss = loss_of(logits)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(self.epoch, batch_idx + 1, *locate(self.network, images, loss_of))
        self._train.add(value, logits, labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Scores one batch; the loss is without label smoothing.

        Raises:
            DivergenceError: its loss is not finite, though the network has been trained.
        """
        images, labels = batch
        logits = self.network(images)
        value = F.cross_entropy(logits.float(), labels).item()
        if not math.isfinite(value) and self.epoch:
            raise DivergenceError(
                self.epoch, 0, *locate(self.network, images, lambda z: F.cross_entropy(z.float(), labels))
            )
        self._test.add(value, logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Puts the figures of the epoch into ``row``; top-1 is in percent, what is not finite or not there is None."""
        train_loss, train_top1, _ = self._score(self._train)
        test_loss, test_top1, self.predicted = self._score(self._test)
        self._train, self._test = _Tally(), _Tally()
        self.row = {
            "train_loss": train_loss,
            "train_top1": train_top1,
            "test_loss": test_loss,
            "test_top1": test_top1,
            "lr": self._lr,
        }

    def _score(self, tally: _Tally) -> tuple[float | None, float | None, Tensor]:
        if not tally.labels:
            return None, None, torch.empty(0, dtype=torch.int64)
        predicted, labels = torch.cat(tally.predicted), torch.cat(tally.labels)
        self._accuracy.reset()
        self._accuracy.update(predicted, labels)
        loss = tally.loss / len(labels)
        top1 = round(100.0 * float(self._accuracy.compute()), 4)  # float32 holds no more
        return loss if math.isfinite(loss) else None, top1, predicted.cpu()
