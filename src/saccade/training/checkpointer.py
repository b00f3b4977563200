"""After each epoch: a row of metrics, a state to resume from, an event."""

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
from saccade.training.gates import gate_movement
from saccade.training.module import TaskModule
from saccade.training.network import derived

__all__ = ["Checkpointer", "restore_handler"]

_STEP_EVERY = 0.2
"""Seconds between two ``StepTaken``."""


class Checkpointer(Callback):
    """Keep a run resumable.

    Args:
        run: where rows and states are kept.
        rows: of metrics.jsonl, of the epochs so far; grows.
        sampler: the training loader's, given the epoch.
        fingerprint: of the images.
        probe: images for the gates.
        notify: the listener.
        metric: of the verdicts; a phase that chooses goes by it.
        best: the chosen epoch so far of the phase under way.
        average: the averaged network after the last epoch, where there is one.
        teacher: digest of the teacher's weights, where there is one.
    """

    def __init__(
        self,
        run: RunFolder,
        rows: list[dict[str, Any]],
        sampler: EpochSampler,
        fingerprint: str,
        probe: Tensor,
        notify: Notify,
        metric: Metric,
        best: dict[str, Any] | None,
        average: dict[str, Tensor] | None = None,
        teacher: str | None = None,
    ) -> None:
        self.run, self.rows, self.sampler, self.probe, self.notify = run, rows, sampler, probe, notify
        self.fingerprint, self.metric, self.best = fingerprint, metric, best
        self.average, self.teacher = average, teacher
        self.interrupted = False
        self._seed = sampler.seed
        self._began = self._last_step = time.monotonic()
        self._terminate = signal.getsignal(signal.SIGTERM)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remember whether Ctrl-C ended the run."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin epoch 0."""
        if not self.rows:
            self._begin(0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End epoch 0."""
        if not self.rows:
            self._keep(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the sampler before the loader of the first epoch is asked for its batches."""
        self.sampler.set_epoch(max(1, len(self.rows)))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        assert isinstance(pl_module, TaskModule)
        self._begin(pl_module.epoch)

    def _begin(self, epoch: int) -> None:
        # Lightning would put SIGTERM off to the end of the epoch; the folder can be resumed at any moment.
        restore_handler(signal.SIGTERM, self._terminate)
        # What an epoch draws (dropout, stochastic depth) depends on nothing before it: no generator need be saved.
        torch.manual_seed(derived(self._seed, "epoch", epoch))
        self.sampler.set_epoch(epoch)
        self._began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the step, at most five times a second."""
        now = time.monotonic()
        if now - self._last_step >= _STEP_EVERY:
            assert isinstance(pl_module, TaskModule)
            self._last_step = now
            self.notify(StepTaken(pl_module.epoch, batch_idx + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an epoch and its test."""
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        task, network, epoch = pl_module.task, pl_module.network, pl_module.epoch
        losses, test, val = pl_module.take()
        row: dict[str, Any] = {"epoch": epoch, "losses": losses, "scores": task.scores(test), "lr": pl_module.lr}
        if len(task.phases(network)) > 1:
            row["phase"] = pl_module.phase.name
        if val is not None:
            row["val"] = task.scores(val)
            self._choose(epoch, row["val"][self.metric.name], pl_module.scored.state_dict(), test)
        row["seconds"] = round(time.monotonic() - self._began, 3)
        row["memory_mb"] = peak_memory(pl_module.device)
        row["gates"] = gate_movement(pl_module.scored, self.probe.to(pl_module.device))
        self.average = None if pl_module.average is None else pl_module.average.network.state_dict()
        self.rows.append(row)
        self.run.keep(
            {
                "rows": self.rows,
                "fingerprint": self.fingerprint,
                "network": network.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else None,
                "test": test,
                "best": self.best,
                "average": self.average,
                "teacher": self.teacher,
            }
        )
        self.notify(EpochEnded(epoch, row, self.metric.format(row["scores"][self.metric.name])))

    def _choose(self, epoch: int, score: float | None, state: dict[str, Tensor], test: dict[str, Tensor]) -> None:
        """Keep ``state`` if no epoch of the phase scored better on the validation part."""
        if score is None:
            return
        sign = 1.0 if self.metric.higher_is_better else -1.0
        if self.best is None or sign * score > sign * self.best["score"]:
            copy = {name: value.detach().cpu().clone() for name, value in state.items()}
            self.best = {"score": score, "epoch": epoch, "network": copy, "test": test}


def restore_handler(number: signal.Signals, handler: Any) -> None:
    """Put a signal handler back; only the main thread can, and only one that Python installed."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
