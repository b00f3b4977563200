"""Reuse of freed memory in a process, which makes training on the CPU faster."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Parameters of ``mallopt``, from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that this process frees; return True on success.

    glibc maps large blocks anew each time; the page faults take up to half of a training step on the CPU. Call this
    function only in processes that saccade started.
    """
    with suppress(AttributeError, OSError, TypeError):  # only glibc has mallopt
        mallopt = ctypes.CDLL(None).mallopt
        # One arena, because other threads' arenas are mapped anew. A list, so that ``all`` skips no call.
        return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])
    return False
