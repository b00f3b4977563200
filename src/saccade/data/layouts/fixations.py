"""Images with a table of where people looked: a CSV with a row for each fixation.

Its columns are the image (found by its values, as in layout ``csv``), ``x`` and ``y`` in pixels of the image from its
upper left corner, and if wanted ``viewer`` (``subject``, ``observer``), ``order``, ``split`` and ``group`` (``scene``).
``duration`` is not read. Fixations are ordered by viewer and ``order``. Those outside their image are dropped and
counted; an image without one inside is refused.

Such a table names images and has columns of numbers, so this layout is asked before ``csv``. Class folders with a table
of one row for each image stay class folders, unless a recipe names this layout.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from saccade.data.columns import find_image_column, has_box_columns
from saccade.data.image_index import ImageIndex
from saccade.data.layouts._folder import FolderLayout
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.records import TableFile, TableRow, read_csv
from saccade.data.resizing import common_size
from saccade.data.rows import RowImages, quote_value, read_row_splits
from saccade.data.survey import SplitFiles, Survey, files_in, make_survey
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify

if TYPE_CHECKING:
    from saccade.data.fixations import Fixation, Fixations

__all__ = ["FixationTable"]

_X = ("x", "xpx", "xpixel", "fixationx", "fixx", "xfix", "gazex")
_Y = ("y", "ypx", "ypixel", "fixationy", "fixy", "yfix", "gazey")
_VIEWER = ("viewer", "subject", "subjectid", "observer", "participant", "viewerid")
_ORDER = ("order", "fixation", "fixationindex", "index", "n")


class _Table(NamedTuple):
    """A table of fixations and its columns; None where there is no such column."""

    records: TableFile
    images: ImageIndex
    image: str
    x: str
    y: str
    viewer: str | None
    order: str | None
    split: str | None
    group: str | None


@dataclass(frozen=True)
class _FixationSurvey(Survey):
    """A survey with the fixations of each image, and how many viewers there are."""

    points: dict[Path, list[Fixation]] = field(default_factory=dict)
    viewers: int = 0


@final
class FixationTable(FolderLayout):
    """Images and a CSV with a row for each fixation."""

    name = "fixations"
    rank = 44
    targets = ("fixations",)
    exact = True

    def own_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """The images' own size where they have one, square or not: no fixation is cut off."""
        return common_size(sizes)

    def reason(self, root: Path) -> str | None:
        """Look for a table with an image, x and y in its columns."""
        return found if isinstance(found := _found(root), str) else None

    def mistaken(self, root: Path) -> str | None:
        """Class folders are read as such where a table has one point for each image."""
        table = _found(root)
        if isinstance(table, str) or ClassFolders().reason(root) is not None:
            return None
        if max(Counter(table.records.column(table.image)).values(), default=0) > 1:
            return None
        return (
            f"it has class folders, and {brief(table.records.file_name)} has one row for each image; data.layout = "
            "fixations reads the table"
        )

    def survey(self, root: Path) -> Survey:
        """The images that the rows name."""
        table = _found(root)
        if isinstance(table, str):
            raise UserError(table)
        records, near = table.records, table.records.path.parent
        images, problems, strange = RowImages(table.images), list(records.problems), list[str]()
        words = read_row_splits(records, table.split, problems)
        rows = defaultdict[Path, list[tuple[TableRow, float, float]]](list)
        for row in records.rows:
            where = records.location(row)
            x, y = (_number(row.text(column)) for column in (table.x, table.y))
            if x is None or y is None:
                column = table.x if x is None else table.y
                strange.append(
                    f"{where} has {quote_value(row.text(column))} in the column {column!r}; a number is needed"
                )
            path = images.find(row, table.image, near, where)
            if path is not None and x is not None and y is not None:
                rows[path].append((row, x, y))
        problems += [*strange, *images.problems, *_in_units(rows, table)]
        viewers = sorted({row.text(table.viewer) for row in records.rows}) if table.viewer else []
        points = {path: _ordered(of, table, viewers) for path, of in rows.items()}
        parts, groups = _parts(rows, table, words, problems)
        if "train" not in parts:
            raise UserError("; ".join(problems[:3]) or "no row names an image to train on")
        beside = len(set(table.images.files) - rows.keys())
        notes = [f"{beside} images have no fixation and are not used"] * (beside > 0)
        seen = make_survey(root, parts, None, table.images.hidden, notes)
        more = replace(
            seen, problems=sorted([*seen.problems, *problems]), definition_files=[records.path], missing=images.missing,
            groups=groups,
        )  # fmt: skip
        return _FixationSurvey(**vars(more), points=points, viewers=len(viewers))

    def label(self, seen: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Fixations:
        """The fixations of each image."""
        from saccade.data.fixations import Fixations

        assert isinstance(seen, _FixationSurvey)
        return Fixations(seen.points, sizes, seen.viewers)


def _found(root: Path) -> _Table | str:
    """The table of fixations, or a clause that says what is missing."""
    why, indices = "it has no .csv with the columns image, x and y", list[ImageIndex]()
    for name, path in files_in(root, (".csv", ".tsv")).items():
        try:
            records = read_csv(path, name)
        except UserError:  # csv says what is wrong with it
            continue
        columns = {re.sub(r"[\W_]", "", column.lower()): column for column in records.header}
        x, y, viewer, order, split, group = (
            next((columns[word] for word in words if word in columns), None)
            for words in (_X, _Y, _VIEWER, _ORDER, ("split",), ("group", "scene"))
        )
        if x is None or y is None or has_box_columns(records.header):
            continue
        indices = indices or [ImageIndex(root)]
        image = find_image_column(records, partial(indices[0].has_image, folder=root))
        if image is None:
            why = f"no column of {brief(name)} names an image of the folder"
            continue
        return _Table(records, indices[0], image, x, y, viewer, order, split, group)
    return why


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ordered(rows: list[tuple[TableRow, float, float]], table: _Table, viewers: list[str]) -> list[Fixation]:
    """The fixations of an image by viewer and order, as far as columns say them."""
    from saccade.data.fixations import Fixation

    numbers = {name: number for number, name in enumerate(viewers)}
    found = []
    for row, x, y in rows:
        viewer = numbers[row.text(table.viewer)] if table.viewer else -1
        order = _number(row.text(table.order)) if table.order else None
        found.append(
            (viewer, math.inf if order is None else order, Fixation(x, y, viewer, table.records.location(row)))
        )
    return [point for *_, point in sorted(found, key=lambda one: one[:2])]


def _in_units(rows: dict[Path, list[tuple[TableRow, float, float]]], table: _Table) -> list[str]:
    """A sentence where all points lie in the unit square, as shares of width and height do."""
    values = [value for of in rows.values() for _, x, y in of for value in (x, y)]
    if not values or not all(0 <= value <= 1 for value in values):
        return []
    return [
        f"all {len(values) // 2} fixations of {brief(table.records.file_name)} lie between 0 and 1; pixels are needed: "
        f"multiply {table.x!r} by the width of the image and {table.y!r} by its height"
    ]


def _parts(
    rows: dict[Path, list[tuple[TableRow, float, float]]],
    table: _Table,
    words: dict[int, tuple[str, str]],
    problems: list[str],
) -> tuple[dict[str, SplitFiles], dict[Path, str]]:
    """Role to part, and the group of each image; adds to ``problems`` the images whose rows differ."""
    files, names, groups = defaultdict[str, list[Path]](list), dict[str, str](), dict[Path, str]()
    for path, of in rows.items():
        said_of = {words[row.line] for row, *_ in of if row.line in words} or {("train", "")}
        if len(said_of) > 1:
            problems.append(f"{brief(path.name)} is in the parts {' and '.join(sorted(word for _, word in said_of))}")
        role, word = min(said_of)
        files[role].append(path)
        names.setdefault(role, word)
        if table.group:
            found = {row.text(table.group) for row, *_ in of}
            if len(found) > 1 or "" in found:
                problems.append(f"{brief(path.name)} has {len(found)} groups or none; one is needed")
            groups[path] = min(found)
    if "val" in files and "test" not in files:
        files["test"], names["test"] = files.pop("val"), names["val"]
    return {
        role: SplitFiles(names[role], {"": sorted(files[role])}) for role in ("train", "test", "val") if role in files
    }, (groups)
