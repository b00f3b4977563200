"""One run, from recipe to done.json; Lightning drives the epochs."""

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
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader

from saccade import saving, tasks
from saccade.data import open_data
from saccade.data.samples import ImageSet, Splits, collate
from saccade.data.sampling import EpochSampler
from saccade.decisions import decide, setting, undecided
from saccade.errors import UserError
from saccade.events import Caution, Notify, SettingsDecided, TrainingBegan, ignore
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, select_images
from saccade.recipe import Data, Recipe
from saccade.tasks.base import Phase, Task
from saccade.training.checkpointer import Checkpointer, restore_handler
from saccade.training.divergence import DivergenceError
from saccade.training.environment import choose_device, environment, use_threads
from saccade.training.fastest import fastest, plain
from saccade.training.fingerprint import fingerprint
from saccade.training.folder import RunFolder
from saccade.training.gates import constant_plugs, probe_images
from saccade.training.loggers import Curves
from saccade.training.module import TaskModule, only_trainable
from saccade.training.network import started
from saccade.training.optimizers import optimizer_of
from saccade.training.preparing import prepare
from saccade.training.resuming import misfit
from saccade.trust import Trust

__all__ = ["Opener", "train"]

Opener = Callable[[Data, str, Notify], Splits]


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str = "auto",
    notify: Notify | None = None,
    images: Opener = open_data,
    patience: float = 1.0,
    trust: Trust = False,
) -> dict[str, Any]:
    """Do the run that ``recipe`` describes and return what done.json says.

    A finished run is not repeated. An interrupted one, even a killed one, goes on after its last finished epoch and,
    on the CPU, ends in the same network to the last bit. A training loss or a row that is not finite ends it early:
    ``diverged`` in the result names the place, and the scores are those of the last finished epoch.

    Args:
        recipe: decides the run.
        folder: where its files go; made if need be.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        notify: receives ``FilesChecked``, ``PicturesNotKept``, ``SettingsDecided``, ``Caution``, ``TrainingBegan``,
            ``StepTaken`` and ``EpochEnded``.
        images: opens the data; a study passes one that keeps them open.
        patience: seconds to wait for another process that works in the folder and may be on its way out.
        trust: what the folder of a teacher may name; see ``saccade.load``.

    Raises:
        UserError: the recipe, its data or the device is wrong, the folder cannot hold the run, or the images or the
            teacher are not those that the run began with; nothing has been written then.
    """
    where = choose_device(device)
    notify = notify or ignore
    with RunFolder.hold(Path(folder), recipe, patience) as run:
        result = run.result()
        if result is None:
            name = tasks.choose_task(recipe)
            kind = tasks.get(name)
            with use_threads(recipe.training.threads), _own_random_state(where):
                whole = tasks.resolve(recipe, kind.target)
                split = images(whole.data, kind.target, notify)
                settings = _decided(whole, run, kind, split, where, notify, trust)
                task = kind(decide(whole, settings), split)
                result = _train(name, task, decide(recipe, settings), run, where, notify, trust)
        return result


def _decided(
    recipe: Recipe,
    run: RunFolder,
    kind: type[Task],
    split: Splits,
    device: torch.device,
    notify: Notify,
    trust: Trust,
) -> dict[str, Any]:
    """Return what ``recipe`` leaves open as the folder says, or as timed steps of the plain host decide."""
    keys = undecided([recipe])
    if run.recipe is not None:
        known = {key: setting(run.recipe, key) for key in keys}
        if not undecided([decide(recipe, known)]):
            return known
    if not keys:
        return {}
    decided = fastest(kind(plain(recipe), split), keys, device, trust)
    notify(SettingsDecided(**decided))
    found: dict[str, Any] = decided["settings"]
    return found


