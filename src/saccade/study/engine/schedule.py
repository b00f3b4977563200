"""Scheduler of a study: checks the study, then hands its runs to free workers.

A dead worker is replaced and its run is tried once more; a run that raises is recorded in its ``failed.json``. In both
cases the study continues.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from saccade.builders import pickle_registered
from saccade.errors import UserError, did_you_mean
from saccade.events import ChecksBegan, DataOpened, Event, Notify, RunBegan, RunEnded, RunEvent, StudyBegan, ignore
from saccade.files import lock, make_folders, write_atomically
from saccade.study.engine.executor import Executor, Worker
from saccade.study.engine.local import Local
from saccade.study.plan import Run, Study
from saccade.trust import Trust

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "execute"]

ATTEMPTS = 2
"""Number of attempts for a run whose process dies."""
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: ``skipped`` if finished before, ``diverged`` if a loss or output was not finite."""

    run: Run
    status: Literal["done", "skipped", "diverged", "failed"]
    result: dict[str, Any] | None = None
    reason: str | None = None


def execute(
    study: Study,
    slots: int | None = None,
    device: str = "auto",
    notify: Notify | None = None,
    *,
    engine: str = "local",
    address: str | None = None,
    trust: Trust = False,
    train: str = "saccade.study.series:train_run",
    check: str = "saccade.study.worker:check_study",
) -> list[Outcome]:
    """Execute every unfinished run of ``study``, after checking data, host and mechanisms; return one outcome per run.

    Args:
        study: the study, whose folder is created if new.
        slots: number of concurrent runs; None is one per accelerator, or CPU cores by the recipe's threads.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; on a Ray cluster ``auto``, ``cpu`` or ``cuda``.
        notify: receives ``EngineStatus``, ``ChecksBegan``, ``FilesChecked``, ``DataOpened``, ``SettingsDecided``,
            ``StudyBegan``, and for each run ``RunBegan``, ``RunEvent`` and ``RunEnded``.
        engine: ``local`` or ``ray``.
        address: that of a Ray cluster; None is ``RAY_ADDRESS`` if set, else a new cluster on this machine.
        trust: code that a saved teacher network may import; passed to ``check`` and ``train`` unless False.
        train: ``package.module:function`` that executes a run, called as ``(recipe, folder, device=..., notify=...)``.
        check: ``package.module:function`` that checks the study, called as ``(recipes=..., margin=..., device=...,
            notify=...)``.

    Raises:
        UserError: before anything is written: the folder, the data, the host or a mechanism is wrong, the checking
            process dies, or Ray cannot be used. Later: the folder of a failed run cannot be written.
    """
    notify_user: Notify = notify or ignore
    if slots is not None and slots < 1:
        raise UserError(f"slots = {slots}: it must be at least 1")
    exists = study.check_folder()
    if exists and study.undecided():
        study = Study.open(study.folder)  # to continue with the decided settings
    with ExitStack() as stack:
        if exists:
            stack.enter_context(_locked(study))
        outcomes = {run.folder: Outcome(run, "skipped", record) for run in study.runs() if (record := run.done_record)}
        unfinished = [run for run in study.runs() if run.folder not in outcomes]
        if not unfinished:
            notify_user(StudyBegan(len(outcomes), len(outcomes), 0))
            return [outcomes[run.folder] for run in study.runs()]
        executor = stack.enter_context(_make_executor(engine, study, slots, device, address, notify_user))
        workers = [executor.start_worker(0)]
        stack.callback(_kill_all, workers)

        def start_workers(n_workers: int) -> None:
            workers.extend(
                executor.start_worker(slot, train) for slot in range(len(workers), min(n_workers, len(unfinished)))
            )

        def on_event(event: Event) -> None:
            notify_user(event)
            if isinstance(event, DataOpened):  # others can import while the first worker builds the networks
                start_workers(executor.slots())

        notify_user(ChecksBegan())
        checked = _check_study(executor, workers[0], study, check, trust, on_event)
        devices: list[str] = checked["devices"]
        if not exists:
            stack.enter_context(_locked(study))
        if study.check_folder() and not exists:  # another process has written the study meanwhile
            study = Study.open(study.folder)
        elif not exists or study.undecided():
            study = study.decide(checked["decided"]) if study.undecided() else study
            study.write()
        unfinished = [run for run in study.runs() if run.folder not in outcomes]
        start_workers(executor.slots(devices))
        notify_user(StudyBegan(len(study.runs()), len(outcomes), len(workers)))
        for outcome in _execute_runs(unfinished, executor, workers, devices, train, trust, notify_user):
            outcomes[outcome.run.folder] = outcome
    return [outcomes[run.folder] for run in study.runs()]


@contextmanager
def _locked(study: Study) -> Iterator[None]:
    """Hold the lock of the study's folder, which is created if needed."""
    with ExitStack() as stack:
        try:
            make_folders(study.folder)
            stack.enter_context(lock(study.folder / ".lock"))
        except OSError as error:
            raise UserError(f"cannot write to {study.folder}: {error.strerror}") from None
        yield


