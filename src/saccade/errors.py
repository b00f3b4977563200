"""The one kind of exception that is the user's to mend, the nearest right spelling, and a package that is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = ["UserError", "did_you_mean", "study_installed"]

_STUDY = ("jinja2", "lightning", "scipy", "sklearn", "torchmetrics")
"""What the extra ``study`` brings."""


class UserError(ValueError):
    """Something the caller can mend: the message says what was found and what is needed.

    The command line prints the message alone and exits with 2; from Python it is a ``ValueError``.
    """


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
    return " Did you mean " + " or ".join(f"'{by_lower[n]}'" for n in near) + "?"


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
        raise UserError(f"{name} is not installed: pip install 'saccade[study]'") from error
