"""Interface between the scheduler and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from saccade.study.plan import Run

__all__ = ["Executor", "Message", "Worker"]


class Worker(ABC):
    """Process or actor that executes one call at a time.

    Attributes:
        slot: index of the worker; its replacement gets the same index.
        ready: True once the worker has started.
        run: run in progress, or None.
        attempt: attempt number of that run, from 1.
    """

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.ready = False
        self.run: Run | None = None
        self.attempt = 1

    @abstractmethod
    def call(self, function: str, **arguments: Any) -> None:
        """Request a call of ``package.module:function``; its messages come through :meth:`Executor.messages`."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the process; its run can be resumed after the last finished epoch."""


W = TypeVar("W", bound=Worker)
Message = tuple[W, str, Any]
"""Worker, kind and content of a message.

Kinds are ``event`` with an Event, ``result`` with the value of the call, ``error`` with ``message``, ``traceback`` and
``is_user_error`` (True for an error that the user can correct), ``died`` with a verb phrase, such as
"ended with exit code 1", and ``ready`` with None."""


class Executor(ABC, Generic[W]):
    """Context manager that starts workers and receives their messages.

    Attributes:
        device: device requested for the runs.
    """

    device: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return

    @abstractmethod
    def slots(self, devices: Sequence[str] | None = None) -> int:
        """Return the number of concurrent runs; ``devices`` is None until a worker has reported them."""

    @abstractmethod
    def start_worker(self, slot: int, preload: str | None = None) -> W:
        """Start and return a worker; ``preload`` names a function that the worker imports in advance."""

    @abstractmethod
    def messages(self, workers: list[W]) -> Iterator[Message[W]]:
        """Yield the messages of all workers endlessly; ``workers`` may change between messages."""
