"""Text that a user or a file chose, made safe for a terminal and for tables."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["brief", "markdown", "printable"]

_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Hindi and emoji are written with."""
_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, bidirectional overrides and other invisible characters, lone surrogates, separators of lines."""


def printable(text: object, keep: str = "") -> str:
    r"""Return ``str(text)`` with control characters and invisible format characters escaped, as ``\x1b``, ``\u202e``.

    Bytes of a file name that are not UTF-8 are escaped too.

    Args:
        text: a name, a path or a sentence.
        keep: characters that stay as they are, such as a line feed.

    >>> printable("cat\x1b[31m"), printable("a\nb"), printable("naïve 猫"), printable("b\udce9")
    ('cat\\x1b[31m', 'a\\nb', 'naïve 猫', 'b\\xe9')
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c in keep or c in _JOINERS else _escaped(c) for c in string)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HARMFUL:
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def brief(text: object, most: int = 300) -> str:
    r"""Return ``text`` printable, for a message: what is longer than ``most`` characters is cut in the middle.

    >>> brief("/a/very/long/path/to/a/file.png", most=15)
    '/a/very…ile.png'
    """
    words = str(text)
    half = (most - 1) // 2
    return printable(words if len(words) <= most else f"{words[:half]}…{words[-half:]}")


def markdown(text: object) -> str:
    r"""``text`` for a cell or a line of Markdown: printable, and neither a tag, an entity, a link nor a column's end.

    >>> markdown("a|b <img src=x> &lt; [x](y) 1 < 2 & 3")
    'a\\|b &lt;img src=x> &amp;lt; [x]\\(y) 1 < 2 & 3'
    """
    found = re.sub(r"&(?=#|\w+;)", "&amp;", printable(text))
    found = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", found)
    return found.replace("](", "]\\(").replace("|", "\\|")
