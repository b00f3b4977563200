"""Find the columns of an image table: image, labels, split, group and the one that scores are divided by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from saccade.data.records import TableFile, TableRow
from saccade.data.survey import SPLIT_NAMES
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = [
    "EMPTY_VALUES", "FLAG_VALUES", "NO_LABEL_NAMES", "Columns", "UnclearError", "find_columns", "find_image_column",
    "find_second_image_column", "has_box_columns",
]  # fmt: skip

# Known column names, as _normalise returns them; earlier names take precedence.
_IMAGE_NAMES = (
    *("file", "filename", "imagefile", "filepath", "image", "imagename", "imagepath", "imageid", "imageindex"),
    *("img", "imgname", "imgpath", "path", "id", "idcode", "name", "photo", "picture"),
)
_LABEL_NAMES = (
    *("label", "labels", "class", "classes", "classname", "category", "categories", "target", "tag", "tags"),
    *("findinglabels", "diagnosis", "name"),
)
_PLURAL_NAMES = ("labels", "classes", "categories", "tags", "findinglabels")
_SPLIT_NAMES = ("split", "subset", "partition", "part", "set")
_GROUP_NAMES = (
    *("group", "groupid", "patient", "patientid", "subject", "subjectid", "lesion", "lesionid", "scene", "sceneid"),
    *("case", "caseid"),
)
_OTHER_NAMES = (
    *("age", "sex", "gender", "view", "viewposition", "width", "height", "index", "fold", "url", "source", "license"),
    *("licence", "date", "time", "notes", "comment", "followup", "labelid", "classid", "categoryid"),
)
"""Names of columns that never hold labels, whatever their values."""
_BOX_NAMES = [{"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"}, {"x", "y", "w", "h"}, {"bbox"}]
_BOX_NAMES += [{"boundingbox"}, {"x", "y", "width", "height"}, {"roix1", "roiy1", "roix2", "roiy2"}]
_BOX_NAMES += [{"bboxx", "y", "w", "h"}]  # "Bbox [x,y,w,h]" of ChestX-ray14, split at its commas
_BOX_NAMES += [{"encodedpixels"}, {"imageid", "rle"}]

_SPLIT_WORDS = {word for words in SPLIT_NAMES.values() for word in words}
_WORDS = "|".join(sorted(_SPLIT_WORDS))
_SPLIT_FLAG = re.compile(rf"(is|in)({_WORDS})(set|image)?|({_WORDS})set|training|testing|test|val|validation")
"""Names of 0/1 columns that hold a split; ``train`` may be a label."""

EMPTY_VALUES = ("", "nan", "null", "na", "n/a", "<na>")
"""Lower-case cell values that count as missing."""
NO_LABEL_NAMES = ("no finding", "no findings", "none", "nothing")
"""Lower-case labels that mean that the image has no label."""
FLAG_VALUES = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0}
FLAG_VALUES |= {f"{value}.{'0' * digits}": value for value in (0, 1) for digits in range(1, 7)}
"""Maps lower-case cell values of a 0/1 column to 0 or 1."""
_DELIMITED_NAMES = {"findinglabels": "|"}
"""Maps the name of a column of ChestX-ray14 to its separator, for tables in which no cell has two labels."""
_DELIMITERS, _PLURAL_COLUMN_DELIMITERS = ("|", ";"), (",", " ")
_SAMPLE_ROWS = 20


class UnclearError(UserError):
    """Error raised if several tables or label columns are possible, so that ``data.options`` must name one."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of an image table.

    Attributes:
        image: column of the image names.
        labels: one column of text, or several 0/1 columns.
        form: ``label``: one label per row; ``delimited``: several in one cell; ``flags``: 0/1 columns.
        delimiter: separator of the labels in a cell; empty unless ``delimited``.
        split: column of the splits, if any.
        group: column of the groups, if any.
        by: column that scores are divided by, if any.
        notes: sentences on columns chosen or left out by their values.
    """

    image: str
    labels: tuple[str, ...]
    form: Literal["label", "delimited", "flags"]
    delimiter: str = ""
    split: str | None = None
    group: str | None = None
    by: str | None = None
    notes: tuple[str, ...] = ()


def has_box_columns(header: Sequence[str]) -> bool:
    """Return True if the columns called ``header`` hold one box or one run-length mask per row."""
    names = set(map(_normalise, header))
    return any(names >= box_names for box_names in _BOX_NAMES)


def find_image_column(table: TableFile, is_image_name: Callable[[str], bool]) -> str | None:
    """Return the column whose values in the first rows name images most often; None if no value does.

    A column called ``file`` or similar takes precedence; if there is one, other columns of numbers are ignored.

    Raises:
        UserError: the table has no header; its first line names an image.
    """
    rows = list(islice(table.rows, _SAMPLE_ROWS))
    by_name = sorted(
        (name for name in table.header if _normalise(name) in _IMAGE_NAMES),
        key=lambda name: _IMAGE_NAMES.index(_normalise(name)),
    )
    others = [name for name in table.header if name not in by_name]
    by_value = [name for name in others if not (by_name and all(_is_number(row.text(name)) for row in rows))]
    for candidates in filter(None, (by_name, by_value)):
        matches = {name: sum(is_image_name(text) for row in rows if (text := row.text(name))) for name in candidates}
        best = max(matches, key=lambda name: matches[name])
        if matches[best] and is_image_name(best):
            raise UserError(
                f"{brief(table.file_name)} has no header: its first line names {brief(best)!r}. Write the names of the "
                "columns above it, such as file,label"
            )
        if matches[best]:
            return best
    return None


def find_second_image_column(
    table: TableFile, image: str, is_image_name: Callable[[str], bool]
) -> tuple[str, TableRow] | None:
    """Return another column that names images, and a row in which it names another than ``image``; or None."""
    rows = list(islice(table.rows, _SAMPLE_ROWS))
    is_known = _normalise(image) in _IMAGE_NAMES
    for name in table.header:
        if name == image or (is_known and _normalise(name) not in _IMAGE_NAMES):
            continue
        if all(_is_number(row.text(name)) for row in rows) or not all(is_image_name(row.text(name)) for row in rows):
            continue
        if row := next((row for row in rows if _image_stem(row.text(name)) != _image_stem(row.text(image))), None):
            return name, row
    return None


def _image_stem(text: str) -> str:
    """Return the name of an image without folders and extension."""
    name = text.replace("\\", "/").rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.?\d*", text) is not None


def find_columns(table: TableFile, image: str, options: Mapping[str, Any]) -> Columns:
    """Find the columns of labels, split, group and ``by``: by ``data.options``, otherwise by column names and values.

    Raises:
        UserError: an option names a missing column, or no column or several columns may be the label.
    """
    split = _find_split(table, image, options)
    two_valued = {name for name in table.header if _normalise(name) in _GROUP_NAMES and _is_binary(table.column(name))}
    group = _optional_column(table, options, "group", _GROUP_NAMES, {image, split, *two_valued})
    by = _optional_column(table, options, "by", (), ())
    unassigned = [name for name in table.header if name not in (image, split, group, by)]
    notes = [
        f"the column {brief(name)!r} of {brief(table.file_name)} holds 0 and 1 only and is not read as the group; "
        f"data.options.group = {brief(name)!r} reads it"
        for name in two_valued - {group, by}
        if group is None and options.get("group") is not False
    ]
    if "labels" in options:
        names = _named_columns(table, str(options["labels"]))
        if len(names) > 1:
            return Columns(image, names, "flags", "", split, group, by, tuple(notes))
    else:
        names, ignored = _find_labels(table, unassigned)
        if len(names) > 1:
            notes.append(_flags_note(table, names, ignored))
            return Columns(image, names, "flags", "", split, group, by, tuple(notes))
    delimiter_option = options.get("delimiter")
    delimiter = _find_delimiter(table, names[0]) if delimiter_option is None else str(delimiter_option)
    return Columns(image, names, "delimited" if delimiter else "label", delimiter, split, group, by, tuple(notes))


def _find_split(table: TableFile, image: str, options: Mapping[str, Any]) -> str | None:
    """Return the column of the split: set by the option, or found by name or values.

    Raises:
        UnclearError: several columns name splits, or a 0/1 column is called as a split.
    """
    split = _optional_column(table, options, "split", _SPLIT_NAMES, {image})
    if split is not None or options.get("split") is False:
        return split
    named_labels = [name.strip() for name in str(options.get("labels", "")).split(",")]
    assigned = {image, options.get("group"), options.get("by"), *named_labels}
    unassigned = [name for name in table.header if name not in assigned]
    names = [name for name in unassigned if len(_split_values(table.column(name))) > 1]
    if not names and (flag := next((name for name in unassigned if _is_split_flag(table, name)), None)):
        raise UnclearError(
            f"the 0/1 column {brief(flag)!r} of {brief(table.file_name)} may be the split. Write a column split with "
            "train and test; data.options.split = false ignores it"
        )
    if len(names) > 1:
        raise UnclearError(
            f"{brief(table.file_name)} has {len(names)} columns that may be the split: {_join_names(names)}. "
            f"Set data.options.split = {brief(names[0], 40)!r}"
        )
    return names[0] if names else None


def _is_split_flag(table: TableFile, name: str) -> bool:
    return _SPLIT_FLAG.fullmatch(_normalise(name)) is not None and _is_binary(table.column(name))


def _split_values(values: Sequence[str]) -> set[str]:
    """Return the names of splits in ``values``, in lower case, if at least half of the values are such names."""
    counts = Counter(value.lower() for value in values)
    names = counts.keys() & _SPLIT_WORDS
    return names if 2 * sum(counts[name] for name in names) >= len(values) else set()


def _find_labels(table: TableFile, unassigned: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of labels, and those left out for their values.

    Raises:
        UserError: the choice of columns is not unique.
    """
    unassigned = [name for name in unassigned if not _is_split_flag(table, name)]
    label = next((name for known_name in _LABEL_NAMES for name in unassigned if _normalise(name) == known_name), None)
    flags = [name for name in unassigned if _normalise(name) not in _OTHER_NAMES and _is_flags(table.column(name))]
    not_labels = (*_OTHER_NAMES, *_IMAGE_NAMES, *_GROUP_NAMES, *_SPLIT_NAMES)
    candidates = [name for name in unassigned if _normalise(name) not in not_labels]
    candidates = [name for name in candidates if not _split_values(table.column(name))]
    if label is None:
        if len(flags) > 1:
            return tuple(flags), [name for name in candidates if name not in flags]
        if len(candidates) != 1:
            raise _label_column_error(table, candidates)
        return (candidates[0],), []
    flags = [name for name in flags if name != label]
    if len(flags) > 1:
        raise UnclearError(
            f"{brief(table.file_name)} has the column {brief(label)!r} and {len(flags)} columns of 0 and 1 "
            f"({_join_names(flags)}); either may be the labels. Set data.options.labels = {brief(label, 40)!r}, or "
            "name several 0/1 columns, separated by commas"
        )
    return (label,), []


