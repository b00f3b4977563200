"""The one kind of exception that is the user's to mend, and words for what the machine refuses."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from saccade.escaping import brief

__all__ = ["UserError", "did_you_mean", "of_the_machine", "study_installed"]

_STUDY = ("jinja2", "lightning", "scipy", "sklearn", "torchmetrics")
"""What the extra ``study`` brings."""
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NAMELESS = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG)
"""Errors of the system that are no bug of a program, even where they name no file."""


class UserError(ValueError):
    """Something the caller can mend: the message says what was found and what is needed.

    The command line prints the message alone and exits with 2; from Python it is a ``ValueError``.
    """


def of_the_machine(error: BaseException) -> str | None:
    """A sentence on a full disk, a file that cannot be used or too little memory; None for any other error.

    >>> of_the_machine(PermissionError(13, "Permission denied", "runs"))
    'cannot use runs: Permission denied'
    >>> of_the_machine(KeyError("a bug")) is None
    True
    """
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    lacking = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if lacking or (isinstance(error, RuntimeError) and any(text in str(error) for text in texts)):
        return "there is not enough memory; smaller images, smaller batches or fewer runs at a time take less"
    if not isinstance(error, OSError):
        found = re.search(r"\(os error (\d+)\)", str(error))  # of a library in Rust, such as safetensors
        error = OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError()
    name = None if error.filename is None or isinstance(error.filename, int) else os.fsdecode(error.filename)
    if error.errno in _FULL:
        where = "a file" if name is None else name
        return f"cannot write {where}: {error.strerror}. Free some space and give the same command again"
    if name is not None:
        return f"cannot use {name}: {error.strerror}"
    return error.strerror if error.errno in _NAMELESS else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A sentence naming the nearest candidates, with a leading blank, or nothing.

    >>> did_you_mean("cbma", ["se", "cbam", "das"])
    " Did you mean 'cbam'?"
    >>> did_you_mean("transformer", ["se", "cbam"])
    ''
    """
    by_lower = {c.lower(): c for c in candidates}
    near: list[str] = []
    for cutoff in (0.8, 0.5):  # beside what is nearly the word, what is far from it is no help
        near = near or get_close_matches(word.lower(), by_lower, n=3, cutoff=cutoff)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{brief(by_lower[n])}'" for n in near) + "?"


@contextmanager
def study_installed() -> Iterator[None]:
    """Inside, a missing package of the extra ``study`` is the user's to install.

    Raises:
        UserError: one of its packages is imported inside and is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _STUDY:
            raise
        raise UserError(f"{name} is not installed: pip install 'saccade-attention[study]'") from error
