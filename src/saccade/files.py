"""Write files atomically, lock folders, create folders."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from saccade.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["atomic_writer", "lock", "make_folders", "remove_unfinished", "write_atomically"]

_TEMPORARY_PATTERN = ".*.part"
"""Glob pattern of the temporary files."""


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` and move it to ``path`` at the end of the ``with`` block.

    ``path`` holds either its old content or all of the new; an error in the block leaves it unchanged. Pass
    ``file.name`` to libraries that need a path.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    try:
        os.close(handle)
        with Path(temporary).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` with :func:`atomic_writer`; text is encoded as UTF-8."""
    with atomic_writer(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process left in ``folder``."""
    for path in folder.glob(_TEMPORARY_PATTERN):
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, whose folder must exist; the file is removed at the end.

    The operating system releases the lock when the process ends. Forked children do not inherit it.

    Args:
        path: the lock file.
        timeout: seconds to wait for another process that holds the lock.

    Raises:
        UserError: another process still holds the lock.
        OSError: the file cannot be created.
    """
    file = _open_locked(path, timeout)
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows cannot delete an open file
            path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: Path, timeout: float) -> IO[bytes]:
    """Return ``path`` opened and locked; see :func:`lock`."""
    deadline = time.monotonic() + timeout
    while True:
        file = path.open("ab")
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except OSError as error:
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            if time.monotonic() >= deadline:
                raise UserError(f"another process is working in {path.parent}; wait until it ends, or end it") from None
            time.sleep(0.05)
            continue
        file.close()  # another process removed the file after this one opened it


def make_folders(path: Path) -> list[Path]:
    """Create ``path`` and the missing folders above it; return the created folders, the innermost first.

    ``Path.mkdir(parents=True)`` recurses once per level and fails at a depth of a thousand.

    Raises:
        OSError: a folder cannot be created; those created before it are removed again.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(created):
            folder.mkdir(exist_ok=True)
        path.mkdir(exist_ok=True)  # raises FileExistsError if ``path`` is a file
    except OSError:
        for folder in created:
            with suppress(OSError):  # the folder was not created
                folder.rmdir()
        raise
    return created
