"""The schedule of a study: checked first, then one run after another handed to whichever worker is free.

A worker that dies (``kill -9``, a segmentation fault, out of memory, a lost node) is replaced and its run tried once
more; a run that raises is recorded in ``failed.json`` of its folder; either way the study goes on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from saccade.builders import packed
from saccade.errors import UserError, did_you_mean
from saccade.events import ChecksBegan, DataOpened, Event, Notify, RunBegan, RunEnded, RunEvent, StudyBegan, ignore
from saccade.files import lock, make_folders, write_atomically
from saccade.study.engine.executor import Executor, Worker
from saccade.study.engine.local import Local
from saccade.study.plan import Run, Study
from saccade.trust import Trust

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "execute"]

ATTEMPTS = 2
"""How often a run whose process dies is tried."""
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``skipped`` was finished before, ``diverged`` ended early on a value that is no number."""

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
    train: str = "saccade.study.series:train",
    check: str = "saccade.study.worker:check",
) -> list[Outcome]:
    """Do every run of ``study`` that is not finished; data, host and mechanisms are checked before anything is written.

    Args:
        study: the plan; its folder is made, or found with the same plan in it.
        slots: runs at a time; None is one per accelerator, or the cores divided by the threads of the recipe.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; on a Ray cluster ``auto``, ``cpu`` or ``cuda``.
        notify: receives ``EngineStatus``, ``ChecksBegan``, ``FilesChecked``, ``DataOpened``, ``SettingsDecided``,
            ``StudyBegan``, and for each run ``RunBegan``, its own events in a ``RunEvent``, and ``RunEnded``.
        engine: ``local``, processes of this machine, or ``ray``; see :mod:`saccade.study.engine.cluster`.
        address: of a Ray cluster; None is ``RAY_ADDRESS`` where that is set, else one that is started here.
        trust: what the folder of a teacher may name; passed on to ``check`` and ``train`` unless it is False.
        train: the function that does a run, ``package.module:function``, called as
            ``(recipe, folder, device=..., notify=...)``.
        check: the function that checks, called as ``(recipes=..., margin=..., device=..., notify=...)`` in a
            worker.

    Returns:
        One outcome per run, in the order of ``study.runs()``.

    Raises:
        UserError: the folder, the data, the host or a mechanism is wrong, or the process that checks them dies;
            nothing has been written. Ray is not installed, no cluster answers at ``address``, or its nodes cannot do
            the runs. The folder of a run that failed cannot be written, as on a full disk.
    """
    say: Notify = notify or ignore
    if slots is not None and slots < 1:
        raise UserError(f"slots = {slots}: at least one run must be able to go at a time")
    begun = study.claim()
    if begun and study.undecided():
        study = Study.open(study.folder)  # holds what was decided
    with ExitStack() as stack:
        if begun:
            stack.enter_context(_alone(study))
        outcomes = {run.folder: Outcome(run, "skipped", done) for run in study.runs() if (done := run.finished)}
        todo = [run for run in study.runs() if run.folder not in outcomes]
        if not todo:
            say(StudyBegan(len(outcomes), len(outcomes), 0))
            return [outcomes[run.folder] for run in study.runs()]
        executor = stack.enter_context(_executor(engine, study, slots, device, address, say))
        workers = [executor.worker(0)]
        stack.callback(_end, workers)

        def enlist(wanted: int) -> None:
            workers.extend(executor.worker(slot, train) for slot in range(len(workers), min(wanted, len(todo))))

        def hear(event: Event) -> None:
            say(event)
            if isinstance(event, DataOpened):  # the others import while the networks are built
                enlist(executor.slots())

        say(ChecksBegan())
        found = _check(executor, workers[0], study, check, trust, hear)
        devices: list[str] = found["devices"]
        if not begun:
            stack.enter_context(_alone(study))
        if study.claim() and not begun:  # another process has been as quick
            study = Study.open(study.folder)
        elif not begun or study.undecided():
            study = study.decide(found["decided"]) if study.undecided() else study
            study.write()
        todo = [run for run in study.runs() if run.folder not in outcomes]
        enlist(executor.slots(devices))
        say(StudyBegan(len(study.runs()), len(outcomes), len(workers)))
        for outcome in _do(todo, executor, workers, devices, train, trust, say):
            outcomes[outcome.run.folder] = outcome
    return [outcomes[run.folder] for run in study.runs()]


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Hold the study's lock.

    Raises:
        UserError: another process holds it, or the folder cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            make_folders(study.folder)
            stack.enter_context(lock(study.folder / ".lock"))
        except OSError as error:
            raise UserError(f"cannot write to {study.folder}: {error.strerror}") from None
        yield


