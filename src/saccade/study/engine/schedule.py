"""The schedule of a study: checked first, then one run after another handed to whichever worker is free.

A worker that dies (``kill -9``, a segmentation fault, out of memory, a lost node) is replaced and its run tried once
more; a run that raises is recorded in ``failed.json`` of its folder; either way the study goes on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

from saccade.errors import UserError, did_you_mean
from saccade.runfiles import make_folders
from saccade.study.engine.local import Local
from saccade.study.engine.place import Place, Worker
from saccade.study.plan import Run, Study, write_atomically
from saccade.study.worker import hold

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "execute"]

ATTEMPTS = 2
"""How often a run whose process dies is tried."""
ENGINES = ("local", "ray")

Notify = Callable[[dict[str, Any]], None]


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
    train: str = "saccade.study.series:train",
    check: str = "saccade.study.worker:check",
) -> list[Outcome]:
    """Do every run of ``study`` that is not finished; data, host and mechanisms are checked before anything is written.

    Args:
        study: the plan; its folder is made, or found with the same plan in it.
        slots: runs at a time; None is one per accelerator, or the cores divided by the threads of the recipe.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; on a Ray cluster ``auto``, ``cpu`` or ``cuda``.
        notify: is told everything that happens, as dictionaries with the key ``event``: ``engine``, ``check``,
            ``data``, ``study``, ``begin``, the events of a run (with ``slot``, ``arm``, ``seed``), ``end``.
        engine: ``local``, processes of this machine, or ``ray``; see :mod:`saccade.study.engine.cluster`.
        address: of a Ray cluster; None is ``RAY_ADDRESS`` where that is set, else one that is started here.
        train: the function that does a run, ``package.module:function``, called as
            ``(recipe, folder, device=..., notify=...)``.
        check: the function that checks, called as ``(recipes=..., device=..., notify=...)`` in a worker.

    Returns:
        One outcome per run, in the order of ``study.runs()``.

    Raises:
        UserError: the folder, the data, the host or a mechanism is wrong, or the process that checks them dies;
            nothing has been written. Ray is not installed, no cluster answers at ``address``, or its nodes cannot do
            the runs. The folder of a run that failed cannot be written, as on a full disk.
    """
    say: Notify = notify or (lambda event: None)
    if slots is not None and slots < 1:
        raise UserError(f"slots = {slots}: at least one run must be able to go at a time")
    begun = study.claim()
    with ExitStack() as stack:
        if begun:
            stack.enter_context(hold(study.folder / ".lock"))
        outcomes = {run.folder: Outcome(run, "skipped", done) for run in study.runs() if (done := run.finished)}
        todo = [run for run in study.runs() if run.folder not in outcomes]
        if not todo:
            say({"event": "study", "runs": len(outcomes), "finished": len(outcomes), "slots": 0})
            return [outcomes[run.folder] for run in study.runs()]
        place = stack.enter_context(_place(engine, study, slots, device, address, say))
        workers = [place.worker(0)]
        stack.callback(_end, workers)

        def enlist(wanted: int) -> None:
            workers.extend(place.worker(slot, train) for slot in range(len(workers), min(wanted, len(todo))))

        def heard(event: dict[str, Any]) -> None:
            say(event)
            if event["event"] == "data":  # the others import while the networks are built, not for data that is wrong
                enlist(place.slots())

        say({"event": "check"})
        devices = _check(place, workers[0], study, check, heard)
        if not begun:
            stack.enter_context(hold(study.folder / ".lock"))
            study.claim()  # once more: another process may have been as quick
            study.write()
        enlist(place.slots(devices))
        say({"event": "study", "runs": len(study.runs()), "finished": len(outcomes), "slots": len(workers)})
        for outcome in _do(todo, place, workers, devices, train, say):
            outcomes[outcome.run.folder] = outcome
    return [outcomes[run.folder] for run in study.runs()]


def _place(engine: str, study: Study, slots: int | None, device: str, address: str | None, say: Notify) -> Place[Any]:
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


def _check(place: Place[Any], worker: Worker, study: Study, check: str, say: Notify) -> list[str]:
    """The devices to run on, after data, host and every mechanism were found right."""
    recipes = [study.run(arm, study.seeds[0]).recipe.model_dump(mode="json") for arm in study.arms]
    worker.call(check, recipes=recipes, device=place.device)
    for _, kind, content in place.answers([worker]):
        if kind == "event":
            say(content)
        elif kind == "result":
            devices: list[str] = content["devices"]
            return devices
        elif kind == "died":
            raise UserError(f"checking the study failed: the process {content}")
        elif kind == "error" and content["user"]:
            raise UserError(content["message"])
        elif kind == "error":
            raise RuntimeError(f"checking the study failed: {content['traceback']}")
    raise AssertionError("a worker neither answered nor died")


def _do(
    runs: list[Run], place: Place[Any], workers: list[Worker], devices: list[str], train: str, say: Notify
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
            say({"event": "begin", **_labels(worker, worker.run), "attempt": worker.attempt})
            worker.call(
                "saccade.study.worker:run",
                train=train,
                recipe=worker.run.recipe.model_dump(mode="json"),
                folder=str(worker.run.folder),
                device=devices[worker.slot % len(devices)],
            )

    hand_out()
    for worker, kind, content in place.answers(workers):
        run, outcome = worker.run, None
        if kind == "event":
            assert run is not None
            say({**content, **_labels(worker, run)})
            continue
        if kind == "died":
            workers[workers.index(worker)] = place.worker(worker.slot, train)
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
            top1 = (outcome.result or {}).get("top1")
            end = {"status": outcome.status, "reason": outcome.reason, "top1": top1}
            say({"event": "end", **_labels(worker, outcome.run), **end})
            yield outcome
        hand_out()
        if all(worker.run is None for worker in workers) and not queue:
            return


def _labels(worker: Worker, run: Run) -> dict[str, Any]:
    return {"slot": worker.slot, "arm": run.arm.name, "seed": run.seed}


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
