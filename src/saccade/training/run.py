"""Training of one recipe in a run folder; Lightning drives the epochs."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from saccade import catalog, tasks
from saccade.data import open_data
from saccade.data.samples import Splits
from saccade.data.sampling import EpochSampler
from saccade.decisions import auto_keys, decide, value_of
from saccade.errors import UserError
from saccade.events import Caution, Notify, SettingsDecided, TrainingBegan, ignore
from saccade.recipe import Data, Recipe
from saccade.tasks.base import Phase, Task
from saccade.training.checkpointer import Checkpointer, restore_handler
from saccade.training.divergence import DivergenceError
from saccade.training.environment import choose_device, environment, use_threads
from saccade.training.fastest import time_choices, without_attention
from saccade.training.fingerprint import fingerprint
from saccade.training.finishing import write_results
from saccade.training.folder import RunFolder
from saccade.training.gates import probe_images
from saccade.training.loaders import evaluation_loader, image_loader
from saccade.training.loggers import MetricLogger
from saccade.training.module import TaskModule, train_only
from saccade.training.optimizers import build_optimizer
from saccade.training.preparing import prepare
from saccade.training.resuming import find_mismatch
from saccade.trust import Trust

__all__ = ["Opener", "train"]

Opener = Callable[[Data, str, Notify], Splits]
"""Function that opens the images of a recipe's data for a kind of target, such as ``label``."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str = "auto",
    notify: Notify | None = None,
    opener: Opener = open_data,
    lock_timeout: float = 1.0,
    trust: Trust = False,
) -> dict[str, Any]:
    """Train the network that ``recipe`` describes, and return the contents of done.json.

    A finished run is not repeated. An interrupted one resumes after its last finished epoch; on the CPU the result is
    bit-identical. If a loss or an output is not finite, training stops: ``diverged`` in the result names the place, and
    the scores are those of the last finished epoch.

    Args:
        recipe: recipe of the run.
        folder: folder for its files; created if needed.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        notify: callback for ``FilesChecked``, ``ImagesNotCached``, ``SettingsDecided``, ``Caution``, ``TrainingBegan``,
            ``StepTaken`` and ``EpochEnded``.
        opener: function that opens the data; a study passes one that caches them.
        lock_timeout: seconds to wait for another process that has locked the folder.
        trust: True, or names such as ``my.module:Class`` that a teacher may import; see ``saccade.load``.

    Raises:
        UserError: the recipe, its data or the device is invalid, the folder cannot hold the run, or images or teacher
            have changed since the run began. Nothing is written in these cases.
    """
    torch_device = choose_device(device)
    notify = notify or ignore
    with RunFolder.locked(Path(folder), recipe, lock_timeout) as run:
        result = run.result()
        if result is None:
            task_name = tasks.choose_task(recipe)
            task_class = tasks.get(task_name)
            with use_threads(recipe.training.threads), _preserved_random_state(torch_device):
                if torch_device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(torch_device)
                full_recipe = tasks.resolve(recipe, task_class.target)
                splits = opener(full_recipe.data, task_class.target, notify)
                settings = _auto_settings(full_recipe, run, task_class, splits, torch_device, notify, trust)
                task = task_class(decide(full_recipe, settings), splits)
                result = _train(task_name, task, decide(recipe, settings), run, torch_device, notify, trust)
        return result


def _auto_settings(
    recipe: Recipe,
    run: RunFolder,
    task_class: type[Task],
    splits: Splits,
    device: torch.device,
    notify: Notify,
    trust: Trust,
) -> dict[str, Any]:
    """Return the values of the recipe's ``auto`` settings: those in the run folder, else the fastest by timing."""
    keys = auto_keys([recipe])
    if run.recipe is not None:
        saved = {key: value_of(run.recipe, key) for key in keys}
        if not auto_keys([decide(recipe, saved)]):
            return saved
    if not keys:
        return {}
    decision = time_choices(task_class(without_attention(recipe), splits), keys, device, trust)
    notify(SettingsDecided(**decision))
    settings: dict[str, Any] = decision["settings"]
    return settings


