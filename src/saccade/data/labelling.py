"""Read the labels in image tables; find and check the image, split and group of each row."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from saccade.data.columns import EMPTY_VALUES, FLAG_VALUES, NO_LABEL_NAMES, Columns
from saccade.data.groups import group_key
from saccade.data.image_index import ImageIndex
from saccade.data.label_names import near_name_notes, separator_notes, separator_problems
from saccade.data.records import TableFile, TableRow
from saccade.data.rows import RowImages, quote_value, read_row_splits
from saccade.data.split_lists import SplitLists
from saccade.escaping import brief

__all__ = ["ImageTable", "LabelledImage", "TableLabels", "read_table_labels"]

_NO_LABEL_OR_DEVICE = (*NO_LABEL_NAMES, "support devices")
"""Lower-case 0/1 columns that may be 1 beside ``No Finding``, as in CheXpert."""


class ImageTable(NamedTuple):
    """Table of labelled images.

    Attributes:
        split: ``train``, ``test`` or ``val`` of rows without a split column.
        split_name: its name in the source, if any, for messages.
        records: file of the table, with its rows.
        columns: names of the columns.
        folder: folder in which images are looked up first.
        lists: lists of the images of each split, or None.
    """

    split: str
    split_name: str
    records: TableFile
    columns: Columns
    folder: Path
    lists: SplitLists | None = None


@dataclass(frozen=True)
class LabelledImage:
    """Labels, split and group of one image.

    Attributes:
        labels: label names, in the order of the row.
        split: ``train``, ``test`` or ``val``.
        split_name: name of ``split`` in the source; empty if there are no splits.
        group: group of the image; empty if the table has no groups.
        where: line of the table, for messages.
        by: value of the column that scores are divided by; empty without one.
    """

    labels: tuple[str, ...]
    split: str
    split_name: str
    group: str
    where: str
    by: str = ""


@dataclass
class TableLabels:
    """Labels read from tables.

    Attributes:
        images: Maps image path to labels, split and group.
        classes: all label names: in the order of the 0/1 columns, otherwise sorted, with numbers by value.
        missing: Maps a missing image path to a message.
        problems: sentences on rows that cannot be used.
        notes: sentences on corrections.
    """

    images: dict[Path, LabelledImage] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    missing: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table_labels(tables: Sequence[ImageTable], index: ImageIndex, options: Mapping[str, Any]) -> TableLabels:
    """Read the labels of every row of ``tables``; faulty rows are reported in the result.

    Args:
        tables: tables with their columns.
        index: images of the folder.
        options: ``data.options`` of the recipe.
    """
    result, n_repeated, n_trimmed = TableLabels(), 0, 0
    unlabelled_rows, blank_rows, images = list[str](), list[str](), RowImages(index)
    label_names, text_names, group_names = dict[str, None](), dict[str, None](), dict[str, str]()
    for split, split_name, records, columns, folder, lists in tables:
        result.problems += records.problems
        reader = _LabelReader(columns, options)
        row_splits = read_row_splits(records, columns.split, result.problems)
        if lists is not None:
            row_splits = lists.row_splits(records, columns.image, result.problems, result.notes)
        for row in records.rows:
            where = records.location(row)
            group = row.text(columns.group) if columns.group else ""
            group = group_names.setdefault(group_key(group), group)
            labels = reader.read(row)
            path = images.find(row, columns.image, folder, where)
            if columns.group and group.lower() in EMPTY_VALUES:
                result.problems.append(f"{where} has no {brief(columns.group)!r}; every image needs one")
            if isinstance(labels, str):
                result.problems.append(f"{where} {labels}")
                continue
            if path is None or ((columns.split or lists) and row.line not in row_splits):
                continue
            n_trimmed += columns.form != "flags" and columns.labels[0] in row.trimmed
            label_names |= dict.fromkeys(labels)
            cell = row.cells[columns.labels[0]]
            if columns.form != "flags" and isinstance(cell, str):
                text_names |= dict.fromkeys(labels)
            by = _read_by(row, columns)
            image = LabelledImage(labels, *row_splits.get(row.line, (split, split_name)), group, where, by)
            earlier = result.images.setdefault(path, image)
            if earlier is image:
                unlabelled_rows += [where] * (not labels)
                blank_rows += [where] * (columns.form == "delimited" and str(cell).lower() in EMPTY_VALUES)
            elif replace(image, where=earlier.where) == earlier:
                n_repeated += 1
            else:
                result.problems.append(_conflict_message(path, earlier, image, columns))
    result.missing, result.problems = images.missing, [*result.problems, *images.problems]
    flag_columns = [label for table in tables for label in table.columns.labels if table.columns.form == "flags"]
    result.classes = list(dict.fromkeys(flag_columns)) or sorted(label_names, key=_numeric_key)
    result.notes += _notes(result, n_repeated, unlabelled_rows, n_trimmed)
    if blank_rows:
        result.notes.append(
            f"{len(blank_rows)} of them have a blank in the column of labels ({blank_rows[0]} is the first), which is "
            "read as no label; data.options.labels names another column"
        )
    if "delimiter" not in options:
        result.problems += separator_problems(text_names)
        are_several = any(table.columns.form == "delimited" for table in tables)
        result.notes += separator_notes(text_names, are_several)
    return result


class _LabelReader:
    def __init__(self, columns: Columns, options: Mapping[str, Any]) -> None:
        self.columns = columns
        self._flags = dict(FLAG_VALUES)
        if (uncertain := options.get("uncertain")) is not None:
            self._flags |= dict.fromkeys(("-1", "-1.0"), int(uncertain))
        if (blank := options.get("blank")) is not None:
            self._flags |= dict.fromkeys(EMPTY_VALUES, int(blank))

    def read(self, row: TableRow) -> tuple[str, ...] | str:
        """Return the labels of ``row``, or an error message that is a predicate of the row."""
        if self.columns.form == "flags":
            return self._read_flags(row)
        column = self.columns.labels[0]
        value = row.cells[column]
        if self.columns.form == "label":
            text = unicodedata.normalize("NFC", row.text(column))
            is_empty = text.lower() in EMPTY_VALUES
            return f"has an empty label in the column {brief(column)!r}" if is_empty else (text,)
        names = value.split(self.columns.delimiter) if isinstance(value, str) else value
        names = [unicodedata.normalize("NFC", name.strip()) for name in names]
        labels = dict.fromkeys(name for name in names if name.lower() not in EMPTY_VALUES)
        no_label_names = [name for name in labels if name.lower() in NO_LABEL_NAMES]
        if no_label_names and len(labels) > len(no_label_names):
            n_others = len(labels) - len(no_label_names)
            return f"has {brief(no_label_names[0])!r} together with {n_others} labels; remove one or the other"
        return () if no_label_names else tuple(labels)

    def _read_flags(self, row: TableRow) -> tuple[str, ...] | str:
        labels = []
        for column in self.columns.labels:
            value = row.text(column)
            flag = self._flags.get(value.lower())
            if flag is None:
                return f"has {quote_value(value)} in the column {brief(column)!r}; {_flag_advice(value)}"
            if flag:
                labels.append(column)
        names = {label: label.replace("_", " ").lower() for label in labels}
        no_labels = [label for label, name in names.items() if name in NO_LABEL_NAMES]
        others = [label for label, name in names.items() if name not in _NO_LABEL_OR_DEVICE]
        if no_labels and others:
            return f"has 1 in the column {brief(no_labels[0])!r} and in {brief(others[0])!r}; remove one or the other"
        return tuple(labels)


def _flag_advice(value: str) -> str:
    if value.startswith("-1"):
        return "0 or 1 is needed. Set data.options.uncertain to 0 or 1 to define -1"
    if value.lower() in EMPTY_VALUES:
        return "0 or 1 is needed. Set data.options.blank to 0 or 1 to define a blank"
    return "0 or 1 is needed. Set data.options.labels = 'one,other' to name the columns of labels"


def _read_by(row: TableRow, columns: Columns) -> str:
    text = row.text(columns.by) if columns.by else ""
    return "" if text.lower() in EMPTY_VALUES else text


def _conflict_message(path: Path, earlier: LabelledImage, later: LabelledImage, columns: Columns) -> str:
    name = brief(path.name)
    if earlier.labels != later.labels:
        lines = f"{earlier.where} ({_join_labels(earlier.labels)}) and {later.where} ({_join_labels(later.labels)})"
        return f"{name} has two labels, in {lines}; one row for each image is needed, with all its labels"
    if earlier.group != later.group:
        return f"{name} is in two groups, in {earlier.where} ({earlier.group}) and {later.where} ({later.group})"
    if earlier.split == later.split:
        values = f"{earlier.where} ({quote_value(earlier.by)}) and {later.where} ({quote_value(later.by)})"
        return f"{name} has two values of {brief(columns.by)!r}, in {values}"
    lines = f"{earlier.where} ({earlier.split_name}) and {later.where} ({later.split_name})"
    return f"{name} is in two splits, in {lines}"


def _join_labels(labels: Sequence[str]) -> str:
    return ", ".join(map(brief, labels[:3])) + ("…" if labels[3:] else "") if labels else "none"


def _notes(result: TableLabels, n_repeated: int, unlabelled_rows: Sequence[str], n_trimmed: int) -> list[str]:
    notes = []
    if n_repeated:
        notes.append(f"{n_repeated} rows name an image again with the same labels; each image is used once")
    if unlabelled_rows:
        notes.append(f"{len(unlabelled_rows)} images have none of the labels ({unlabelled_rows[0]} is the first)")
    if n_trimmed:
        notes.append(f"{n_trimmed} labels have spaces around them, which are removed")
    notes += near_name_notes(result.classes)
    return notes


def _numeric_key(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)
