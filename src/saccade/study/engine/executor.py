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
        slot: index among the concurrent workers, which a replacement keeps.
        ready: True once it has started.
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
``user`` (True for an error the user can correct), ``died`` with the rest of a sentence that begins with "the process",
and ``ready`` with None."""


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
        """Start and return a worker; ``preload`` names a function whose module it imports in advance."""

    @abstractmethod
    def messages(self, workers: list[W]) -> Iterator[Message[W]]:
        """Yield the messages of all workers endlessly; ``workers`` may change between messages."""
