"""Tables in text files: CSV with its delimiter found, and JSON Lines; every row has the line it begins in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import SUFFIXES

__all__ = ["Cell", "Record", "Records", "read_csv", "read_jsonl"]

_DELIMITERS = ",;\t"
_KEPT = 2**23
"""Bytes of a file up to which its table is kept in memory: rows take about ten times as much."""

Cell = str | tuple[str, ...]
"""A text, or the texts of a list in JSON."""


@dataclass(frozen=True)
class Record:
    """A row.

    Attributes:
        line: where it begins, from 1.
        cells: column -> value, without blanks around it.
        blanks: whether a value had blanks around it.
    """

    line: int
    cells: dict[str, Cell]
    blanks: frozenset[str] = frozenset()

    def text(self, column: str) -> str:
        """The value of a column that holds no list; a list is shown as text."""
        value = self.cells[column]
        return value if isinstance(value, str) else ", ".join(value)


@dataclass(frozen=True)
class Records:
    """A table.

    Attributes:
        path: of its file.
        owner: the file's name from the data folder, for messages.
        header: the names of the columns, without blanks around them; columns without a name are left out.
        rows: in the order of the file.
        problems: sentences on rows that cannot be used.
    """

    path: Path
    owner: str
    header: list[str]
    rows: list[Record]
    problems: list[str] = field(default_factory=list)

    def column(self, name: str) -> list[str]:
        """The values of a column."""
        return [row.text(name) for row in self.rows]

    def at(self, row: Record) -> str:
        """Where a row is, for a message."""
        return f"line {row.line} of {brief(self.owner)}"


def read_csv(path: Path, owner: str, least: int = 2) -> Records:
    """Read a CSV: separated by the one of , ; and tab that splits its header into most columns; quotes as in RFC 4180.

    The last few tables are kept while their files are unchanged, since a command asks for each several times.

    Raises:
        UserError: it cannot be read, is not UTF-8, or has no header of ``least`` columns or more, or no row.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {brief(owner)}: {error.strerror}") from None
    read = _read_csv if found.st_size <= _KEPT else _read_csv.__wrapped__
    return read(path, owner, least, (found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=4)
def _read_csv(path: Path, owner: str, least: int, state: tuple[int, int, int]) -> Records:
    text = _text(path, owner)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    found = list[tuple[int, list[str]]]()
    problems = list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{brief(owner)} cannot be read from line {start} on: {error}")
    if not found:
        raise UserError(problems[0] if problems else f"{brief(owner)} is empty")
    header = [name.strip() for name in found[0][1]]
    _check_header(header, first, owner, least)
    rows = list[Record]()
    for line, cells in found[1:]:
        if len(cells) != len(header):
            problems.append(f"line {line} of {brief(owner)} has {len(cells)} cells; the header has {len(header)}")
            continue
        pairs = [(name, cell) for name, cell in zip(header, cells, strict=True) if name]
        blanks = frozenset(name for name, cell in pairs if cell != cell.strip())
        rows.append(Record(line, {name: cell.strip() for name, cell in pairs}, blanks))
    if not rows and not problems:
        raise UserError(f"{brief(owner)} has a header and no rows")
    return Records(path, owner, [name for name in header if name], rows, problems)


def read_jsonl(path: Path, owner: str) -> Records:
    """Read a file with one JSON object a line; a column is what the first row has.

    Raises:
        UserError: it cannot be read, is not UTF-8 or has no row.
    """
    rows, problems, header = list[Record](), list[str](), list[str]()
    for line, text in enumerate(_text(path, owner).split("\n"), 1):  # splitlines() cuts at U+2028 within a text
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {line} of {brief(owner)} is not valid JSON: {brief(error)}")
            continue
        if not isinstance(found, dict):
            problems.append(f"line {line} of {brief(owner)} holds {type(found).__name__}; an object is needed")
            continue
        header = header or list(found)
        if lacking := [name for name in header if name not in found]:
            problems.append(f"line {line} of {brief(owner)} has no {brief(lacking[0])!r}; the first line has it")
            continue
        rows.append(Record(line, {name: _cell(value) for name, value in found.items() if name in header}))
    if not rows and not problems:
        raise UserError(f"{brief(owner)} has no rows")
    return Records(path, owner, header, rows, problems)


def _cell(value: object) -> Cell:
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    return _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)


def _text(path: Path, owner: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {brief(owner)}: {error.strerror}") from None
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnicodeDecodeError("utf-8", content, 0, 2, "UTF-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "it is UTF-16" if error.reason == "UTF-16" else f"byte {error.start} is not UTF-8"
        raise UserError(f"cannot read {brief(owner)}: {kind}; save it as UTF-8") from None


def _check_header(header: Sequence[str], first: str, owner: str, least: int) -> None:
    names = [name for name in header if name]
    image = next((name for name in names if name.lower().endswith(SUFFIXES)), None)
    if image is not None:
        raise UserError(
            f"{brief(owner)} has no header: its first line names {brief(image)!r}. Write the names of the columns "
            "above it, such as file,label"
        )
    if len(names) < least:
        other = next((mark for mark in "|:^~" if mark in first), None)
        found = f"; {other!r} separates nothing here" if other else ""
        raise UserError(
            f"{brief(owner)} has the one column {brief(first.strip(), 60)!r}; at least 2 are needed, separated by a "
            f"comma, a semicolon or a tab{found}"
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{brief(owner)} has {names.count(name)} columns called {brief(name)!r}")
