"""Ray engine: one actor per slot, on an existing cluster or on one started on this machine.

An actor requests one CPU per thread of a run and, on accelerators, one GPU. The study folder, the data and the working
folder must have the same path on every node. If a node is lost, its run continues on another node after its last
finished epoch.
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
from saccade.study.engine.local import cores
from saccade.study.engine.ray_connection import check_cluster, start_ray, suppress_ray_output
from saccade.study.memory import keep_freed_memory
from saccade.study.plan import Study
from saccade.study.worker import execute_call, limit_threads, preload_function

__all__ = ["Cluster", "check_node"]

_MAX_FAILED_STARTS = 3
"""Number of consecutive actors that die before they are ready, at which the study stops."""
_NOTICE_AFTER_S = 15.0
"""Seconds without a ready actor after which the user is notified that no worker is free."""
_OBJECT_STORE_BYTES = 100 * 2**20
"""Bytes of the object store of a Ray cluster started here; only small messages pass through it."""


class _RemoteWorker:
    """Ray actor that executes the calls of the scheduler.

    Each run has ``threads`` CPU threads; ``folder`` and module search ``path`` are those of the process that started
    the study.
    """

    def __init__(self, threads: int, folder: str, path: list[str]) -> None:
        limit_threads(threads)
        keep_freed_memory()
        with suppress(OSError):  # the folder may not exist on this node; only relative paths need it
            os.chdir(folder)
        sys.path += [entry for entry in path if entry not in sys.path]

    def call(self, function: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the messages of one call as they arrive; the last one is the result or the error."""
        messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()

        def run_call() -> None:
            try:
                messages.put(execute_call(function, arguments, lambda event: messages.put(("event", event))))
            finally:
                messages.put(("", None))

        threading.Thread(target=run_call, daemon=True).start()
        while True:
            kind, content = messages.get()
            if not kind:  # SystemExit in a thread ends only that thread
                os._exit(1)
            yield kind, content
            if kind != "event":
                return


def check_node(version: str, handshake_path: str, secret: str, preload: str | None, notify: Notify) -> None:
    """Raise UserError unless this node has the same saccade version and sees the study folder.

    Args:
        version: saccade version that started the study.
        handshake_path: file in the study folder.
        secret: expected content of that file.
        preload: dotted name of a function to import in advance, or None.
        notify: unused.
    """
    node, installed = platform.node(), __version__
    if installed != version:
        raise UserError(
            f"the node {node} of the cluster has saccade {installed}, the study was started with {version}; "
            "all nodes need the same version"
        )
    try:
        content = Path(handshake_path).read_text(encoding="ascii")
    except OSError:
        content = ""
    if content != secret:
        raise UserError(
            f"the node {node} of the cluster does not see the study folder {Path(handshake_path).parent}; name "
            "with --out one on a file system that all nodes share"
        )
    preload_function(preload)


class _ActorHandle(Worker):
    """Handle of a Ray actor in the scheduler's process, with its pending calls."""

    def __init__(self, slot: int, actor: Any) -> None:
        super().__init__(slot)
        self.actor = actor
        self.calls: deque[Any] = deque()

    def call(self, function: str, **arguments: Any) -> None:
        self.calls.append(self.actor.call.options(num_returns="streaming").remote(function, arguments))

    def message(self) -> tuple[str, Any]:
        """Return the next message of the oldest pending call; blocks until it arrives."""
        try:
            kind, content = ray.get(next(self.calls[0]))
        except RayError as error:
            return "died", _cause(error)
        if kind != "event":
            self.calls.popleft()
        return kind, content

    def kill(self) -> None:
        with suppress(RayError):
            ray.kill(self.actor)


