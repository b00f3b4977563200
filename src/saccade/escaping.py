"""Escape text chosen by a user or a file, for terminals and tables."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["brief", "escape_markdown", "printable"]

_ZERO_WIDTH_JOINERS = "\u200c\u200d"
"""Characters that are not escaped, because Persian, Hindi and emoji need them."""
_ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control and invisible format characters, lone surrogates and line separators."""


def printable(text: object, keep: str = "") -> str:
    r"""Return ``str(text)`` with control characters and invisible format characters escaped, as ``\x1b``, ``\u202e``.

    Bytes of a file name that are not valid UTF-8 are escaped too.

    Args:
        text: a name, a path or a sentence.
        keep: characters that are not escaped, such as a line feed.

    >>> printable("cat\x1b[31m"), printable("a\nb"), printable("naïve 猫"), printable("b\udce9")
    ('cat\\x1b[31m', 'a\\nb', 'naïve 猫', 'b\\xe9')
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c in keep or c in _ZERO_WIDTH_JOINERS else _escape(c) for c in string)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    if "\udc80" <= character <= "\udcff":  # Python stores an undecodable byte as a surrogate
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def brief(text: object, max_length: int = 300) -> str:
    r"""Return ``text`` shortened in the middle to ``max_length`` characters, then escaped by :func:`printable`.

    >>> brief("/a/very/long/path/to/a/file.png", max_length=15)
    '/a/very…ile.png'
    """
    string = str(text)
    half = (max_length - 1) // 2
    return printable(string if len(string) <= max_length else f"{string[:half]}…{string[-half:]}")


def escape_markdown(text: object) -> str:
    r"""Return ``text`` made printable, with HTML tags, entities, links and ``|`` escaped for Markdown.

    >>> escape_markdown("a|b <img src=x> &lt; [x](y) 1 < 2 & 3")
    'a\\|b &lt;img src=x> &amp;lt; [x]\\(y) 1 < 2 & 3'
    """
    escaped = re.sub(r"&(?=#|\w+;)", "&amp;", printable(text))
    escaped = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", escaped)
    return escaped.replace("](", "]\\(").replace("|", "\\|")
