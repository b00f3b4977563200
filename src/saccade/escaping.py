"""Text that a user or a file chose, made safe for a terminal and for tables."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["markdown", "printable"]

_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Hindi and emoji are written with."""
_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, bidirectional overrides and other invisible characters, lone surrogates, separators of lines."""


def printable(text: object, keep: str = "") -> str:
    r"""``str(text)`` with control characters, invisible format characters and lone surrogates as ``\x1b``, ``\u202e``.

    Args:
        text: a name, a path or a sentence.
        keep: characters that stay as they are, such as a line feed.

    >>> printable("cat\x1b[31m"), printable("a\nb"), printable("naïve 猫")
    ('cat\\x1b[31m', 'a\\nb', 'naïve 猫')
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if c not in keep and c not in _JOINERS and unicodedata.category(c) in _HARMFUL
        else c
        for c in string
    )


def markdown(text: object) -> str:
    r"""``text`` for a cell or a line of Markdown: printable, and neither a tag, an entity, a link nor a column's end.

    >>> markdown("a|b <img src=x> &lt; [x](y) 1 < 2 & 3")
    'a\\|b &lt;img src=x> &amp;lt; [x]\\(y) 1 < 2 & 3'
    """
    found = re.sub(r"&(?=#|\w+;)", "&amp;", printable(text))
    found = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", found)
    return found.replace("](", "]\\(").replace("|", "\\|")