class Cluster(Executor[_ActorHandle]):
    """Executor on a Ray cluster.

    Args:
        study: study to execute.
        slots: number of concurrent runs; None uses as many as fit the cluster.
        device: ``auto``, ``cpu`` or ``cuda``.
        address: that of the cluster; None is the connected one, else ``RAY_ADDRESS``, else one started on this machine
            for the ``with`` block.
        notify: receives ``EngineStatus``.

    Raises:
        UserError: Ray does not support the device, or the address is that of a Ray client.
    """

    def __init__(self, study: Study, slots: int | None, device: str, address: str | None, notify: Notify) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: Ray chooses the device of each run; it is auto, cpu or cuda here")
        self.study, self.requested_slots, self.device, self.notify = study, slots, device, notify
        self.threads = study.base.training.threads
        self.address = address or (None if ray.is_initialized() else os.environ.get("RAY_ADDRESS") or None)
        if self.address and "://" in self.address:
            raise UserError(
                f"the address {self.address!r} is that of a Ray client, which cannot report a run's progress; start "
                "the study on a node of the cluster, with --address auto"
            )
        self._stack = ExitStack()
        self._interrupted = threading.Event()
        self._handshake_path, self._handshake_secret = Path(), secrets.token_hex(16)
        self._capacity = self._failed_starts = 0
        self._last_ready_at = time.monotonic()

    def __enter__(self) -> Cluster:
        """Connect to the cluster and measure its capacity.

        Raises:
            UserError: no cluster answers at the address, it has no room for a run, or the study folder cannot be
                written.
        """
        with ExitStack() as stack:
            self._handshake_path = stack.enter_context(
                _handshake_file(self.study.folder.absolute(), self._handshake_secret)
            )
            if not ray.is_initialized() or self.address:
                stack.enter_context(self._connected())
            self._interrupted = stack.enter_context(track_interrupts())
            self._set_capacity()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Connect to the cluster or start one, without log output or usage statistics; disconnect at the end."""
        log_options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        start_time = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(suppress_ray_output())
            sigterm_handler = signal.getsignal(signal.SIGTERM)
            if self.address:
                self.notify(EngineStatus(f"connecting to the Ray cluster at {self.address}"))
                check_cluster(self.address)
                try:
                    ray.init(self.address, **log_options)
                except (RayError, ConnectionError, RuntimeError, ValueError) as error:
                    raise UserError(f"no Ray cluster can be used at {self.address}: {error}") from error
                stack.callback(ray.shutdown)
            else:
                self.notify(EngineStatus("starting Ray on this machine"))
                # A temporary folder, to be deleted at the end; its path is short, as socket paths have a limit.
                temporary_folder = tempfile.TemporaryDirectory(
                    prefix="ray-", dir="/tmp" if os.name == "posix" else None, ignore_cleanup_errors=True
                )
                stack.enter_context(temporary_folder)
                stack.callback(ray.shutdown)
                start_ray(
                    num_cpus=max(cores(), self.threads * (self.requested_slots or 1)),
                    num_gpus=0 if self.device == "cpu" else None,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    _temp_dir=temporary_folder.name,
                    **log_options,
                )
            # Restore the caller's handler: Ray's would print a stack and exit at once.
            if callable(sigterm_handler) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, sigterm_handler)
            duration = time.monotonic() - start_time
            self.notify(EngineStatus(f"Ray {ray.__version__} is ready after {duration:.0f} s"))
            yield

    def _set_capacity(self) -> None:
        """Set the device, and the number of concurrent runs that fit the cluster."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self.device == "auto":
            self.device = "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"
        runs_per_node = [int(node.get("CPU", 0)) // self.threads for node in nodes]
        if self.device == "cuda":
            runs_per_node = [
                min(n_runs, int(node.get("GPU", 0))) for n_runs, node in zip(runs_per_node, nodes, strict=True)
            ]
        self._capacity = sum(runs_per_node)
        if not self._capacity and not self.requested_slots:
            required = f"{self.threads} CPU{'s' * (self.threads != 1)}" + (
                " and a GPU" if self.device == "cuda" else ""
            )
            raise UserError(
                f"no node of the Ray cluster has the {required} that a run asks for (training.threads = "
                f"{self.threads}); if the cluster grows on demand, set the number of concurrent runs with --slots"
            )

    def slots(self, devices: Sequence[str] | None = None) -> int:
        """Return the number of concurrent runs: as requested, else as many as fit the idle cluster."""
        return self.requested_slots or self._capacity

    def start_worker(self, slot: int, preload: str | None = None) -> _ActorHandle:
        """Return a new actor; it becomes ready once the cluster has room and ``check_node`` has passed on its node."""
        resources = {"num_cpus": self.threads, "num_gpus": 1 if self.device == "cuda" else 0}
        remote_class = ray.remote(_RemoteWorker).options(max_restarts=0, max_task_retries=0, **resources)
        actor = _ActorHandle(
            slot, remote_class.remote(self.threads, os.getcwd(), [entry or os.getcwd() for entry in sys.path])
        )
        handshake = {
            "version": __version__,
            "handshake_path": str(self._handshake_path),
            "secret": self._handshake_secret,
        }
        actor.call("saccade.study.engine.cluster:check_node", **handshake, preload=preload)
        return actor

    def messages(self, workers: list[_ActorHandle]) -> Iterator[Message[_ActorHandle]]:
        """Yield messages as in :meth:`Executor.messages`.

        Raises:
            UserError: a node cannot execute the runs of this study, or actors do not start.
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
                    self._failed_starts, worker.ready = 0, True
                    yield worker, "ready", None
                elif kind == "error":
                    raise UserError(content["message"] if content["is_user_error"] else content["traceback"])
                else:
                    self._failed_starts += 1
                    if self._failed_starts == _MAX_FAILED_STARTS:
                        raise UserError(f"the workers of the Ray cluster do not start: the last one {content}")
                    yield worker, kind, content
            if any(worker.ready for worker in workers):
                self._last_ready_at = time.monotonic()
            elif time.monotonic() - self._last_ready_at > _NOTICE_AFTER_S:
                self._last_ready_at = float("inf")
                self.notify(EngineStatus("waiting for a worker of the Ray cluster to be free"))


@contextmanager
def _handshake_file(folder: Path, secret: str) -> Iterator[Path]:
    """Write ``secret`` to a file in ``folder``, yield the path, and remove the file at the end.

    ``folder`` is created if needed and removed if empty. The name is unique, because two processes may start a study in
    one folder before either holds its lock.
    """
    created_folders: list[Path] = []
    path = folder / f".lock.ray.{secrets.token_hex(8)}"  # Study.check_folder ignores names that start with .lock
    try:
        try:
            created_folders += make_folders(folder)
            path.write_text(secret, encoding="ascii")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        yield path
    finally:
        with suppress(OSError):  # the folder is not empty, or was never created
            path.unlink(missing_ok=True)
            for created in created_folders:
                created.rmdir()


def _cause(error: RayError) -> str:
    """Return Ray's reason for the end of an actor as a predicate, such as "died (…)"."""
    text = " ".join(str(error).split())
    detail = re.search(r"exit detail: (.*?\.)(?: |$)", text) or re.search(r"([^.]*has died\.)", text)
    return f"died ({(detail[1] if detail else text[:300]).strip().rstrip('.')})"
