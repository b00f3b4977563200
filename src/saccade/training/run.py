"""One run, from recipe to done.json; Lightning drives the epochs, this file keeps the books."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from saccade import saving
from saccade.data import EpochSampler, ImageSet, Split, open_data
from saccade.errors import UserError
from saccade.recipe import Data, Recipe
from saccade.tasks import Classify, DivergenceError
from saccade.tasks.classify import optimizer_of
from saccade.training.environment import choose_device, environment, peak_memory
from saccade.training.folder import RunFolder
from saccade.training.gates import constant_plugs, gate_movement, probe_images
from saccade.training.network import build, derived, started
from saccade.training.resuming import misfit

__all__ = ["train"]

Notify = Callable[[dict[str, Any]], None]
_STEP_EVERY = 0.2
"""Seconds between two ``step`` events."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str = "auto",
    notify: Notify | None = None,
    images: Callable[[Data, Notify], Split] | None = None,
    patience: float = 1.0,
) -> dict[str, Any]:
    """Does the run that ``recipe`` describes and returns what done.json says.

    A run that is done is not done again; one that was interrupted, however hard, goes on after its last finished
    epoch and, on the CPU, ends in the same network to the last bit. A loss that is not finite ends the run early:
    ``diverged`` in the result names the place, and the score is that of the last finished epoch.

    Args:
        recipe: all that decides the run.
        folder: where its files go; made if need be.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        notify: told what happens, as dictionaries with an ``event``: ``check`` (``done`` of ``total`` images looked
            at), ``caution`` (``text`` on images that spoil the score), ``start`` (``epochs``, ``steps`` of an epoch,
            the ``epoch`` it goes on after), ``step`` (``epoch``, ``step``; at most five a second), ``epoch`` (a row of
            metrics.jsonl), ``done`` (the result).
        images: opens the data, for a caller who may have them open already; None is ``saccade.data.open_data``.
        patience: seconds to wait for another process that works in the folder and may be on its way out.

    Raises:
        UserError: the recipe, its data or the device is wrong, the folder cannot hold the run, or the images are not
            those that the run began with; nothing has been written then.
    """
    where = choose_device(device)
    tell = notify or _nobody
    with RunFolder.hold(Path(folder), recipe, patience) as run:
        result = run.result()
        if result is None:
            with _threads(recipe.training.threads), _own_random_state(where):
                result = _train(recipe, run, where, tell, (images or open_data)(recipe.data, tell))
        tell({"event": "done", **result})
        return result


def _nobody(event: dict[str, Any]) -> None:
    """Listens to nothing."""


def _train(recipe: Recipe, run: RunFolder, device: torch.device, tell: Notify, split: Split) -> dict[str, Any]:
    part = recipe.training
    for caution in split.cautions:
        tell({"event": "caution", "text": caution})
    network = build(recipe, split)
    new: dict[str, Any] = {"rows": [], "optimizer": None}
    state = run.resume() or new
    if state.get("fingerprint", split.fingerprint) != split.fingerprint:
        raise UserError(
            f"the images changed since this run began: {recipe.data.source} holds files of other names, contents "
            f"or classes than {run.path} was trained on so far. Put them back, or remove that run folder to start over."
        )
    if state is not new:
        optimizer = optimizer_of(network, part, recipe.attention.lr_factor)
        if what := misfit(state, network, optimizer, epochs=part.epochs, images=len(split.test)):
            run.disown(f"{what} is not of this run")
            state = new
    run.begin(recipe, environment(device, part.threads))
    rows: list[dict[str, Any]] = state["rows"]
    if rows:
        network.load_state_dict(state["network"])
    sampler = EpochSampler(split.train, part.seed, part.batch_size)
    order = _test_order(recipe, len(split.test))
    loaders = (
        _loader(split.train, recipe, device, batch_sampler=sampler),
        _loader(split.test, recipe, device, batch_size=part.batch_size, sampler=order),
    )
    tell({"event": "start", "epochs": part.epochs, "steps": len(sampler), "epoch": len(rows) - 1 if rows else 0})

    task = Classify(
        network,
        classes=len(split.classes),
        training=part,
        steps=len(sampler),
        lr_factor=recipe.attention.lr_factor,
        first_epoch=max(1, len(rows)),
        optimizer_state=state["optimizer"],
    )
    books = _Books(run, rows, sampler, split.fingerprint, probe_images(split.test), tell)
    del state
    diverged = None
    if len(rows) <= part.epochs:
        try:
            _fit(task, loaders, books, device, part.epochs)
        except DivergenceError as place:
            diverged = {"epoch": place.epoch, "step": place.step, "what": place.what, "where": place.where}
            diverged["message"] = str(place)
    return _finish(recipe, run, split, network, diverged, loaders[1], device)