def _make_executor(
    engine: str, study: Study, slots: int | None, device: str, address: str | None, notify: Notify
) -> Executor[Any]:
    """Return the executor of ``engine``."""
    if engine not in ENGINES:
        raise UserError(f"there is no engine {engine!r}; it is {' or '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        if address is not None:
            raise UserError(f"the local engine has no address, got {address!r}; a Ray cluster has: --engine ray")
        return Local(study.base.training.threads, slots, device)
    try:
        from saccade.study.engine.cluster import Cluster  # imports Ray, which is optional
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UserError("ray is not installed: pip install 'saccade-attention[ray]'") from error
    return Cluster(study, slots, device, address, notify)


def _kill_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()


def _check_study(
    executor: Executor[Any], worker: Worker, study: Study, check: str, trust: Trust, notify: Notify
) -> dict[str, Any]:
    """Call ``check`` in ``worker`` and return its result."""
    recipes = [study.run(arm, study.seeds[0]).recipe.model_dump(mode="json") for arm in study.arms]
    models = (arm.recipe(study.base, 0).model for arm in study.arms)
    functions = pickle_registered((model.name, model.code) for model in models)
    # Omitted if empty, because ``check`` may lack these parameters.
    optional: dict[str, Any] = {"functions": functions} if functions else {}
    optional |= {"trust": trust} if trust else {}
    worker.call(check, recipes=recipes, margin=study.margin, device=executor.device, **optional)
    for _, kind, content in executor.messages([worker]):
        if kind == "event":
            notify(content)
        elif kind == "result":
            result: dict[str, Any] = content
            return result
        elif kind == "died":
            raise UserError(f"checking the study failed: the process {content}")
        elif kind == "error" and content["is_user_error"]:
            raise UserError(content["message"])
        elif kind == "error":
            raise RuntimeError(f"checking the study failed: {content['traceback']}")
    raise AssertionError("a worker neither answered nor died")


def _execute_runs(
    runs: list[Run],
    executor: Executor[Any],
    workers: list[Worker],
    devices: list[str],
    train: str,
    trust: Trust,
    notify: Notify,
) -> Iterator[Outcome]:
    """Assign ``runs`` to workers and yield each outcome; dead workers are replaced in ``workers``."""
    queue = deque((run, 1) for run in runs)

    def assign_runs() -> None:
        for worker in workers:
            if not queue or not worker.ready or worker.run is not None:
                continue
            worker.run, worker.attempt = queue.popleft()
            with suppress(OSError):  # if the folder is not writable, the run itself reports it
                (worker.run.folder / "failed.json").unlink(missing_ok=True)
            notify(RunBegan(*_event_ids(worker, worker.run), worker.attempt))
            worker.call(
                "saccade.study.worker:execute_run",
                train=train,
                recipe=worker.run.recipe.model_dump(mode="json"),
                folder=str(worker.run.folder),
                device=devices[worker.slot % len(devices)],
                functions=pickle_registered([(worker.run.recipe.model.name, worker.run.recipe.model.code)]),
                trust=trust,
            )

    assign_runs()
    for worker, kind, content in executor.messages(workers):
        run, outcome = worker.run, None
        if kind == "event":
            assert run is not None
            notify(RunEvent(*_event_ids(worker, run), content))
            continue
        if kind == "died":
            workers[workers.index(worker)] = executor.start_worker(worker.slot, train)
            worker.kill()
            if run is not None and worker.attempt < ATTEMPTS:
                queue.appendleft((run, worker.attempt + 1))
            elif run is not None:
                outcome = _record_failure(run, f"its process {content}, {ATTEMPTS} times", None)
        elif kind != "ready":
            assert run is not None
            worker.run = None
            if kind == "error":
                outcome = _record_failure(run, content["message"], content["traceback"])
            else:
                outcome = Outcome(run, "diverged" if content.get("diverged") else "done", content)
        if outcome is not None:
            assert outcome.status != "skipped"
            score = (outcome.result or {}).get("score", "")
            notify(RunEnded(*_event_ids(worker, outcome.run), outcome.status, outcome.reason, score))
            yield outcome
        assign_runs()
        if all(worker.run is None for worker in workers) and not queue:
            return


def _event_ids(worker: Worker, run: Run) -> tuple[int, str, int]:
    """Return slot, arm name and seed, which identify a run in events."""
    return worker.slot, run.arm.name, run.seed


def _record_failure(run: Run, reason: str, trace: str | None) -> Outcome:
    """Write ``failed.json`` to the run folder and return the outcome."""
    record = {"reason": reason, "traceback": trace}
    try:
        make_folders(run.folder)
        write_atomically(run.folder / "failed.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{run.arm.name}, seed {run.seed} failed ({reason}), and {run.folder} cannot be written: {error.strerror}"
        ) from None
    return Outcome(run, "failed", None, reason)
