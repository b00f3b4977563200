"""The one kind of exception that is the user's to mend, and the nearest right spelling."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UserError", "did_you_mean"]


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
    near = get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{by_lower[n]}'" for n in near) + "?"
