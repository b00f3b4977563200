"""The one kind of exception that is the user's to mend, and what its messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = ["UserError", "did_you_mean", "printable", "study_installed"]

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
    return " Did you mean " + " or ".join(f"'{printable(by_lower[n])}'" for n in near) + "?"


_JOINERS = "\u200c\u200d"
"""Unprintable to Python, but letters of Persian and of Indian scripts are spelt with them."""


def printable(text: object, most: int = 300) -> str:
    r"""Return ``text`` for a terminal or a page: one line of at most ``most`` characters, what is longer cut inside.

    Control characters, marks that turn the direction of writing, and bytes of a file name that are not UTF-8 are
    escaped.

    >>> printable("a\x1b[31m\nb\udce9")
    'a\\x1b[31m\\nb\\xe9'
    >>> printable("/a/very/long/path/to/a/file.png", most=15)
    '/a/very…ile.png'
    """
    words = str(text)
    if len(words) > most:
        half = (most - 1) // 2
        words = f"{words[:half]}…{words[-half:]}"
    return words if words.isprintable() else "".join(map(_escaped, words))


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]


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
