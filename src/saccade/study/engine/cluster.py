"""The Ray engine: an actor for each slot, on a cluster that is there or on one started on this machine.

An actor asks for the CPUs that a run has threads, and on accelerators for one of them. The study folder, the data and
the working folder must lie where every node sees them under the same path; each actor proves it for the study folder
before it gets a run. What an actor does is what a process of the local engine does, so the results are the same; where
a node is lost, its run goes on elsewhere after its last finished epoch.

This module and ``joining`` import Ray; nothing else does.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from saccade import __version__
from saccade.errors import UserError
from saccade.events import EngineStatus, Notify
from saccade.files import make_folders
from saccade.study.engine.executor import Executor, Message, Worker
from saccade.study.engine.interrupts import track_interrupts
from saccade.study.engine.joining import reach, silent, start
from saccade.study.engine.local import cores
from saccade.study.memory import keep_freed_memory
from saccade.study.plan import Study
from saccade.study.worker import answer, limit_threads, warm

__all__ = ["Cluster", "meet"]

_BIRTHS = 3
"""Actors that may die one after another before they are ready."""
_PATIENCE = 15.0
"""Seconds without any actor after which the wait is explained."""
_OBJECTS = 100 * 2**20
"""Bytes of Ray's object store where it is started here: what passes through it are words."""


