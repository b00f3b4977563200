"""Exception for mistakes that a user can correct, and messages for system errors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from saccade.escaping import brief

__all__ = ["UserError", "did_you_mean", "explain_missing_packages", "system_error_message"]

_STUDY_PACKAGES = ("jinja2", "lightning", "scipy", "sklearn", "torchmetrics")
"""Packages that the extra ``study`` installs."""
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk, an exceeded quota and a file that is too large."""
_SYSTEM_ERRORS = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG)
"""Error numbers that are reported without a traceback even if they name no file: they are not bugs."""


class UserError(ValueError):
    """Error that the caller can correct; the message says what was found and what is needed.

    The command line prints only the message and exits with 2; in Python it is a ``ValueError``.
    """


def system_error_message(error: BaseException) -> str | None:
    """Return a message for an error of the system, such as a full disk; None for any other error.

    >>> system_error_message(PermissionError(13, "Permission denied", "runs"))
    'cannot use runs: Permission denied'
    >>> system_error_message(KeyError("a bug")) is None
    True
    """
    out_of_memory_texts = ("can't allocate memory", "not enough memory", "out of memory")
    is_out_of_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if is_out_of_memory or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in out_of_memory_texts)
    ):
        return "there is not enough memory; use smaller images, smaller batches or fewer runs at a time"
    if not isinstance(error, OSError):
        match = re.search(r"\(os error (\d+)\)", str(error))  # safetensors is written in Rust
        error = OSError(int(match[1]), os.strerror(int(match[1]))) if match else OSError()
    name = None if error.filename is None or isinstance(error.filename, int) else os.fsdecode(error.filename)
    if error.errno in _DISK_FULL:
        target = "a file" if name is None else name
        return f"cannot write {target}: {error.strerror}. Free some space and repeat the command"
    if name is not None:
        return f"cannot use {name}: {error.strerror}"
    return error.strerror if error.errno in _SYSTEM_ERRORS else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a question that names the most similar candidates, with a leading space; "" if none is similar.

    >>> did_you_mean("cbma", ["se", "cbam", "das"])
    " Did you mean 'cbam'?"
    >>> did_you_mean("transformer", ["se", "cbam"])
    ''
    """
    by_lower = {name.lower(): name for name in candidates}
    matches: list[str] = []
    for cutoff in (0.8, 0.5):  # distant matches only if there are no close ones
        matches = matches or get_close_matches(word.lower(), by_lower, n=3, cutoff=cutoff)
    if not matches:
        return ""
    return " Did you mean " + " or ".join(f"'{brief(by_lower[match])}'" for match in matches) + "?"


@contextmanager
def explain_missing_packages() -> Iterator[None]:
    """Context manager that turns a failed import of a package of the extra ``study`` into a UserError.

    Raises:
        UserError: one of these packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _STUDY_PACKAGES:
            raise
        raise UserError(f"{name} is not installed: pip install 'saccade-attention[study]'") from error
