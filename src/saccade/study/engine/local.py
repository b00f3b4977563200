"""Local engine, with one long-lived worker process per slot."""

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

__all__ = ["Local", "cores", "cpu_slots"]


class _Process(Worker):
    """Worker process and its pipe; messages sent before the process has started wait in the pipe."""

    def __init__(self, slot: int, threads: int, preload: str | None) -> None:
        super().__init__(slot)
        self.ready = True
        context = get_context("spawn")
        self.pipe, worker_pipe = context.Pipe()
        # Not a daemon: a daemon may not start the processes that load images.
        self.process = context.Process(target=serve, args=(worker_pipe, threads, preload), name=f"slot {slot}")
        with _blank_main_module():
            self.process.start()
        worker_pipe.close()  # so that the pipe is closed when the worker ends

    def call(self, function: str, **arguments: Any) -> None:
        try:
            self.pipe.send((function, arguments))
        except OSError:  # the process has just died, which ``messages`` reports
            return

    def messages(self) -> Iterator[tuple[str, Any]]:
        """Yield the messages that have arrived, then ``("died", reason)`` if the process has ended."""
        is_alive = self.process.is_alive()  # checked first, so that no last message is missed
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            is_alive = False
        if not is_alive:
            yield "died", _cause(self.process.exitcode)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


@contextmanager
def _blank_main_module() -> Iterator[None]:
    """Replace the ``__main__`` module, which spawned processes import, by an empty one.

    A script without ``if __name__ == "__main__"`` would otherwise start the study again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Local(Executor[_Process]):
    """Executor with worker processes on this machine.

    Args:
        threads: CPU threads of one run.
        slots: number of concurrent runs; None is one per accelerator, or the CPU cores divided by ``threads``.
        device: device requested by the user.
    """

    def __init__(self, threads: int, slots: int | None, device: str) -> None:
        self.threads, self.requested_slots, self.device = threads, slots, device

    def slots(self, devices: Sequence[str] | None = None) -> int:
        """Return the number of concurrent runs, a lower bound if ``devices`` is None."""
        if self.requested_slots:
            return self.requested_slots
        if devices is None:
            return cpu_slots(self.threads, self.device) or 1
        return len(devices) if list(devices) != ["cpu"] else max(1, cores() // self.threads)

    def start_worker(self, slot: int, preload: str | None = None) -> _Process:
        """Start and return a process."""
        return _Process(slot, self.threads, preload)

    def messages(self, workers: list[_Process]) -> Iterator[Message[_Process]]:
        """Yield the messages of all processes as they come; ``workers`` may change between messages."""
        while True:
            # The timeout is for a dead worker whose child process holds the pipe open.
            wait([w.pipe for w in workers] + [w.process.sentinel for w in workers], timeout=1.0)
            for worker in list(workers):
                for kind, content in worker.messages():
                    yield worker, kind, content


def _cause(code: int | None) -> str:
    """Return the reason for the end of a process as a verb phrase, such as "ended with exit code 1"."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


def cores() -> int:
    """Return the number of CPU cores this process may use, by its affinity and its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return count


def cpu_slots(threads: int, device: str) -> int | None:
    """Return the number of concurrent runs on the CPU; None if ``device`` is, or ``auto`` may find, an accelerator."""
    is_on_cpu = device == "cpu"
    if device == "auto":
        is_apple_silicon = platform.system() == "Darwin" and platform.machine() == "arm64"
        is_on_cpu = not is_apple_silicon and not any(
            Path("/dev", name).exists() for name in ("nvidia0", "kfd", "dri/renderD128")
        )
    return max(1, cores() // threads) if is_on_cpu else None