class _StudyWorker:
    """The far side, as an actor.

    Args:
        threads: of one run.
        folder: where the study was started; relative paths mean the same here.
        path: where Python looks for modules there.
    """

    def __init__(self, threads: int, folder: str, path: list[str]) -> None:
        limit_threads(threads)
        keep_freed_memory()
        with suppress(OSError):  # not every study needs it
            os.chdir(folder)
        sys.path += [place for place in path if place not in sys.path]

    def call(self, function: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """The messages of one call as they come, the result or the error last."""
        messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()

        def work() -> None:
            try:
                messages.put(answer(function, arguments, lambda event: messages.put(("event", event))))
            finally:
                messages.put(("", None))

        threading.Thread(target=work, daemon=True).start()
        while True:
            kind, content = messages.get()
            if not kind:  # something asked for the end of the process, and in a thread ends the thread alone
                os._exit(1)
            yield kind, content
            if kind != "event":
                return


def meet(ours: str, token: str, secret: str, first: str | None, notify: Notify) -> None:
    """The first call of an actor: can a run of this study be done here?

    Args:
        ours: the version of saccade that the study was started with.
        token: a file in the study folder.
        secret: what it holds.
        first: as for ``saccade.study.worker.warm``.
        notify: not needed.

    Raises:
        UserError: this node has another version, or does not see the study folder.
    """
    node, here = platform.node(), __version__
    if here != ours:
        raise UserError(
            f"the node {node} of the cluster has saccade {here}, the study was started with {ours}; "
            "all nodes need the same version"
        )
    try:
        found = Path(token).read_text(encoding="ascii")
    except OSError:
        found = ""
    if found != secret:
        raise UserError(
            f"the node {node} of the cluster does not see the study folder {Path(token).parent}; name with --out one "
            "on a file system that all nodes share"
        )
    warm(first)


class _Actor(Worker):
    """An actor and the calls it has not answered to the end."""

    def __init__(self, slot: int, actor: Any) -> None:
        super().__init__(slot)
        self.actor = actor
        self.calls: deque[Any] = deque()

    def call(self, function: str, **arguments: Any) -> None:
        self.calls.append(self.actor.call.options(num_returns="streaming").remote(function, arguments))

    def message(self) -> tuple[str, Any]:
        """The next message of the oldest call, which has arrived."""
        try:
            kind, content = ray.get(next(self.calls[0]))
        except RayError as error:
            return "died", _cause(error)
        if kind != "event":
            self.calls.popleft()
        return kind, content

    def end(self) -> None:
        with suppress(RayError):
            ray.kill(self.actor)


class Cluster(Executor[_Actor]):
    """A Ray cluster.

    Args:
        study: what is to be done.
        slots: runs at a time; None is as many as the cluster has room for.
        device: ``auto``, ``cpu`` or ``cuda``.
        address: of the cluster; None is the one this process is connected to, else ``RAY_ADDRESS``, else one that is
            started here and ended with the ``with``.
        notify: receives ``EngineStatus``.

    Raises:
        UserError: a device that Ray does not hand out, or an address of another kind.
    """

    def __init__(self, study: Study, slots: int | None, device: str, address: str | None, notify: Notify) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: Ray chooses the device of each run; it is auto, cpu or cuda here")
        self.study, self.asked, self.device, self.notify = study, slots, device, notify
        self.threads = study.base.training.threads
        self.address = address or (None if ray.is_initialized() else os.environ.get("RAY_ADDRESS") or None)
        if self.address and "://" in self.address:
            raise UserError(
                f"the address {self.address!r} is that of a Ray client, which cannot hear a run's progress; start the "
                "study on a node of the cluster, with --address auto"
            )
        self._stack = ExitStack()
        self._interrupted = threading.Event()
        self._token, self._secret = Path(), secrets.token_hex(16)
        self._room = self._unborn = 0
        self._waited = time.monotonic()

    def __enter__(self) -> Cluster:
        """Connects.

        Raises:
            UserError: there is no cluster at the address, it has no room for a run, or the study folder cannot be
                written.
        """
        with ExitStack() as stack:
            self._token = stack.enter_context(_token(self.study.folder.absolute(), self._secret))
            if not ray.is_initialized() or self.address:
                stack.enter_context(self._connected())
            self._interrupted = stack.enter_context(track_interrupts())
            self._measure()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Ray, connected to the cluster or started here, without a word of its own and without a call home."""
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        begun = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(silent())
            terminate = signal.getsignal(signal.SIGTERM)
            if self.address:
                self.notify(EngineStatus(f"connecting to the Ray cluster at {self.address}"))
                reach(self.address)
                try:
                    ray.init(self.address, **quiet)
                except (RayError, ConnectionError, RuntimeError, ValueError) as error:
                    raise UserError(f"no Ray cluster can be used at {self.address}: {error}") from error
                stack.callback(ray.shutdown)
            else:
                self.notify(EngineStatus("starting Ray on this machine"))
                # Of its own, so that nothing is left of it; short, because the names of sockets are.
                home = tempfile.TemporaryDirectory(
                    prefix="ray-", dir="/tmp" if os.name == "posix" else None, ignore_cleanup_errors=True
                )
                stack.enter_context(home)
                stack.callback(ray.shutdown)
                start(
                    num_cpus=max(cores(), self.threads * (self.asked or 1)),
                    num_gpus=0 if self.device == "cpu" else None,
                    object_store_memory=_OBJECTS,
                    include_dashboard=False,
                    _temp_dir=home.name,
                    **quiet,
                )
            # Ray's handler would print a stack and end the process where it stands; the caller's, if any, knows better.
            if callable(terminate) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)
            took = time.monotonic() - begun
            self.notify(EngineStatus(f"Ray {ray.__version__} is ready after {took:.0f} s"))
            yield

    def _measure(self) -> None:
        """How many runs the cluster has room for, and on what.

        Raises:
            UserError: none, on the device that was asked for.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.device == "auto":
            self.device = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
        rooms = [int(node.get("CPU", 0)) // self.threads for node in nodes]
        if self.device == "cuda":
            rooms = [min(room, int(node.get("GPU", 0))) for room, node in zip(rooms, nodes, strict=True)]
        self._room = sum(rooms)
        if not self._room and not self.asked:
            one = f"{self.threads} CPU{'s' * (self.threads != 1)}" + (" and a GPU" if self.device == "cuda" else "")
            raise UserError(
                f"no node of the Ray cluster has the {one} that a run asks for (training.threads = {self.threads}); "
                "where the cluster grows on demand, say how many runs at a time: --slots"
            )

    def slots(self, devices: Sequence[str] | None = None) -> int:
        """What was asked for, or what the nodes have room for together, whoever else works there."""
        return self.asked or self._room

    def worker(self, slot: int, first: str | None = None) -> _Actor:
        """A new actor; it comes to life when the cluster has room for it, and is ready when the node has proved fit."""
        needs = {"num_cpus": self.threads, "num_gpus": 1 if self.device == "cuda" else 0}
        far = ray.remote(_StudyWorker).options(max_restarts=0, max_task_retries=0, **needs)
        actor = _Actor(slot, far.remote(self.threads, os.getcwd(), [place or os.getcwd() for place in sys.path]))
        token = {"ours": __version__, "token": str(self._token), "secret": self._secret}
        actor.call("saccade.study.engine.cluster:meet", **token, first=first)
        return actor

    def answers(self, workers: list[_Actor]) -> Iterator[Message[_Actor]]:
        """As :meth:`Executor.answers`.

        Raises:
            UserError: a node cannot do the runs of this study, or actors do not come to life.
        """
        while True:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            waiting = {worker.calls[0]: worker for worker in workers if worker.calls}
            arrived, _ = ray.wait(list(waiting), timeout=1.0)
            for worker in map(waiting.__getitem__, arrived):
                kind, content = worker.message()
                if worker.ready:
                    yield worker, kind, content
                elif kind == "result":
                    self._unborn, worker.ready = 0, True
                    yield worker, "ready", None
                elif kind == "error":
                    raise UserError(content["message"] if content["user"] else content["traceback"])
                else:
                    self._unborn += 1
                    if self._unborn == _BIRTHS:
                        raise UserError(f"the workers of the Ray cluster do not start: the last one {content}")
                    yield worker, kind, content
            if any(worker.ready for worker in workers):
                self._waited = time.monotonic()
            elif time.monotonic() - self._waited > _PATIENCE:
                self._waited = float("inf")
                self.notify(EngineStatus("waiting for a worker of the Ray cluster to be free"))


@contextmanager
def _token(folder: Path, secret: str) -> Iterator[Path]:
    """A file with ``secret`` in the study folder, which is made if need be, and removed again if it is left empty.

    The name is of this start alone: until one of two starts in one folder holds its lock, both are at work there.

    Raises:
        UserError: the folder cannot be written.
    """
    made: list[Path] = []
    path = folder / f".lock.ray.{secrets.token_hex(8)}"  # a name that does not make a free folder a taken one
    try:
        try:
            made += make_folders(folder)
            path.write_text(secret, encoding="ascii")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        yield path
    finally:
        with suppress(OSError):  # the folder is in use, or was never made
            path.unlink(missing_ok=True)
            for place in made:
                place.rmdir()


def _cause(error: RayError) -> str:
    """Why an actor ended, in Ray's words, as the rest of a sentence."""
    text = " ".join(str(error).split())
    detail = re.search(r"exit detail: (.*?\.)(?: |$)", text) or re.search(r"([^.]*has died\.)", text)
    return f"died ({(detail[1] if detail else text[:300]).strip().rstrip('.')})"
