"""The local engine: long-lived worker processes, one per slot, that are handed the runs of a study one at a time."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

from saccade.study.engine.executor import Executor, Message, Worker
from saccade.study.worker import serve

__all__ = ["Local", "cores", "slots_for"]


class _Process(Worker):
    """A worker process and the pipe to it; what is sent before it is up waits in the pipe."""

    def __init__(self, slot: int, threads: int, first: str | None) -> None:
        super().__init__(slot)
        self.ready = True
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # Not a daemon: a daemon may not start the processes that load images.
        self.process = context.Process(target=serve, args=(theirs, threads, first), name=f"slot {slot}")
        with _without_main():
            self.process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe

    def call(self, function: str, **arguments: Any) -> None:
        try:
            self.pipe.send((function, arguments))
        except OSError:  # it has just died; the messages say so
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
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a process that is spawned inside not run the caller's script again.

    Spawning imports the script of the parent as ``__mp_main__``, where pickled objects may look for its classes: one
    without ``if __name__ == "__main__"`` would begin the study again. Workers need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Local(Executor[_Process]):
    """The machine one works on.

    Args:
        threads: of one run.
        slots: runs at a time; None is one per accelerator, or the cores divided by the threads.
        device: what the user asked for.
    """

    def __init__(self, threads: int, slots: int | None, device: str) -> None:
        self.threads, self.asked, self.device = threads, slots, device

    def slots(self, devices: Sequence[str] | None = None) -> int:
        """Before the devices are known, a guess that is not too high."""
        if self.asked:
            return self.asked
        if devices is None:
            return slots_for(self.threads, self.device) or 1
        return len(devices) if list(devices) != ["cpu"] else max(1, cores() // self.threads)

    def worker(self, slot: int, first: str | None = None) -> _Process:
        """A new process."""
        return _Process(slot, self.threads, first)

    def answers(self, workers: list[_Process]) -> Iterator[Message[_Process]]:
        """Messages of all processes as they come; the list is read anew each time."""
        while True:
            # The time limit is for a worker that died while a process it started still holds its end of the pipe.
            wait([w.pipe for w in workers] + [w.process.sentinel for w in workers], timeout=1.0)
            for worker in list(workers):
                for kind, content in worker.messages():
                    yield worker, kind, content


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
