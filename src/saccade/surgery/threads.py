"""Hooks that belong to the thread that set them: another thread may run the same network at the same time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["of_this_thread"]


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``hook`` for the running thread; called by any other it does nothing and returns None."""
    thread = threading.get_ident()

    @functools.wraps(hook)
    def own(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == thread else None

    return own
