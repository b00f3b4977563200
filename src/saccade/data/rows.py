"""What the rows of any table of images say: which image, and which part."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from saccade.data.columns import EMPTY
from saccade.data.image_index import AmbiguousError, ImageIndex, NotFoundError
from saccade.data.records import Record, Records
from saccade.data.survey import ROLES
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["RowImages", "parts_of", "said"]

_SUGGESTED = 5
"""So many images that cannot be found get the nearest name."""


class RowImages:
    """The images of rows.

    Args:
        index: the images there are.

    Attributes:
        missing: images that are named and cannot be found, and why, as the rest of a sentence that begins with their
            path.
        problems: sentences on rows that name no image or no certain one.
    """

    def __init__(self, index: ImageIndex) -> None:
        self.index = index
        self.missing = dict[Path, str]()
        self.problems = list[str]()
        self._known = dict[tuple[str, Path], Path]()

    @property
    def found(self) -> set[Path]:
        """The images of all rows so far."""
        return set(self._known.values()) - self.missing.keys()

    def find(self, row: Record, column: str, near: Path, where: str) -> Path | None:
        """The image of a row; None where there is a problem instead.

        Args:
            row: of a table.
            column: names the image.
            near: the folder in which it is sought first.
            where: the row's line, for messages.
        """
        text = row.text(column)
        if (before := self._known.get((text, near))) is not None:
            return before
        if text.lower() in EMPTY:
            self.problems.append(f"{where} names no image: its {brief(column)!r} is empty")
            return None
        try:
            found = self.index.find(text, near, where)
        except NotFoundError:
            found = near / text.replace("\\", "/")
            nearest = self.index.nearest(text) if len(self.missing) < _SUGGESTED else ""
            self.missing[found] = f"does not exist; {where} names it.{nearest}"
        except (AmbiguousError, UserError) as error:
            self.problems.append(f"{where} {error}" if isinstance(error, AmbiguousError) else str(error))
            return None
        return self._known.setdefault((text, near), found)


def parts_of(table: Records, column: str | None, problems: list[str]) -> dict[int, tuple[str, str]]:
    """Line -> part and the word for it in the split ``column``, of the rows whose word is known.

    A sentence on each other word is added to ``problems``.
    """
    if column is None:
        return {}
    known = {word: role for role, words in ROLES.items() for word in words}
    words, strange = dict[int, tuple[str, str]](), defaultdict[str, list[str]](list)
    for row in table.rows:
        word = row.text(column)
        if word.lower() in known:
            words[row.line] = known[word.lower()], word.lower()
        else:
            strange[word].append(table.at(row))
    problems += [
        f"{where[0]} has {said(word)} in the column {brief(column)!r}"
        + (f", as have {len(where) - 1} other rows" if where[1:] else "")
        + f"; known are {', '.join(known)}.{did_you_mean(word, known)}"
        for word, where in strange.items()
    ]
    return words


def said(value: str) -> str:
    """A value, for a message."""
    return repr(brief(value, 40)) if value else "a blank"