def _train(
    name: str, task: Task, asked: Recipe, run: RunFolder, device: torch.device, notify: Notify, trust: Trust
) -> dict[str, Any]:
    metric = task.primary_metric()
    recipe, split, part = task.recipe, task.data, task.recipe.training
    for caution in split.cautions:
        notify(Caution(caution))
    ready = prepare(task, trust)
    network, phases, teacher = ready.network, ready.phases, ready.teacher
    notes = [sentence for sentence in (tasks.describe_resolved(asked, recipe), ready.frozen.sentence) if sentence]
    for note in notes:
        notify(Caution(note))
    ends = list(accumulate(phase.epochs for phase in phases))
    new: dict[str, Any] = {"rows": [], "optimizer": None, "best": None}
    state = run.resume() or new
    images = fingerprint(split, phases)
    if state.get("fingerprint", images) != images:
        raise UserError(
            f"the images changed since this run began: {recipe.data.source} holds files of other names, contents "
            f"or classes than {run.path} was trained on so far. Put them back, or remove that run folder to start over."
        )
    taught_by = None if teacher is None else teacher.digest
    if state.get("teacher", taught_by) != taught_by:
        raise UserError(
            f"the teacher changed since this run began: {part.teacher} holds other weights than {run.path} learnt from "
            "so far. Put them back, or remove that run folder to start over."
        )
    if state is not new:
        optimizer = _optimizer_at(task, network, phases, len(state["rows"]) - 1)
        averaged = part.ema_decay is not None
        if what := misfit(state, network, optimizer, epochs=ends[-1], images=len(split.test), averaged=averaged):
            run.disown(f"{what} is not of this run")
            state = new
    run.begin(asked, environment(device, part.threads))
    rows: list[dict[str, Any]] = state["rows"]
    if rows:
        network.load_state_dict(state["network"])
    sampler = EpochSampler(split.train, part.seed, part.batch_size)
    train = _loader(split.train, recipe, device, batch_sampler=sampler)
    test = _test_loader(split.test, recipe, device)
    val = None if split.val is None else _test_loader(split.val, recipe, device)
    notify(TrainingBegan(ends[-1], len(sampler), len(rows) - 1 if rows else 0))
    keeper = Checkpointer(
        run,
        rows,
        sampler,
        images,
        probe_images(split.test),
        notify,
        metric,
        state["best"],
        state.get("average"),
        taught_by,
    )
    optimizer_state = state["optimizer"]
    del state
    diverged = None
    with closing(Curves(run.path, recipe, rows, len(sampler))) as curves:
        for phase, before, end in zip(phases, [0, *ends], ends, strict=False):
            if len(rows) <= before + 1:  # no epoch of this phase is finished
                keeper.best = keeper.average = optimizer_state = None
            if len(rows) <= end:
                with only_trainable(network, phase) as frozen:
                    module = TaskModule(
                        network,
                        task,
                        phase,
                        steps=len(sampler),
                        frozen=[*ready.frozen.modules, *frozen],
                        before=before,
                        first_epoch=max(1, len(rows)),
                        optimizer_state=optimizer_state,
                        average_state=keeper.average,
                        mixing=ready.mixing,
                        teacher=teacher,
                    )
                    tests = [test, val] if phase.choose and val is not None else [test]
                    try:
                        _fit(module, train, tests, keeper, curves, device, end)
                    except DivergenceError as place:
                        diverged = {"epoch": place.epoch, "step": place.step, "what": place.what, "where": place.where}
                        diverged["message"] = str(place)
                        break
            if len(rows) == end + 1:  # what a phase hands on is what was scored
                if phase.choose and keeper.best is not None:
                    network.load_state_dict(keeper.best["network"])
                elif keeper.average is not None:
                    network.load_state_dict(keeper.average)
    return _finish(name, task, metric, run, network, phases[-1], diverged, notes, test, device)


def _optimizer_at(task: Task, network: nn.Module, phases: tuple[Phase, ...], epoch: int) -> torch.optim.Optimizer:
    """Return the optimiser of the phase of epoch ``epoch``, at its start."""
    ends = accumulate(phase.epochs for phase in phases)
    phase = next((phase for phase, end in zip(phases, ends, strict=True) if epoch <= end), phases[-1])
    with only_trainable(network, phase):
        return optimizer_of(network, task.recipe.training, task.recipe.attention.lr_factor)