def _flags_note(table: TableFile, flags: Sequence[str], ignored: Sequence[str]) -> str:
    note = f"the labels are the {len(flags)} columns of 0 and 1 in {brief(table.file_name)}: {_join_names(flags, 20)}; "
    note += "data.options.labels = 'one,other' names others"
    if ignored:
        note += f". Not read, because their values are not 0 and 1: {_join_names(ignored)}"
    return note


def _label_column_error(table: TableFile, candidates: Sequence[str]) -> UserError:
    if not candidates:
        return UserError(
            f"{brief(table.file_name)} has no column of labels; its columns are {_join_names(table.header)}"
        )
    return UnclearError(
        f"{brief(table.file_name)} has {len(candidates)} columns that may be the label: {_join_names(candidates)}. "
        f"Set data.options.labels = {brief(candidates[0], 40)!r}, or name several 0/1 columns, separated by commas"
    )


def _named_columns(table: TableFile, text: str) -> tuple[str, ...]:
    if text in table.header:
        return (text,)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in table.header:
            raise UserError(
                f"data.options.labels: {brief(table.file_name)} has no column {brief(name)!r}."
                f"{did_you_mean(name, table.header)} There are {_join_names(table.header)}"
            )
    return names


def _optional_column(
    table: TableFile,
    options: Mapping[str, Any],
    option: str,
    known_names: Sequence[str],
    excluded: Collection[str | None],
) -> str | None:
    """Return the column that ``option`` names, None if ``option`` is false, otherwise the first of ``known_names``."""
    value = options.get(option)
    if value is False:
        return None
    if value is not None:
        if value not in table.header:
            raise UserError(
                f"data.options.{option}: {brief(table.file_name)} has no column {brief(value)!r}."
                f"{did_you_mean(str(value), table.header)} There are {_join_names(table.header)}; false means no column"
            )
        return str(value)
    matches = (name for known_name in known_names for name in table.header if _normalise(name) == known_name)
    return next((name for name in matches if name not in excluded), None)


