"""Hooks that are removed at the end of a block, or run in one thread only."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.hooks import RemovableHandle

__all__ = ["only_in_this_thread", "remove_hooks", "temporary_hooks"]


@contextmanager
def temporary_hooks() -> Iterator[list[RemovableHandle]]:
    """Yield a list of handles, and remove their hooks at the end of the block.

    >>> with temporary_hooks() as handles:                                                      # doctest: +SKIP
    ...     handles.append(module.register_forward_hook(hook))
    """
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def remove_hooks(hooks: dict[int, Any], *functions: Callable[..., Any]) -> list[int]:
    """Remove ``functions`` from a module's dict of hooks; return their keys."""
    # Load-state hooks are stored inside an object with an attribute ``hook``.
    keys = [key for key, hook in hooks.items() if getattr(hook, "hook", hook) in functions]
    for key in keys:
        del hooks[key]
    return keys


def only_in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that calls ``hook`` in the current thread and returns None in any other.

    Another thread may run the same network at the same time.
    """
    thread = threading.get_ident()

    @functools.wraps(hook)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == thread else None

    return wrapper