def _train(
    task_name: str, task: Task, given_recipe: Recipe, run: RunFolder, device: torch.device, notify: Notify, trust: Trust
) -> dict[str, Any]:
    metric = task.primary_metric()
    recipe, splits, training = task.recipe, task.data, task.recipe.training
    for caution in splits.cautions:
        notify(Caution(caution))
    prepared = prepare(task, trust)
    network, phases, teacher = prepared.network, prepared.phases, prepared.teacher
    sentences = (
        tasks.describe_resolved(given_recipe, recipe),
        prepared.frozen.sentence,
        _describe_displacement(task),
        *task.unscored(),
    )
    notes = [sentence for sentence in sentences if sentence]
    for note in notes:
        notify(Caution(note))
    ends = list(accumulate(phase.epochs for phase in phases))
    initial_state: dict[str, Any] = {"rows": [], "optimizer": None, "best": None}
    state = run.load_state() or initial_state
    data_fingerprint = fingerprint(splits, phases)
    if state.get("fingerprint", data_fingerprint) != data_fingerprint:
        raise UserError(
            f"the images changed since this run began: {recipe.data.source} holds files of other names, contents "
            f"or classes than {run.path} was trained on so far. Put them back, or remove that run folder to start over."
        )
    teacher_digest = None if teacher is None else teacher.digest
    if state.get("teacher", teacher_digest) != teacher_digest:
        raise UserError(
            f"the teacher changed since this run began: {training.teacher} holds other weights than {run.path} was "
            "trained with so far. Put them back, or remove that run folder to start over."
        )
    if state is not initial_state:
        optimizer = _optimizer_at(task, network, phases, len(state["rows"]) - 1)
        averaged = training.ema_decay is not None
        if mismatch := find_mismatch(
            state, network, optimizer, epochs=ends[-1], n_images=len(splits.test), averaged=averaged
        ):
            run.warn_unusable(f"{mismatch} does not fit this run")
            state = initial_state
    run.begin(given_recipe, environment(device, training.threads))
    epoch_rows: list[dict[str, Any]] = state["rows"]
    if epoch_rows:
        network.load_state_dict(state["network"])
    sampler = EpochSampler(splits.train, training.seed, training.batch_size)
    train_loader = image_loader(splits.train, recipe, device, batch_sampler=sampler)
    test_loader = evaluation_loader(splits.test, recipe, device)
    val_loader = None if splits.val is None else evaluation_loader(splits.val, recipe, device)
    notify(TrainingBegan(ends[-1], len(sampler), len(epoch_rows) - 1 if epoch_rows else 0))
    checkpointer = Checkpointer(
        run,
        epoch_rows,
        sampler,
        data_fingerprint,
        probe_images(splits.test),
        notify,
        metric,
        state["best"],
        state.get("average"),
        teacher_digest,
    )
    optimizer_state = state["optimizer"]
    del state
    diverged = None
    with closing(MetricLogger(run.path, recipe, epoch_rows, len(sampler))) as logger:
        for phase, epochs_before, end in zip(phases, [0, *ends], ends, strict=False):
            if len(epoch_rows) <= epochs_before + 1:  # no epoch of this phase is finished
                checkpointer.best = checkpointer.average = optimizer_state = None
            if len(epoch_rows) <= end:
                with train_only(network, phase) as frozen:
                    module = TaskModule(
                        network,
                        task,
                        phase,
                        steps_per_epoch=len(sampler),
                        frozen=[*prepared.frozen.modules, *frozen],
                        epochs_before=epochs_before,
                        first_epoch=max(1, len(epoch_rows)),
                        optimizer_state=optimizer_state,
                        average_state=checkpointer.average,
                        mixing=prepared.mixing,
                        teacher=teacher,
                    )
                    eval_loaders = (
                        [test_loader, val_loader] if phase.choose and val_loader is not None else [test_loader]
                    )
                    try:
                        _fit(module, train_loader, eval_loaders, checkpointer, logger, device, end)
                    except DivergenceError as error:
                        diverged = {"epoch": error.epoch, "step": error.step, "what": error.kind, "where": error.path}
                        diverged["message"] = str(error)
                        break
            if len(epoch_rows) == end + 1:  # the next phase starts from the scored weights
                if phase.choose and checkpointer.best is not None:
                    network.load_state_dict(checkpointer.best["network"])
                elif checkpointer.average is not None:
                    network.load_state_dict(checkpointer.average)
    return write_results(task_name, task, metric, run, network, phases[-1], diverged, notes, test_loader, device)


def _describe_displacement(task: Task) -> str | None:
    """Return a warning if the mechanism moves features and the targets are positions, else None."""
    mechanism = task.recipe.attention.mechanism
    if mechanism == "none" or not task.has_positions:
        return None
    name = catalog.mechanism_name(mechanism)
    spec = catalog.declared_spec(name)
    if spec is None or not spec.moves_features:
        return None
    return (
        f"{name} moves features away from their positions in the image, and the targets of this task are such "
        "positions: predictions are displaced with the features."
    )


def _optimizer_at(task: Task, network: nn.Module, phases: tuple[Phase, ...], epoch: int) -> torch.optim.Optimizer:
    """Return a new optimiser for the phase that contains epoch ``epoch``."""
    ends = accumulate(phase.epochs for phase in phases)
    phase = next((phase for phase, end in zip(phases, ends, strict=True) if epoch <= end), phases[-1])
    with train_only(network, phase):
        return build_optimizer(network, task.recipe.training, task.recipe.attention.lr_factor)


def _fit(
    module: TaskModule,
    train_loader: DataLoader,
    eval_loaders: list[DataLoader],
    checkpointer: Checkpointer,
    logger: MetricLogger,
    device: torch.device,
    end: int,
) -> None:
    """Train from the epoch after the last row up to epoch ``end``; test a new network first."""
    sigint_handler = signal.getsignal(signal.SIGINT)
    with _quiet_lightning():
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if module.task.recipe.training.precision == "bf16" else "32-true",
            plugins=[LightningEnvironment()],  # one process, even inside a Slurm or MPI job
            max_epochs=end - module.first_epoch + 1,
            callbacks=[checkpointer, logger],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            if not checkpointer.epoch_rows:
                trainer.validate(module, eval_loaders[0], verbose=False)
            module.train()
            trainer.fit(module, train_loader, eval_loaders)
        except SystemExit:  # Lightning turns Ctrl-C into SystemExit and ignores a second one
            if not checkpointer.interrupted:
                raise
            restore_handler(signal.SIGINT, sigint_handler)
            raise KeyboardInterrupt from None


@contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the caller's random state at the end of the context."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's log, and its advice on workers and idle GPUs, because the recipe sets these."""
    with ExitStack() as stack:
        for name in ("lightning.pytorch", "lightning.fabric"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning 2.6 uses LeafSpec(), which newer PyTorch deprecates.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield
