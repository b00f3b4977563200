"""What the columns of a table of images are: which names the image, which its labels, its part and its group."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from saccade.data.records import Records
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["EMPTY", "FLAGS", "NONE_OF_THEM", "Columns", "UnclearError", "columns_of", "image_column", "is_boxes"]

_IMAGE = (
    *("file", "filename", "imagefile", "filepath", "image", "imagename", "imagepath", "imageid", "imageindex"),
    *("img", "imgname", "imgpath", "path", "id", "idcode", "name", "photo", "picture"),
)
_LABEL = (
    *("label", "labels", "class", "classes", "classname", "category", "categories", "target", "tag", "tags"),
    *("findinglabels", "diagnosis", "name"),
)
_PLURAL = ("labels", "classes", "categories", "tags", "findinglabels")
_SPLIT = ("split", "subset", "partition", "part", "set")
_GROUP = (
    *("group", "groupid", "patient", "patientid", "subject", "subjectid", "lesion", "lesionid", "scene", "sceneid"),
)
_BESIDE = (
    *("age", "sex", "gender", "view", "viewposition", "width", "height", "index", "fold", "url", "source", "license"),
    *("licence", "date", "time", "notes", "comment", "followup", "labelid", "classid", "categoryid"),
)
"""Names of columns that hold no label, whatever their values; letters and digits alone, in small letters."""
_BOXES = [{"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"}, {"x", "y", "w", "h"}, {"bbox"}, {"boundingbox"}]
_BOXES += ({"x", "y", "width", "height"}, {"roix1", "roiy1", "roix2", "roiy2"}, {"encodedpixels"}, {"imageid", "rle"})

EMPTY = ("", "nan", "null")
"""Values, in small letters, that say nothing."""
NONE_OF_THEM = ("no finding", "no findings", "none", "nothing")
"""Labels, in small letters, that say that an image has no label."""
FLAGS = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}
"""What a 0/1 column holds, in small letters."""
_DELIMITERS, _OF_PLURALS = "|;", ", "
_SAMPLE = 20


class UnclearError(UserError):
    """A table of images that ``data.options`` must say more of."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Attributes:
        image: names the image.
        labels: one column of text, or several of 0/1.
        form: ``label``, one a row; ``delimited``, several in one cell; ``flags``, 0/1 columns.
        delimiter: between the labels of a cell.
        split: says the part; None where there is no such column.
        group: says the group.
    """

    image: str
    labels: tuple[str, ...]
    form: Literal["label", "delimited", "flags"]
    delimiter: str = ""
    split: str | None = None
    group: str | None = None


def is_boxes(header: Sequence[str]) -> bool:
    """Whether the columns are those of boxes or of run-length masks, one a row."""
    names = set(map(_plain, header))
    return any(names >= wanted for wanted in _BOXES)


def image_column(table: Records, names_an_image: Callable[[str], bool]) -> str | None:
    """The column that names images of the folder in most of the first rows; None where no column does.

    A column with a name such as ``file`` comes before others. Beside one, numbers are no names: "3" may be an age.

    Raises:
        UserError: the first line names one, so that it is no header.
    """
    rows = list(islice(table.rows, _SAMPLE))
    known = sorted(
        (name for name in table.header if _plain(name) in _IMAGE), key=lambda name: _IMAGE.index(_plain(name))
    )
    others = [name for name in table.header if name not in known]
    words = [name for name in others if not (known and all(_is_number(row.text(name)) for row in rows))]
    for names in filter(None, (known, words)):
        hits = {name: sum(names_an_image(text) for row in rows if (text := row.text(name))) for name in names}
        best = max(hits, key=lambda name: hits[name])
        if hits[best] and names_an_image(best):
            raise UserError(
                f"{brief(table.owner)} has no header: its first line names {brief(best)!r}. Write the names of the "
                "columns above it, such as file,label"
            )
        if hits[best]:
            return best
    return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.?\d*", text) is not None


def columns_of(table: Records, image: str, options: Mapping[str, Any]) -> Columns:
    """What the columns are, by ``data.options`` where they say it, else by name and content.

    Raises:
        UserError: an option names no column, or nothing says which columns are the labels.
    """
    split = _chosen(table, options, "split", _SPLIT, {image})
    group = _chosen(table, options, "group", _GROUP, {image, split})
    free = [name for name in table.header if name not in (image, split, group)]
    delimiter = options.get("delimiter")
    if "labels" in options:
        names = _named(table, str(options["labels"]))
        if len(names) > 1:
            return Columns(image, names, "flags", "", split, group)
    else:
        label = next((name for word in _LABEL for name in free if _plain(name) == word), None)
        flags = [name for name in free if _plain(name) not in _BESIDE and _is_flags(table.column(name))]
        rest = [name for name in free if _plain(name) not in (*_BESIDE, *_IMAGE, *_GROUP, *_SPLIT)]
        if label is None and len(flags) > 1:
            return Columns(image, tuple(flags), "flags", "", split, group)
        if label is None and len(rest) != 1:
            raise _which(table, rest)
        names = (label or rest[0],)
    found = _delimiter(table, names[0]) if delimiter is None else str(delimiter)
    return Columns(image, names, "delimited" if found else "label", found, split, group)


def _which(table: Records, rest: Sequence[str]) -> UserError:
    if not rest:
        return UserError(f"{brief(table.owner)} has no column of labels; its columns are {_listed(table.header)}")
    return UnclearError(
        f"{brief(table.owner)} has {len(rest)} columns that may be the label: {_listed(rest)}. Say which: "
        f"data.options.labels = {brief(rest[0], 40)!r}, or several of 0/1, separated by commas"
    )


def _named(table: Records, text: str) -> tuple[str, ...]:
    """The columns that an option names: one, or several separated by commas."""
    if text in table.header:
        return (text,)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in table.header:
            raise UserError(
                f"data.options.labels: {brief(table.owner)} has no column {brief(name)!r}."
                f"{did_you_mean(name, table.header)} There are {_listed(table.header)}"
            )
    return names


def _chosen(
    table: Records, options: Mapping[str, Any], what: str, words: Sequence[str], taken: Collection[str | None]
) -> str | None:
    """The column of the part or of the group: the one that an option names, none where it is false, else by name."""
    asked = options.get(what)
    if asked is False:
        return None
    if asked is not None:
        if asked not in table.header:
            raise UserError(
                f"data.options.{what}: {brief(table.owner)} has no column {brief(asked)!r}."
                f"{did_you_mean(str(asked), table.header)} There are {_listed(table.header)}; false takes none"
            )
        return str(asked)
    return next((name for word in words for name in table.header if _plain(name) == word and name not in taken), None)


def _is_flags(values: Sequence[str]) -> bool:
    """Whether a column is meant as 0/1: its values are 0, 1, -1 and blank, or at least half of them 0 and 1.

    A column that is meant so and holds something else is refused later, by its line.
    """
    found = Counter(value.lower() for value in values)
    proper = sum(count for value, count in found.items() if value in FLAGS)
    whole = all(value in FLAGS or value in (*EMPTY, "-1", "-1.0") for value in found)
    return proper > 0 and (whole or 2 * proper >= len(values))


def _delimiter(table: Records, column: str) -> str:
    """What separates the labels of a cell; empty where each cell is one label.

    | and ; always do. A comma or a blank does where the column's name is a plural and fewer words make more cells, as
    in "cat dog", "dog", "cat": a label may hold either.
    """
    values = {row.text(column) for row in table.rows}
    if any(not isinstance(row.cells[column], str) for row in table.rows):
        return ","
    for mark in _DELIMITERS:
        if any(mark in value for value in values):
            return mark
    for mark in _OF_PLURALS if _plain(column) in _PLURAL else "":
        parts = {part.strip() for value in values for part in value.split(mark)}
        if any(mark in value for value in values) and len(parts - {""}) < len(values - {""}):
            return mark
    return ""


def _listed(names: Sequence[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(brief(name, 40) for name in names[:shown]) + more


def _plain(name: str) -> str:
    """Letters and digits alone, small."""
    return re.sub(r"[\W_]", "", name.lower())
