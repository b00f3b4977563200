"""Table of cells, from a CSV file or from Python."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["Sheet", "from_python", "read_sheet"]

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MAX_BYTES = 2**30
_DECIMAL_COMMA = re.compile(r"([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)")
"""Pattern of a number with a decimal comma."""
_LOG_NAMES = ("results.csv", "summary.csv", "metrics.csv")
"""File names that are suggested when a folder is given."""


@dataclass(frozen=True)
class Sheet:
    """Table with named columns.

    Attributes:
        name: name of the file, for messages.
        columns: names of the columns, without surrounding spaces.
        rows: tuples of one cell per column.
        lines: line number of each row in the file; in a table from Python the row, from 1.
        delimiter: "comma", "semicolon" or "tab"; "" for a table from Python.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    lines: tuple[int, ...]
    delimiter: str = ""

    def index_of(self, column: str) -> int | None:
        """Return the index of ``column``, ignoring case; None if there is no such column.

        Raises:
            UserError: two columns have that name.
        """
        indices = [n for n, name in enumerate(self.columns) if name.lower() == column.lower()]
        if len(indices) > 1:
            raise UserError(f"{self.name} has {len(indices)} columns {column!r}; one is needed")
        return indices[0] if indices else None

    def location(self, row: int) -> str:
        """Return the file and line of ``row``, for messages."""
        return f"{self.name}, {'line' if self.delimiter else 'row'} {self.lines[row]}"

    def text(self, row: int, column: int) -> str:
        """Return a cell as non-empty text.

        Raises:
            UserError: the cell is empty.
        """
        value = self.rows[row][column]
        missing = value is None or (isinstance(value, float) and math.isnan(value)) or str(value) == "<NA>"
        text = "" if missing else str(value).strip()
        if not text:
            raise UserError(f"{self.location(row)}: {self.columns[column]} is empty")
        return text

    def is_empty(self, row: int, column: int) -> bool:
        """Return True if a cell is blank."""
        return not str(self.rows[row][column]).strip()

    def number(self, row: int, column: int) -> float:
        """Return a cell as a finite number; a decimal comma is accepted unless commas separate the cells.

        Raises:
            UserError: the cell is empty, infinite or not a number.
        """
        text = self.text(row, column)
        if self.delimiter != "comma" and (match := _DECIMAL_COMMA.fullmatch(text)):
            text = f"{match[1]}.{match[2]}"
        try:
            value = float(text)
        except ValueError:
            hint = "; write the number without its unit" if re.match(r"[+-]?[\d.]", text) else ""
            raise UserError(
                f"{self.location(row)}: {self.columns[column]} is {brief(text, 40)!r}; a number is needed{hint}"
            ) from None
        if not math.isfinite(value):
            raise UserError(
                f"{self.location(row)}: {self.columns[column]} is {text}; a finite number is needed. Leave out the row "
                "of a run that failed"
            )
        return value

    def whole_number(self, row: int, column: int) -> int:
        """Return a cell as a whole number; 3.0 counts as 3.

        Raises:
            UserError: the cell is not a whole number.
        """
        text = self.text(row, column)
        if not re.fullmatch(r"[+-]?\d{1,18}(\.0+)?", text):
            raise UserError(
                f"{self.location(row)}: {self.columns[column]} is {brief(text, 40)!r}; a whole number is needed, such "
                "as 0"
            )
        return int(text.partition(".")[0])


def read_sheet(path: Path) -> Sheet:
    """Read a CSV file whose columns are separated by commas, semicolons or tabs.

    Raises:
        UserError: the file cannot be read as a table.
    """
    content = _read_text(path)
    header = next((line for line in content.splitlines() if line.strip()), "")
    if not header:
        raise UserError(f"{path} is empty; a line with the names of the columns is needed")
    unquoted_header = re.sub(r'"[^"]*"', "", header)
    delimiter = max(_DELIMITERS, key=unquoted_header.count)
    if delimiter not in unquoted_header:
        raise UserError(
            f"{path} has one column, {brief(header.strip(), 60)!r}; columns separated by comma, semicolon or "
            "tab are needed"
        )
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    columns: tuple[str, ...] = ()
    rows, lines = [], []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = tuple(cell.strip() for cell in cells)
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but {len(columns)} columns "
                    f"({', '.join(map(brief, columns))})"
                )
            rows.append(tuple(cells))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{path} has the names of columns, but no row below them")
    return Sheet(str(path), columns, tuple(rows), tuple(lines), _DELIMITERS[delimiter])


def _read_text(path: Path) -> str:
    """Return the text of a file."""
    if path.is_dir():
        logs = sorted({file.name for name in _LOG_NAMES for file in path.glob(f"**/{name}")})
        example = f", for example {path}/*/{logs[0]}" if logs else ""
        raise UserError(f"{path} is a folder; give the score files in it{example}")
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path} is not a regular file")  # reading a pipe may never end
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} has {path.stat().st_size} bytes; at most {_MAX_BYTES} are read")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path} is a spreadsheet, not a CSV file; save it as CSV (UTF-8)")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def from_python(scores: Any) -> Sheet:
    """Return a table of a DataFrame, a list of mappings, or a mapping from column to values or arm to scores.

    Raises:
        UserError: ``scores`` is something else, or its columns differ in length.
    """
    if hasattr(scores, "to_dict") and hasattr(scores, "columns"):
        scores = {name: list(scores[name]) for name in scores.columns}
    if isinstance(scores, Mapping):
        columns_by_name = {str(name): _as_list(name, values) for name, values in scores.items()}
        if not {"arm", "seed"} & {name.strip().lower() for name in columns_by_name}:
            triples = [
                (arm, seed, score)
                for arm, arm_scores in columns_by_name.items()
                for seed, score in enumerate(arm_scores)
            ]
            return _python_sheet(("arm", "seed", "score"), triples)
        lengths = {name: len(values) for name, values in columns_by_name.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the columns differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
        return _python_sheet(tuple(columns_by_name), zip(*columns_by_name.values(), strict=True))
    if isinstance(scores, list | tuple) and scores and all(isinstance(row, Mapping) for row in scores):
        columns = tuple(dict.fromkeys(str(name) for row in scores for name in row))
        return _python_sheet(columns, ([row.get(name) for name in columns] for row in scores))
    raise UserError(
        f"scores is a {type(scores).__name__}; a path, several paths, a DataFrame, columns by name, a list of rows by "
        "name, or scores by arm are needed"
    )


def _as_list(name: Any, values: Any) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise UserError(f"scores[{name!r}] is {brief(repr(values), 40)}; a list is needed")
    return list(values)


def _python_sheet(columns: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> Sheet:
    cells = tuple(tuple(row) for row in rows)
    if not cells:
        raise UserError("scores holds no row")
    return Sheet("scores", tuple(name.strip() for name in columns), cells, tuple(range(1, len(cells) + 1)))
