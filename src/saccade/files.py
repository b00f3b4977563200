"""Write a file whole or not at all, lock a folder, make folders: the only such code of the package."""

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

__all__ = ["lock", "make_folders", "remove_unfinished", "replacing", "write_atomically"]

_UNFINISHED = ".*.part"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` and move it to ``path`` at the end: old content or new, never half.

    An error inside leaves ``path`` as it was. The ``name`` of the file serves those who write by name.
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
    """Write ``content``, text as UTF-8, through :func:`replacing`."""
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process left in ``folder``."""
    for leftover in folder.glob(_UNFINISHED):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock on the file ``path`` of an existing folder; the file is removed at the end.

    The lock is the kernel's: it ends with the process, however that ends, and forked children do not inherit it.

    Args:
        path: the lock file.
        patience: seconds to wait for a process that holds it.

    Raises:
        UserError: another process still holds it.
        OSError: the file cannot be made.
    """
    file = _locked(path, patience)
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows keeps an open file
            path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path, patience: float) -> IO[bytes]:
    end = time.monotonic() + patience
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
            if time.monotonic() >= end:
                raise UserError(
                    f"another process is working in {path.parent}; wait until it has ended, or end it"
                ) from None
            time.sleep(0.05)
            continue
        file.close()  # its last holder removed the file after this process had opened it


def make_folders(path: Path) -> list[Path]:
    """Make ``path`` and the missing folders above it; return those made, the innermost first.

    ``Path.mkdir(parents=True)`` recurses for every level and fails a thousand levels down.

    Raises:
        OSError: one cannot be made; those made before it are removed again.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        path.mkdir(exist_ok=True)  # FileExistsError where it is a file
    except OSError:
        for folder in missing:
            with suppress(OSError):  # never made
                folder.rmdir()
        raise
    return missing
