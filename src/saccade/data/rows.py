"""Find the image and the split of table rows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from saccade.data.columns import EMPTY_VALUES
from saccade.data.image_index import AmbiguousError, ImageIndex, NotFoundError
from saccade.data.records import TableFile, TableRow
from saccade.data.survey import SPLIT_NAMES
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["RowImages", "quote_value", "read_row_splits"]

_MAX_SUGGESTIONS = 5
"""Number of missing images for which a similar name is suggested."""


class RowImages:
    """Images named in table rows.

    Args:
        index: images of the folder.

    Attributes:
        missing: Maps a missing image path to a message, which is a predicate of the path.
        problems: sentences on rows whose image name is empty, ambiguous or outside the folder.
    """

    def __init__(self, index: ImageIndex) -> None:
        self.index = index
        self.missing = dict[Path, str]()
        self.problems = list[str]()
        self._paths = dict[tuple[str, Path], Path]()

    @property
    def found(self) -> set[Path]:
        """Existing images of all rows looked up so far."""
        return set(self._paths.values()) - self.missing.keys()

    def find(self, row: TableRow, column: str, folder: Path, where: str) -> Path | None:
        """Return the path of a row's image; None if a problem was recorded instead.

        Args:
            row: row of a table.
            column: column of the image names.
            folder: folder in which the image is looked up first.
            where: line of the row, for messages.
        """
        text = row.text(column)
        if (cached := self._paths.get((text, folder))) is not None:
            return cached
        if text.lower() in EMPTY_VALUES:
            self.problems.append(f"{where} names no image: its {brief(column)!r} is empty")
            return None
        try:
            path = self.index.find(text, folder, where)
        except NotFoundError:
            path = folder / text.replace("\\", "/")
            suggestion = self.index.suggestion(text) if len(self.missing) < _MAX_SUGGESTIONS else ""
            self.missing[path] = f"does not exist; {where} names it.{suggestion}"
        except (AmbiguousError, UserError) as error:
            self.problems.append(f"{where} {error}" if isinstance(error, AmbiguousError) else str(error))
            return None
        return self._paths.setdefault((text, folder), path)


def read_row_splits(table: TableFile, column: str | None, problems: list[str]) -> dict[int, tuple[str, str]]:
    """Map line to (split, name in ``column``) for rows with a known split name; return {} without a column.

    One sentence per unknown name is appended to ``problems``.
    """
    if column is None:
        return {}
    split_of_name = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    row_splits, lines_of_unknown_name = dict[int, tuple[str, str]](), defaultdict[str, list[str]](list)
    for row in table.rows:
        name = row.text(column)
        if name.lower() in split_of_name:
            row_splits[row.line] = split_of_name[name.lower()], name.lower()
        else:
            lines_of_unknown_name[name].append(table.location(row))
    problems += [
        f"{lines[0]} has {quote_value(name)} in the column {brief(column)!r}"
        + (f", as have {len(lines) - 1} other rows" if lines[1:] else "")
        + f"; known names are {', '.join(split_of_name)}.{did_you_mean(name, split_of_name)}"
        for name, lines in lines_of_unknown_name.items()
    ]
    return row_splits


def quote_value(value: str) -> str:
    """Return ``value`` in quotes, for a message; "a blank" if it is empty."""
    return repr(brief(value, 40)) if value else "a blank"