def _fit(
    task: Classify, loaders: tuple[DataLoader, DataLoader], books: _Books, device: torch.device, epochs: int
) -> None:
    """Trains from the epoch after the last row to epoch ``epochs``; the untrained network is tested first."""
    train, test = loaders
    interrupt = signal.getsignal(signal.SIGINT)
    with _silent_lightning():
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if task.training_part.precision == "bf16" else "32-true",
            plugins=[LightningEnvironment()],  # one process, also as a step of a Slurm or MPI job
            max_epochs=epochs - task.first_epoch + 1,
            callbacks=[books],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            if not books.rows:
                trainer.validate(task, test, verbose=False)
            task.train()
            trainer.fit(task, train, test)
        except SystemExit:  # what Lightning makes of Ctrl-C, with further ones ignored
            if not books.interrupted:
                raise
            _handle(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None


class _Books(Callback):
    """After each epoch: a row, a state to resume from, an event.

    Args:
        run: where both are kept.
        rows: those of the epochs so far; grows.
        sampler: the training loader's, told the epoch.
        fingerprint: of the images.
        probe: images for the gates.
        tell: the listener.
    """

    def __init__(
        self,
        run: RunFolder,
        rows: list[dict[str, Any]],
        sampler: EpochSampler,
        fingerprint: str,
        probe: Tensor,
        tell: Notify,
    ) -> None:
        self.run, self.rows, self.sampler, self.probe, self.tell = run, rows, sampler, probe, tell
        self.fingerprint = fingerprint
        self.interrupted = False
        self._seed = sampler.seed
        self._begun = self._told = time.monotonic()
        self._terminate = signal.getsignal(signal.SIGTERM)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remembers whether it was the user who ended the run."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before epoch 0."""
        if not self.rows:
            self._begin(0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After epoch 0."""
        if not self.rows:
            self._keep(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the loader of the first epoch is asked for its batches."""
        self.sampler.set_epoch(max(1, len(self.rows)))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before an epoch."""
        assert isinstance(pl_module, Classify)
        self._begin(pl_module.epoch)

    def _begin(self, epoch: int) -> None:
        # Lightning would put SIGTERM off to the end of the epoch; the folder can be resumed at any moment.
        _handle(signal.SIGTERM, self._terminate)
        # What an epoch draws (dropout, stochastic depth) depends on nothing before it: no generator need be saved.
        torch.manual_seed(derived(self._seed, "epoch", epoch))
        self.sampler.set_epoch(epoch)
        self._begun = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells of the step, now and then."""
        now = time.monotonic()
        if now - self._told >= _STEP_EVERY:
            assert isinstance(pl_module, Classify)
            self._told = now
            self.tell({"event": "step", "epoch": pl_module.epoch, "step": batch_idx + 1})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch and its test."""
        self._keep(trainer, pl_module)

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classify)
        row: dict[str, Any] = {"epoch": pl_module.epoch, **pl_module.row}
        row["seconds"] = round(time.monotonic() - self._begun, 3)
        row["memory_mb"] = peak_memory(pl_module.device)
        row["gates"] = gate_movement(pl_module.network, self.probe.to(pl_module.device))
        self.rows.append(row)
        self.run.keep(
            {
                "rows": self.rows,
                "fingerprint": self.fingerprint,
                "network": pl_module.network.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else None,
                "predicted": pl_module.predicted.to(torch.int32),
            }
        )
        self.tell({"event": "epoch", **row})


def _handle(number: signal.Signals, handler: Any) -> None:
    """Puts a signal handler back; only the main thread can, and only one that Python installed."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _finish(
    recipe: Recipe,
    run: RunFolder,
    split: Split,
    network: nn.Module,
    diverged: dict[str, Any] | None,
    test: DataLoader,
    device: torch.device,
) -> dict[str, Any]:
    """All files that are made from the state after the last finished epoch, and the result."""
    state = run.resume()
    assert state is not None
    network.load_state_dict(state["network"])
    network.to(device).eval()
    constant = {} if diverged else constant_plugs(network, (images.to(device) for images, _ in test))
    network.cpu()
    rows = state["rows"]
    last = rows[-1]
    result = {
        "top1": last["test_top1"],
        "test_loss": last["test_loss"],
        "epochs": last["epoch"],
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "parameters": sum(p.numel() for p in network.parameters()),
        "start": started(network),
        "fingerprint": split.fingerprint,
        "left_out": split.left_out,
        "cautions": split.cautions,
        "constant": constant,
        "diverged": diverged,
    }
    labels = torch.tensor(split.test.labels, dtype=torch.int32)
    order, predicted = _test_order(recipe, len(labels)), state["predicted"]
    if order is not None:
        predicted = predicted[torch.tensor(order).argsort()]
    run.write("predictions.safetensors", save({"predicted": predicted, "label": labels}))
    options = {**recipe.model.options, "num_classes": len(split.classes), "in_chans": split.channels}
    saving.save(
        network,
        run.path,
        host={"timm": recipe.model.name, "options": options},
        input=(split.channels, split.size, split.size),
        classes=split.classes,
        mean=list(split.mean),
        std=list(split.std),
        epochs=last["epoch"],
        top1=last["test_top1"],
    )
    run.finish(result)
    return result


def _test_order(recipe: Recipe, count: int) -> list[int] | None:
    """The order in which ``count`` test images are seen, where it matters; None for as they lie.

    It matters where an image is weighed by what the mechanism sees in its neighbour: as they lie, most neighbours are
    of one class. The order is the same for all runs.
    """
    if recipe.attention.control != "shuffled":
        return None
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order


def _loader(images: ImageSet, recipe: Recipe, device: torch.device, **order: Any) -> DataLoader:
    """Batches of ``images`` in the ``order`` of a sampler; draws nothing from the global generator."""
    workers = recipe.training.workers
    return DataLoader(
        images,
        **order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """``count`` CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """The caller's random numbers go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        yield


@contextmanager
def _silent_lightning() -> Iterator[None]:
    """No word from Lightning about itself, and no guess about workers or idle GPUs: the recipe decides both."""
    with ExitStack() as stack:
        for name in ("lightning.pytorch", "lightning.fabric"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning 2.6 still builds LeafSpec(), which newer PyTorch deprecates.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield
