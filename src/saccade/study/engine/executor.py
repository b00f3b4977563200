"""What the schedule needs of an engine: an executor with workers that take one call at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from saccade.study.plan import Run

__all__ = ["Executor", "Message", "Worker"]


class Worker(ABC):
    """A process somewhere, and what it is doing.

    Attributes:
        slot: its number in the study; the worker that replaces a dead one takes over the slot.
        ready: a run can be handed to it.
        run: the one it does, or None.
        attempt: attempt number, from 1.
    """

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.ready = False
        self.run: Run | None = None
        self.attempt = 1

    @abstractmethod
    def call(self, function: str, **arguments: Any) -> None:
        """Ask for one call of ``package.module:function``; the answer comes through :meth:`Executor.answers`."""

    @abstractmethod
    def end(self) -> None:
        """Kill it: a run can be killed at any moment and goes on from its last epoch."""


W = TypeVar("W", bound=Worker)
Message = tuple[W, str, Any]
"""A worker, a kind, a content: ``event`` with an Event, ``result`` with the value of the call, ``error`` with
``message``, ``traceback`` and ``user`` (whether the user can mend it), ``died`` with the rest of a sentence that begins
with "the process", ``ready`` with None."""


class Executor(ABC, Generic[W]):
    """Where workers live; they are made and heard inside a ``with``.

    Attributes:
        device: what the workers are asked to run on.
    """

    device: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    @abstractmethod
    def slots(self, devices: Sequence[str] | None = None) -> int:
        """Runs at a time; ``devices`` once a worker has said which there are."""

    @abstractmethod
    def worker(self, slot: int, first: str | None = None) -> W:
        """A new worker; ``first`` is the function whose module it imports while it waits."""

    @abstractmethod
    def answers(self, workers: list[W]) -> Iterator[Message[W]]:
        """Messages of all workers as they come, without end; the list is read anew each time."""
