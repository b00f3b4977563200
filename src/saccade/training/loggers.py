"""Logging to TensorBoard and Weights & Biases, through Lightning's loggers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from saccade.errors import UserError
from saccade.files import write_atomically
from saccade.recipe import Recipe
from saccade.training.module import TaskModule

__all__ = ["MetricLogger", "check_installed"]

_LOSS_INTERVAL = 50
"""Steps between two logged training losses; Lightning's default."""


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError unless the packages of the loggers ``names`` are installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"training.loggers: {name} is not installed: pip install 'saccade-attention[{name}]', or leave it out"
            )


class MetricLogger(Callback):
    """Log the training loss at every 50th step, and each row of metrics.jsonl at the end of its epoch.

    Steps count from the start of the run, so that a resumed run continues its curves.

    Args:
        folder: folder of the run.
        recipe: recipe with the names of the loggers.
        epoch_rows: rows of metrics.jsonl so far; the Checkpointer, an earlier callback, appends to them.
        steps_per_epoch: steps per epoch.
    """

    def __init__(self, folder: Path, recipe: Recipe, epoch_rows: list[dict[str, Any]], steps_per_epoch: int) -> None:
        self._epoch_rows, self._steps_per_epoch = epoch_rows, steps_per_epoch
        last_step = max(0, len(epoch_rows) - 1) * steps_per_epoch
        self._loggers: list[Logger] = []
        self._started_wandb = False
        for name in recipe.training.loggers:
            if name == "tensorboard":
                # max_queue=1 writes at once; purge_step hides entries after the last finished epoch.
                board = TensorBoardLogger(
                    folder, name=name, version="", default_hp_metric=False, max_queue=1, purge_step=last_step
                )
                self._loggers.append(board)
            else:
                self._loggers.append(self._wandb(folder))
        for logger in self._loggers:
            logger.log_hyperparams(recipe.model_dump(mode="json", exclude_none=True))
        if epoch_rows and self._loggers:  # a killed run may not have logged this row
            self._log_row()

    def _wandb(self, folder: Path) -> Logger:
        import wandb

        self._started_wandb = wandb.run is None  # a wandb run that the caller started is left open
        file = folder / "wandb" / "id.txt"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, secrets.token_hex(4))
        logger = WandbLogger(
            project=os.environ.get("WANDB_PROJECT", "saccade"),
            name=os.environ.get("WANDB_NAME", folder.resolve().name),
            save_dir=folder,
            id=file.read_text(),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        try:
            _ = logger.experiment
        except wandb.errors.Error as error:
            raise UserError(f"training.loggers: wandb: {error}") from error
        return logger

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        for logger in self._loggers:
            logger.log_metrics({name: value for name, value in values.items() if value is not None}, step)

    def _log_row(self) -> None:
        row = self._epoch_rows[-1]
        values = {key: row[key] for key in ("epoch", "lr", "seconds", "memory_mb")}
        for key, prefix in (("losses", "loss"), ("scores", "score"), ("val", "val")):
            values |= {f"{prefix}/{name}": value for name, value in row.get(key, {}).items()}
        self._log(values, row["epoch"] * self._steps_per_epoch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log epoch 0."""
        assert isinstance(pl_module, TaskModule)
        if not pl_module.epoch:
            self._log_row()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the training loss at every 50th step."""
        assert isinstance(pl_module, TaskModule)
        step = (pl_module.epoch - 1) * self._steps_per_epoch + batch_idx + 1
        if self._loggers and step % _LOSS_INTERVAL == 0:
            self._log({"training loss": outputs["loss"].item()}, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of the epoch."""
        self._log_row()

    def close(self) -> None:
        """Flush all loggers; finish the wandb run if this object started it."""
        for logger in self._loggers:
            logger.finalize("success")
        if self._started_wandb:
            import wandb

            wandb.finish()