def _executor(
    engine: str, study: Study, slots: int | None, device: str, address: str | None, say: Notify
) -> Executor[Any]:
    """The engine called so.

    Raises:
        UserError: there is none, it takes no address, or its package is missing.
    """
    if engine not in ENGINES:
        raise UserError(f"there is no engine {engine!r}; it is {' or '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        if address is not None:
            raise UserError(f"the local engine has no address, got {address!r}; a Ray cluster has: --engine ray")
        return Local(study.base.training.threads, slots, device)
    try:
        from saccade.study.engine.cluster import Cluster  # brings Ray: only for those who asked for it
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UserError("ray is not installed: pip install 'saccade-attention[ray]'") from error
    return Cluster(study, slots, device, address, say)


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.end()


def _check(
    executor: Executor[Any], worker: Worker, study: Study, check: str, trust: Trust, say: Notify
) -> dict[str, Any]:
    """What ``check`` returns: data, host and every mechanism were found right."""
    recipes = [study.run(arm, study.seeds[0]).recipe.model_dump(mode="json") for arm in study.arms]
    models = (arm.recipe(study.base, 0).model for arm in study.arms)
    functions = packed((model.name, model.code) for model in models)
    passed: dict[str, Any] = {"functions": functions} if functions else {}  # a check that needs none need not take them
    passed |= {"trust": trust} if trust else {}
    worker.call(check, recipes=recipes, margin=study.margin, device=executor.device, **passed)
    for _, kind, content in executor.answers([worker]):
        if kind == "event":
            say(content)
        elif kind == "result":
            found: dict[str, Any] = content
            return found
        elif kind == "died":
            raise UserError(f"checking the study failed: the process {content}")
        elif kind == "error" and content["user"]:
            raise UserError(content["message"])
        elif kind == "error":
            raise RuntimeError(f"checking the study failed: {content['traceback']}")
    raise AssertionError("a worker neither answered nor died")


def _do(
    runs: list[Run],
    executor: Executor[Any],
    workers: list[Worker],
    devices: list[str],
    train: str,
    trust: Trust,
    say: Notify,
) -> Iterator[Outcome]:
    """Hand out ``runs`` and yield each outcome; ``workers`` is changed in place as they die."""
    queue = deque((run, 1) for run in runs)

    def hand_out() -> None:
        for worker in workers:
            if not queue or not worker.ready or worker.run is not None:
                continue
            worker.run, worker.attempt = queue.popleft()
            with suppress(OSError):  # where nothing can be written, the run says so
                (worker.run.folder / "failed.json").unlink(missing_ok=True)
            say(RunBegan(*_labels(worker, worker.run), worker.attempt))
            worker.call(
                "saccade.study.worker:run",
                train=train,
                recipe=worker.run.recipe.model_dump(mode="json"),
                folder=str(worker.run.folder),
                device=devices[worker.slot % len(devices)],
                functions=packed([(worker.run.recipe.model.name, worker.run.recipe.model.code)]),
                trust=trust,
            )

    hand_out()
    for worker, kind, content in executor.answers(workers):
        run, outcome = worker.run, None
        if kind == "event":
            assert run is not None
            say(RunEvent(*_labels(worker, run), content))
            continue
        if kind == "died":
            workers[workers.index(worker)] = executor.worker(worker.slot, train)
            worker.end()
            if run is not None and worker.attempt < ATTEMPTS:
                queue.appendleft((run, worker.attempt + 1))
            elif run is not None:
                outcome = _failed(run, f"its process {content}, {ATTEMPTS} times", None)
        elif kind != "ready":
            assert run is not None
            worker.run = None
            if kind == "error":
                outcome = _failed(run, content["message"], content["traceback"])
            else:
                outcome = Outcome(run, "diverged" if content.get("diverged") else "done", content)
        if outcome is not None:
            assert outcome.status != "skipped"
            score = (outcome.result or {}).get("score", "")
            say(RunEnded(*_labels(worker, outcome.run), outcome.status, outcome.reason, score))
            yield outcome
        hand_out()
        if all(worker.run is None for worker in workers) and not queue:
            return


def _labels(worker: Worker, run: Run) -> tuple[int, str, int]:
    return worker.slot, run.arm.name, run.seed


def _failed(run: Run, reason: str, trace: str | None) -> Outcome:
    record = {"reason": reason, "traceback": trace}
    try:
        make_folders(run.folder)
        write_atomically(run.folder / "failed.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{run.arm.name}, seed {run.seed} failed ({reason}), and {run.folder} cannot be written: {error.strerror}"
        ) from None
    return Outcome(run, "failed", None, reason)
