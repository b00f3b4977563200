"""Callback that saves metrics and a resumable state after each epoch."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from saccade.data.sampling import EpochSampler
from saccade.events import EpochEnded, Notify, StepTaken
from saccade.metrics.metric import Metric
from saccade.training.environment import peak_memory
from saccade.training.folder import RunFolder
from saccade.training.gates import plug_statistics
from saccade.training.module import TaskModule
from saccade.training.network import derive_seed

__all__ = ["Checkpointer", "restore_handler"]

_STEP_INTERVAL = 0.2
"""Shortest time between two ``StepTaken`` events, in seconds."""


class Checkpointer(Callback):
    """Save metrics and a resumable state after each epoch.

    Args:
        run: its folder.
        epoch_rows: rows of metrics.jsonl so far.
        sampler: sampler of the training images.
        fingerprint: fingerprint of the images.
        probe: images (B, C, H, W) for plug statistics.
        notify: callback for events.
        metric: primary metric; a phase with ``choose`` selects its best epoch by it.
        best: best epoch of the phase, if any.
        average: state dict of the averaged network, if any.
        teacher: digest of the teacher's weights, if any.
    """

    def __init__(
        self,
        run: RunFolder,
        epoch_rows: list[dict[str, Any]],
        sampler: EpochSampler,
        fingerprint: str,
        probe: Tensor,
        notify: Notify,
        metric: Metric,
        best: dict[str, Any] | None,
        average: dict[str, Tensor] | None = None,
        teacher: str | None = None,
    ) -> None:
        self.run, self.epoch_rows, self.sampler, self.probe, self.notify = run, epoch_rows, sampler, probe, notify
        self.fingerprint, self.metric, self.best = fingerprint, metric, best
        self.average, self.teacher = average, teacher
        self.interrupted = False
        self._seed = sampler.seed
        self._began = self._last_step = time.monotonic()
        self._sigterm_handler = signal.getsignal(signal.SIGTERM)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Set ``interrupted`` if Ctrl-C ended the run."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin epoch 0, the test of the untrained network."""
        if not self.epoch_rows:
            self._begin_epoch(0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save epoch 0."""
        if not self.epoch_rows:
            self._save_epoch(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the epoch of the sampler before Lightning creates its iterator."""
        self.sampler.set_epoch(max(1, len(self.epoch_rows)))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the epoch."""
        assert isinstance(pl_module, TaskModule)
        self._begin_epoch(pl_module.epoch)

    def _begin_epoch(self, epoch: int) -> None:
        # Undo Lightning's handler, which delays SIGTERM to the end of the epoch: a run may stop at any moment.
        restore_handler(signal.SIGTERM, self._sigterm_handler)
        # Seeded per epoch, and per step in the module, so that no generator state needs saving.
        torch.manual_seed(derive_seed(self._seed, "epoch", epoch))
        self.sampler.set_epoch(epoch)
        self._began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the step, at most five times a second."""
        now = time.monotonic()
        if now - self._last_step >= _STEP_INTERVAL:
            assert isinstance(pl_module, TaskModule)
            self._last_step = now
            self.notify(StepTaken(pl_module.epoch, batch_idx + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch."""
        self._save_epoch(trainer, pl_module)

    def _save_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        task, network, epoch = pl_module.task, pl_module.network, pl_module.epoch
        losses, test_outputs, val_outputs = pl_module.pop_results()
        row: dict[str, Any] = {
            "epoch": epoch,
            "losses": losses,
            "scores": task.scores(test_outputs),
            "lr": pl_module.lr,
        }
        if len(task.phases(network)) > 1:
            row["phase"] = pl_module.phase.name
        if val_outputs is not None:
            row["val"] = task.scores(val_outputs)
            self._update_best(epoch, row["val"][self.metric.name], pl_module.scored_network.state_dict(), test_outputs)
        row["seconds"] = round(time.monotonic() - self._began, 3)
        row["memory_mb"] = peak_memory(pl_module.device)
        row["gates"] = plug_statistics(pl_module.scored_network, self.probe.to(pl_module.device))
        self.average = None if pl_module.average is None else pl_module.average.network.state_dict()
        self.epoch_rows.append(row)
        self.run.save_state(
            {
                "rows": self.epoch_rows,
                "fingerprint": self.fingerprint,
                "network": network.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else None,
                "test": test_outputs,
                "best": self.best,
                "average": self.average,
                "teacher": self.teacher,
            }
        )
        self.notify(EpochEnded(epoch, row, self.metric.format(row["scores"][self.metric.name])))

    def _update_best(
        self, epoch: int, score: float | None, state: dict[str, Tensor], test_outputs: dict[str, Tensor]
    ) -> None:
        """Store ``state`` and ``test_outputs`` if ``score`` is better than the best of the phase."""
        if score is None:
            return
        sign = 1.0 if self.metric.higher_is_better else -1.0
        if self.best is None or sign * score > sign * self.best["score"]:
            weights = {name: value.detach().cpu().clone() for name, value in state.items()}
            self.best = {"score": score, "epoch": epoch, "network": weights, "test": test_outputs}


def restore_handler(signal_number: signal.Signals, handler: Any) -> None:
    """Restore a signal handler, if this is the main thread and Python installed the handler."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal_number, handler)