def _is_flags(values: Sequence[str]) -> bool:
    """Return True if every value is 0, 1, -1 or blank, or at least half are 0 or 1."""
    counts = Counter(value.lower() for value in values)
    n_flags = sum(count for value, count in counts.items() if value in FLAG_VALUES)
    only_flags = all(value in FLAG_VALUES or value in (*EMPTY_VALUES, "-1", "-1.0") for value in counts)
    return n_flags > 0 and (only_flags or 2 * n_flags >= len(values))


def _is_binary(values: Sequence[str]) -> bool:
    """Return True if every value is a flag or blank, and one is a flag."""
    distinct = {value.lower() for value in values} - set(EMPTY_VALUES)
    return bool(distinct) and distinct <= FLAG_VALUES.keys()


def _find_delimiter(table: TableFile, column: str) -> str:
    """Return the separator of the labels in a cell; empty if each cell is one label.

    A comma or space counts only if the column's name is a plural and splitting leaves fewer distinct values, as in
    "cat dog", "dog", "cat".
    """
    values = {row.text(column) for row in table.rows}
    if any(not isinstance(row.cells[column], str) for row in table.rows):
        return ","  # TableRow.text joins lists by commas
    for delimiter in _DELIMITERS:
        if any(delimiter in value for value in values):
            return delimiter
    known = _DELIMITED_NAMES.get(_normalise(column), "")
    for delimiter in _PLURAL_COLUMN_DELIMITERS if _normalise(column) in _PLURAL_NAMES else ():
        if known and delimiter == " ":  # No Finding is one label
            continue
        labels = {label.strip() for value in values for label in value.split(delimiter)}
        if any(delimiter in value for value in values) and len(labels - {""}) < len(values - {""}):
            return delimiter
    return known


def _join_names(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(brief(name, 40) for name in names[:limit]) + more


def _normalise(name: str) -> str:
    """Return ``name`` in lower case with letters and digits only."""
    return re.sub(r"[\W_]", "", name.lower())
