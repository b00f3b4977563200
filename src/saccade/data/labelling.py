"""The rows of tables as labelled images: each row's image is found, its part, group and labels are read and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from saccade.data.columns import EMPTY, FLAGS, NONE_OF_THEM, Columns
from saccade.data.image_index import ImageIndex
from saccade.data.records import Record, Records
from saccade.data.rows import RowImages, parts_of, said
from saccade.escaping import brief

__all__ = ["Labelled", "Labelling", "Table", "read_rows"]


class Table(NamedTuple):
    """A table of images.

    Attributes:
        role: of all its rows, ``train``, ``test`` or ``val``; a split column says another.
        name: of that part, for messages; empty where there are no parts.
        records: its rows.
        columns: what they are.
        near: the folder in which its images are sought first.
    """

    role: str
    name: str
    records: Records
    columns: Columns
    near: Path


@dataclass(frozen=True)
class Labelled:
    """An image with what its row says.

    Attributes:
        labels: their names, in the order of the row.
        role: ``train``, ``test`` or ``val``.
        part: what the source calls it; empty where all rows are one part.
        group: its group; empty where the table has none.
        where: the line, for messages.
    """

    labels: tuple[str, ...]
    role: str
    part: str
    group: str
    where: str


@dataclass
class Labelling:
    """What the rows say.

    Attributes:
        images: image to its labels.
        classes: every label, in the order of the 0/1 columns, else sorted, numbers by their value.
        missing: images that are named and cannot be found, and why.
        problems: sentences on rows that cannot be used.
        notes: sentences on what was cleaned.
    """

    images: dict[Path, Labelled] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    missing: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_rows(tables: Sequence[Table], index: ImageIndex, options: Mapping[str, Any]) -> Labelling:
    """Read every row.

    Args:
        tables: where they stand.
        index: the images.
        options: ``data.options``.
    """
    found, twice, empty, blanks = Labelling(), 0, list[str](), 0
    known, images = dict[str, None](), RowImages(index)
    for role, name, table, columns, near in tables:
        found.problems += table.problems
        reader = _Labels(table, columns, options)
        words = parts_of(table, columns.split, found.problems)
        for row in table.rows:
            where = table.at(row)
            group = row.text(columns.group) if columns.group else ""
            labels = reader.labels(row)
            path = images.find(row, columns.image, near, where)
            if columns.group and group.lower() in EMPTY:
                found.problems.append(f"{where} has no {brief(columns.group)!r}; every image needs one")
            if isinstance(labels, str):
                found.problems.append(f"{where} {labels}")
                continue
            if path is None or (columns.split and row.line not in words):
                continue
            blanks += columns.form != "flags" and columns.labels[0] in row.blanks
            known |= dict.fromkeys(labels)
            one = Labelled(labels, *words.get(row.line, (role, name)), group, where)
            before = found.images.setdefault(path, one)
            if before is one:
                empty += [where] * (not labels)
            elif (before.labels, before.role, before.group) == (labels, one.role, group):
                twice += 1
            else:
                found.problems.append(_unlike(path, before, one))
    found.missing, found.problems = images.missing, [*found.problems, *images.problems]
    ordered = [label for table in tables for label in table.columns.labels if table.columns.form == "flags"]
    found.classes = list(dict.fromkeys(ordered)) or sorted(known, key=_by_number)
    found.notes += _notes(found, twice, empty, blanks)
    return found


class _Labels:
    """Reads the labels of the rows of a table."""

    def __init__(self, table: Records, columns: Columns, options: Mapping[str, Any]) -> None:
        self.columns = columns
        self._flags = dict(FLAGS)
        if (uncertain := options.get("uncertain")) is not None:
            self._flags |= dict.fromkeys(("-1", "-1.0"), int(uncertain))
        if (blank := options.get("blank")) is not None:
            self._flags |= dict.fromkeys(EMPTY, int(blank))

    def labels(self, row: Record) -> tuple[str, ...] | str:
        """The labels of a row, or why it has none, as the rest of a sentence that begins with its line."""
        if self.columns.form == "flags":
            return self._flagged(row)
        column = self.columns.labels[0]
        value = row.cells[column]
        if self.columns.form == "label":
            text = row.text(column)
            return f"has an empty label in the column {brief(column)!r}" if text.lower() in EMPTY else (text,)
        parts = value.split(self.columns.delimiter) if isinstance(value, str) else value
        kept = dict.fromkeys(part.strip() for part in parts if part.strip().lower() not in EMPTY)
        none = [name for name in kept if name.lower() in NONE_OF_THEM]
        if none and len(kept) > len(none):
            beside = len(kept) - len(none)
            return f"says {brief(none[0])!r} and names {beside} labels beside it; one of the two is wrong"
        return () if none else tuple(kept)

    def _flagged(self, row: Record) -> tuple[str, ...] | str:
        shown = []
        for column in self.columns.labels:
            value = row.text(column)
            flag = self._flags.get(value.lower())
            if flag is None:
                return f"has {said(value)} in the column {brief(column)!r}; {_wanted(value)}"
            if flag:
                shown.append(column)
        return tuple(shown)


def _wanted(value: str) -> str:
    if value.startswith("-1"):
        return "0 or 1 is needed. data.options.uncertain = 0 or 1 says what -1 is"
    if value.lower() in EMPTY:
        return "0 or 1 is needed. data.options.blank = 0 or 1 says what a blank is"
    return "0 or 1 is needed. data.options.labels = 'one,other' names the columns that are labels"


def _unlike(path: Path, before: Labelled, one: Labelled) -> str:
    if before.labels != one.labels:
        lines = f"{before.where} ({_shown(before.labels)}) and {one.where} ({_shown(one.labels)})"
        return f"{brief(path.name)} has two labels, in {lines}; one row for each image is needed, with all its labels"
    if before.group != one.group:
        return f"{brief(path.name)} is in two groups, in {before.where} ({before.group}) and {one.where} ({one.group})"
    return f"{brief(path.name)} is in two parts, in {before.where} ({before.part}) and {one.where} ({one.part})"


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(map(brief, labels[:3])) + ("…" if labels[3:] else "") if labels else "none"


def _notes(found: Labelling, twice: int, empty: Sequence[str], blanks: int) -> list[str]:
    notes = []
    if twice:
        notes.append(f"{twice} rows name an image again with the same labels; it is taken once")
    if empty:
        notes.append(f"{len(empty)} images have none of the labels ({empty[0]} is the first)")
    if blanks:
        notes.append(f"{blanks} labels have blanks around them, which are taken off")
    by_letters = Counter(name.casefold() for name in found.classes)
    notes += [
        f"the labels {' and '.join(repr(brief(name)) for name in found.classes if name.casefold() == letters)} differ "
        "in capital letters only and are kept apart"
        for letters, count in by_letters.items()
        if count > 1
    ]
    return notes


def _by_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)
