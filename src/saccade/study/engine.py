"""The local engine: long-lived worker processes, one per slot, that are handed the runs of a study one at a time.

A worker that dies (``kill -9``, a segmentation fault, out of memory) is replaced and its run tried once more; a run
that raises is recorded in ``failed.json`` of its folder; either way the study goes on. Nothing here imports torch: the
parent stays light and answers Ctrl-C at once.
"""

from __future__ import annotations

import json
import os
import platform
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from saccade.errors import UserError
from saccade.study.plan import Run, Study, write_atomically
from saccade.study.worker import hold, serve

__all__ = ["ATTEMPTS", "Outcome", "cores", "execute", "slots_for"]

ATTEMPTS = 2
"""How often a run whose process dies is tried."""

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``skipped`` was finished before, ``diverged`` ended early on a value that is no number."""

    run: Run
    status: Literal["done", "skipped", "diverged", "failed"]
    result: dict[str, Any] | None = None
    reason: str | None = None


@dataclass
class _Worker:
    """A worker process, the pipe to it, and what it is doing."""

    slot: int
    threads: int
    first: str | None = None
    run: Run | None = None
    attempt: int = 1
    pipe: Any = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # Not a daemon: a daemon may not start the processes that load images.
        self.process = context.Process(target=serve, args=(theirs, self.threads, self.first), name=f"slot {self.slot}")
        self.process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe

    def call(self, function: str, **arguments: Any) -> None:
        """Ask for one call; the answer comes through :func:`_answers`."""
        try:
            self.pipe.send((function, arguments))
        except OSError:  # it has just died; _answers says so
            return

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What has arrived, then ``("died", reason)`` if nothing more can."""
        alive = self.process.is_alive()  # asked first: what it sent before its end is still in the pipe
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            alive = False
        if not alive:
            yield "died", _cause(self.process.exitcode)

    def end(self) -> None:
        """Kill it: a run can be killed at any moment and goes on from its last epoch."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def execute(
    study: Study,
    slots: int | None = None,
    device: str = "auto",
    notify: Notify | None = None,
    *,
    train: str = "saccade.training:train",
    check: str = "saccade.study.worker:check",
) -> list[Outcome]:
    """Do every run of ``study`` that is not finished; data, host and mechanisms are checked before anything is written.

    Args:
        study: the plan; its folder is made, or found with the same plan in it.
        slots: runs at a time; None is one per accelerator, or the cores divided by the threads of the recipe.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        notify: is told everything that happens, as dictionaries with the key ``event``: ``check``, ``data``,
            ``study``, ``begin``, the events of a run (with ``slot``, ``arm``, ``seed``), ``end``.
        train: the function that does a run, ``package.module:function``, called as
            ``(recipe, folder, device=..., notify=...)``.
        check: the function that checks, called as ``(recipes=..., device=..., notify=...)`` in a worker.

    Returns:
        One outcome per run, in the order of ``study.runs()``.

    Raises:
        UserError: the folder, the data, the host or a mechanism is wrong, or the process that checks them dies;
            nothing has been written.
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
        threads = study.base.training.threads
        workers = [_Worker(0, threads)]
        stack.callback(_end, workers)

        def heard(event: dict[str, Any]) -> None:
            say(event)
            if event["event"] == "data":  # the others import while the networks are built, not for data that is wrong
                wanted = min(slots or slots_for(threads, device) or 1, len(todo))
                workers.extend(_Worker(slot, threads, train) for slot in range(len(workers), wanted))

        say({"event": "check"})
        devices = _check(workers[0], study, device, check, heard)
        if not begun:
            stack.enter_context(hold(study.folder / ".lock"))
            study.claim()  # once more: another process may have been as quick
            study.write()
        wanted = slots or (len(devices) if devices != ["cpu"] else max(1, cores() // threads))
        workers.extend(_Worker(slot, threads, train) for slot in range(len(workers), min(wanted, len(todo))))
        say({"event": "study", "runs": len(study.runs()), "finished": len(outcomes), "slots": len(workers)})
        for outcome in _do(todo, workers, devices, train, say):
            outcomes[outcome.run.folder] = outcome
    return [outcomes[run.folder] for run in study.runs()]


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()


def _check(worker: _Worker, study: Study, device: str, check: str, say: Notify) -> list[str]:
    """The devices to run on, after data, host and every mechanism were found right."""
    recipes = [study.run(arm, study.seeds[0]).recipe.model_dump(mode="json") for arm in study.arms]
    worker.call(check, recipes=recipes, device=device)
    for _, kind, content in _answers([worker]):
        if kind == "event":
            say(content)
        elif kind == "result":
            devices: list[str] = content["devices"]
            return devices
        elif kind == "died":
            raise UserError(f"checking the study failed: the process {content}")
        elif content["user"]:
            raise UserError(content["message"])
        else:
            raise RuntimeError(f"checking the study failed: {content['traceback']}")
    raise AssertionError("a worker neither answered nor died")


def _do(runs: list[Run], workers: list[_Worker], devices: list[str], train: str, say: Notify) -> Iterator[Outcome]:
    """Hand out ``runs`` and yield each outcome; ``workers`` is changed in place as they die."""
    queue = deque((run, 1) for run in runs)

    def hand(worker: _Worker) -> None:
        if not queue:
            worker.run = None
            return
        worker.run, worker.attempt = queue.popleft()
        (worker.run.folder / "failed.json").unlink(missing_ok=True)
        say({"event": "begin", **_labels(worker), "attempt": worker.attempt})
        worker.call(
            "saccade.study.worker:run",
            train=train,
            recipe=worker.run.recipe.model_dump(mode="json"),
            folder=str(worker.run.folder),
            device=devices[worker.slot % len(devices)],
        )

    for worker in workers:
        hand(worker)
    for worker, kind, content in _answers(workers):
        if kind == "event":
            say({**content, **_labels(worker)})
            continue
        run, outcome = worker.run, None
        if kind == "died":
            workers[workers.index(worker)] = fresh = _Worker(worker.slot, worker.threads, worker.first)
            worker.end()
            if run is not None and worker.attempt < ATTEMPTS:
                queue.appendleft((run, worker.attempt + 1))
            elif run is not None:
                outcome = _failed(run, f"its process {content}, {ATTEMPTS} times", None)
        else:
            fresh = worker
            assert run is not None
            if kind == "error":
                outcome = _failed(run, content["message"], content["traceback"])
            else:
                outcome = Outcome(run, "diverged" if content.get("diverged") else "done", content)
        if outcome is not None:
            top1 = (outcome.result or {}).get("top1")
            end = {"status": outcome.status, "reason": outcome.reason, "top1": top1}
            say({"event": "end", **_labels(worker), **end})
            yield outcome
        hand(fresh)
        if all(w.run is None for w in workers):
            return


def _answers(workers: list[_Worker]) -> Iterator[tuple[_Worker, str, Any]]:
    """Messages of all workers as they come; the list is read anew each time."""
    while True:
        # The time limit is for a worker that died while a process it started still holds its end of the pipe.
        wait([w.pipe for w in workers] + [w.process.sentinel for w in workers], timeout=1.0)
        for worker in list(workers):
            for kind, content in worker.messages():
                yield worker, kind, content


def _labels(worker: _Worker) -> dict[str, Any]:
    assert worker.run is not None
    return {"slot": worker.slot, "arm": worker.run.arm.name, "seed": worker.run.seed}


def _failed(run: Run, reason: str, trace: str | None) -> Outcome:
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"reason": reason, "traceback": trace}
    write_atomically(run.folder / "failed.json", json.dumps(record, indent=2) + "\n")
    return Outcome(run, "failed", None, reason)


def _cause(code: int | None) -> str:
    """Why a process ended, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


def cores() -> int:
    """The CPU cores this process may use: its affinity, and the quota of its control group where Linux sets one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return count


def slots_for(threads: int, device: str) -> int | None:
    """Runs at a time on the CPU, or None where an accelerator seems to be there, whose count only torch knows."""
    cpu = device == "cpu"
    if device == "auto":
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        cpu = not apple and not any(Path("/dev", name).exists() for name in ("nvidia0", "kfd", "dri/renderD128"))
    return max(1, cores() // threads) if cpu else None
