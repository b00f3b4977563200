"""Temporary hooks: removed at the end of a block, and run in the thread that set them alone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.hooks import RemovableHandle

__all__ = ["of_this_thread", "remove_hooks", "temporary_hooks"]


@contextmanager
def temporary_hooks() -> Iterator[list[RemovableHandle]]:
    """Remove at the end of the block the hooks whose handles were appended to the list.

    >>> with temporary_hooks() as handles:                                                      # doctest: +SKIP
    ...     handles.append(module.register_forward_hook(hook))
    """
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def remove_hooks(hooks: dict[int, Any], *ours: Callable[..., Any]) -> list[int]:
    """Remove ``ours`` from the hooks of a module; return their keys."""
    gone = [key for key, hook in hooks.items() if getattr(hook, "hook", hook) in ours]
    for key in gone:
        del hooks[key]
    return gone


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``hook`` for the running thread; called by any other it does nothing and returns None.

    Another thread may run the same network at the same time.
    """
    thread = threading.get_ident()

    @functools.wraps(hook)
    def own(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == thread else None

    return own