def _fit(
    module: TaskModule,
    train: DataLoader,
    tests: list[DataLoader],
    keeper: Checkpointer,
    curves: Curves,
    device: torch.device,
    end: int,
) -> None:
    """Train from the epoch after the last row to epoch ``end``; the untrained network is tested first."""
    interrupt = signal.getsignal(signal.SIGINT)
    with _silent_lightning():
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if module.task.recipe.training.precision == "bf16" else "32-true",
            plugins=[LightningEnvironment()],  # one process, also as a step of a Slurm or MPI job
            max_epochs=end - module.first_epoch + 1,
            callbacks=[keeper, curves],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            if not keeper.rows:
                trainer.validate(module, tests[0], verbose=False)
            module.train()
            trainer.fit(module, train, tests)
        except SystemExit:  # what Lightning makes of Ctrl-C, with further ones ignored
            if not keeper.interrupted:
                raise
            restore_handler(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None


def _finish(
    name: str,
    task: Task,
    metric: Metric,
    run: RunFolder,
    network: nn.Module,
    last_phase: Phase,
    diverged: dict[str, Any] | None,
    notes: list[str],
    test: DataLoader,
    device: torch.device,
) -> dict[str, Any]:
    """Write the result and all files that follow from the state after the last finished epoch."""
    recipe, split = task.recipe, task.data
    state = run.resume()
    assert state is not None
    rows = state["rows"]
    kept = state["best"] if last_phase.choose and state["best"] and not diverged else state
    average = kept.get("average")
    network.load_state_dict(kept["network"] if average is None else average)
    network.to(device).eval()
    constant = {} if diverged else constant_plugs(network, (images.to(device) for images, _ in test))
    network.cpu()
    found: Rows = dict(kept["test"])
    if (order := _order(recipe, len(split.test))) is not None:
        found = select_images(found, torch.tensor(order).argsort())
    if (groups := split.test.groups) is not None:
        codes = {group: code for code, group in enumerate(sorted(set(groups)))}
        found["group"] = torch.tensor([codes[group] for group in groups])
    words, constant_answer = task.trivial_baseline()
    scores = task.scores(found)
    result = {
        "task": name,
        "metric": metric.name,
        "score": metric.format(scores[metric.name]),
        "scores": scores,
        "by_class": _by_class(task, found),
        "trivial": {"answer": words, "scores": task.scores(constant_answer)},
        "epochs": kept.get("epoch", rows[-1]["epoch"]),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "parameters": sum(p.numel() for p in network.parameters()),
        "start": started(network),
        "fingerprint": state.get("fingerprint", split.fingerprint),
        "left_out": split.left_out,
        "cautions": split.cautions,
        "constant": constant,
        "diverged": diverged,
        **({"notes": notes} if notes else {}),
    }
    run.write("rows.safetensors", save({key: value.contiguous() for key, value in found.items()}))
    saving.save(
        network,
        run.path,
        host=task.host(recipe.model),
        input=(split.channels, *split.size),
        classes=split.classes,
        mean=list(split.mean),
        std=list(split.std),
        **{key: value for key in ("interpolation", "crop_pct") if (value := getattr(recipe.data, key)) is not None},
        epochs=result["epochs"],
        task=name,
        scores=scores,
    )
    run.finish(result)
    return result


def _by_class(task: Task, rows: Rows) -> dict[str, list[float | None]]:
    """Return metric -> the score of each class, for metrics that have one; None for a class without a score."""
    found = {}
    for metric in task.applicable_metrics():
        if metric.by_class is not None:
            values = metric.by_class(rows).tolist()
            values += [float("nan")] * (len(task.data.classes) - len(values))
            found[metric.name] = [None if value != value else value for value in values]
    return found


def _order(recipe: Recipe, count: int) -> list[int] | None:
    """Return the order in which the control ``shuffled`` is shown ``count`` images of a part; None for all other runs.

    There an image gets the gate of its neighbour, and in the order of the files most neighbours are of one class. The
    order is the same for all runs.
    """
    if recipe.attention.control != "shuffled":
        return None
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order


def _test_loader(images: ImageSet, recipe: Recipe, device: torch.device) -> DataLoader:
    order = _order(recipe, len(images))
    return _loader(images, recipe, device, batch_size=recipe.training.batch_size, sampler=order)


def _loader(images: ImageSet, recipe: Recipe, device: torch.device, **order: Any) -> DataLoader:
    """Load batches of ``images`` in the ``order`` of a sampler, without drawing from the global generator."""
    workers = recipe.training.workers
    return DataLoader(
        images,
        **order,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Restore the caller's random state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        yield


@contextmanager
def _silent_lightning() -> Iterator[None]:
    """Silence Lightning's own log and its advice on workers and idle GPUs, which the recipe decides."""
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
