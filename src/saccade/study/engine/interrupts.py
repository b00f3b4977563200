"""Reliable detection of Ctrl-C."""

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
    """Yield an event that is set when SIGINT or SIGTERM raises KeyboardInterrupt; restore their handlers at the end.

    Python drops exceptions that are raised while an object is deleted, so a Ctrl-C during the deletion of Ray's object
    references, which takes long, would be lost.
    """
    interrupted = threading.Event()

    def wrap_handler(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except KeyboardInterrupt:
                interrupted.set()
                raise

        return handle

    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                previous_handlers[number] = signal.signal(number, wrap_handler(handler))
    try:
        yield interrupted
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
