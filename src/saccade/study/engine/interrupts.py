"""Ctrl-C that cannot be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["track_interrupts"]


@contextmanager
def track_interrupts() -> Iterator[threading.Event]:
    """Yield an event that is set once SIGINT or SIGTERM raises KeyboardInterrupt; restore their handlers at the end.

    Python drops what is raised while an object is deleted, and Ray's references do much when they are: without this, a
    Ctrl-C at such a moment is lost.
    """
    raised = threading.Event()

    def noting(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except KeyboardInterrupt:
                raised.set()
                raise

        return handle

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = signal.signal(number, noting(handler))
    try:
        yield raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
