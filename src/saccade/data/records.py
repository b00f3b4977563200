"""Readers of CSV, with detection of the delimiter, and JSON Lines; rows keep their line numbers."""

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

__all__ = ["CellValue", "TableFile", "TableRow", "read_csv", "read_jsonl"]

_CSV_DELIMITERS = ",;\t"
_MEMORY_CACHE_BYTES = 2**23
"""Size of the largest file whose table is kept in memory; the rows take about ten times as much memory."""

CellValue = str | tuple[str, ...]
"""Text of a cell, or the texts of a list in JSON."""


@dataclass(frozen=True)
class TableRow:
    """Row of a table.

    Attributes:
        line: first line of the row in the file, from 1.
        cells: Maps column to value, without surrounding whitespace.
        trimmed: columns whose value had surrounding whitespace.
    """

    line: int
    cells: dict[str, CellValue]
    trimmed: frozenset[str] = frozenset()

    def text(self, column: str) -> str:
        """Return the value of ``column`` as text; lists are joined by commas."""
        value = self.cells[column]
        return value if isinstance(value, str) else ", ".join(value)


@dataclass(frozen=True)
class TableFile:
    """Table read from a file.

    Attributes:
        path: path of the file.
        file_name: path relative to the data folder, for messages.
        header: names of the columns, without surrounding whitespace; unnamed columns are left out.
        rows: rows in the order of the file.
        problems: sentences on rows that cannot be used.
    """

    path: Path
    file_name: str
    header: list[str]
    rows: list[TableRow]
    problems: list[str] = field(default_factory=list)

    def column(self, name: str) -> list[str]:
        """Return the values of a column."""
        return [row.text(name) for row in self.rows]

    def location(self, row: TableRow) -> str:
        """Return the line and file of ``row``, for a message."""
        return f"line {row.line} of {brief(self.file_name)}"


def read_csv(path: Path, file_name: str, min_columns: int = 2) -> TableFile:
    """Read a CSV file, quoted as in RFC 4180.

    The delimiter is the comma, semicolon or tab that splits the header into the most columns. Recent tables stay in
    memory while their files are unchanged.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or has no rows or fewer than ``min_columns`` named columns.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {brief(file_name)}: {error.strerror}") from None
    read = _read_csv if status.st_size <= _MEMORY_CACHE_BYTES else _read_csv.__wrapped__
    return read(path, file_name, min_columns, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=4)
def _read_csv(path: Path, file_name: str, min_columns: int, file_state: tuple[int, int, int]) -> TableFile:
    """Read a CSV file; ``file_state`` is part of the cache key only."""
    text = _read_text(path, file_name)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_CSV_DELIMITERS, key=lambda mark: len(next(csv.reader([first_line], delimiter=mark), [])))
    numbered_rows = list[tuple[int, list[str]]]()
    problems = list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                numbered_rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{brief(file_name)} cannot be read from line {start} on: {error}")
    if not numbered_rows:
        raise UserError(problems[0] if problems else f"{brief(file_name)} is empty")
    header = [name.strip() for name in numbered_rows[0][1]]
    _check_header(header, first_line, file_name, min_columns)
    rows = list[TableRow]()
    for line, cells in numbered_rows[1:]:
        if len(cells) != len(header):
            problems.append(f"line {line} of {brief(file_name)} has {len(cells)} cells; the header has {len(header)}")
            continue
        pairs = [(name, cell) for name, cell in zip(header, cells, strict=True) if name]
        trimmed = frozenset(name for name, cell in pairs if cell != cell.strip())
        rows.append(TableRow(line, {name: cell.strip() for name, cell in pairs}, trimmed))
    if not rows and not problems:
        raise UserError(f"{brief(file_name)} has a header and no rows")
    return TableFile(path, file_name, [name for name in header if name], rows, problems)


def read_jsonl(path: Path, file_name: str) -> TableFile:
    """Read a file with one JSON object per line; the keys of the first object are the columns.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or has no row.
    """
    rows, problems, header = list[TableRow](), list[str](), list[str]()
    for line, text in enumerate(_read_text(path, file_name).split("\n"), 1):  # splitlines() would split at U+2028
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {line} of {brief(file_name)} is not valid JSON: {brief(error)}")
            continue
        if not isinstance(values, dict):
            problems.append(f"line {line} of {brief(file_name)} holds {type(values).__name__}; an object is needed")
            continue
        header = header or list(values)
        if missing_keys := [name for name in header if name not in values]:
            problems.append(
                f"line {line} of {brief(file_name)} has no {brief(missing_keys[0])!r}; the first line has it"
            )
            continue
        rows.append(TableRow(line, {name: _json_cell(value) for name, value in values.items() if name in header}))
    if not rows and not problems:
        raise UserError(f"{brief(file_name)} has no rows")
    return TableFile(path, file_name, header, rows, problems)


def _json_cell(value: object) -> CellValue:
    if isinstance(value, list):
        return tuple(_json_text(item) for item in value)
    return _json_text(value)


def _json_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)


def _read_text(path: Path, file_name: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {brief(file_name)}: {error.strerror}") from None
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnicodeDecodeError("utf-8", content, 0, 2, "UTF-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = "it is UTF-16" if error.reason == "UTF-16" else f"byte {error.start} is not UTF-8"
        raise UserError(f"cannot read {brief(file_name)}: {reason}; save it as UTF-8") from None


def _check_header(header: Sequence[str], first_line: str, file_name: str, min_columns: int) -> None:
    names = [name for name in header if name]
    image_name = next((name for name in names if name.lower().endswith(SUFFIXES)), None)
    if image_name is not None:
        raise UserError(
            f"{brief(file_name)} has no header: its first line names {brief(image_name)!r}. Write the names of the "
            "columns above it, such as file,label"
        )
    if len(names) < min_columns:
        delimiter = next((mark for mark in "|:^~" if mark in first_line), None)
        hint = f"; {delimiter!r} is not supported" if delimiter else ""
        raise UserError(
            f"{brief(file_name)} has the one column {brief(first_line.strip(), 60)!r}; at least 2 are needed, "
            f"separated by a comma, a semicolon or a tab{hint}"
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{brief(file_name)} has {names.count(name)} columns called {brief(name)!r}")
