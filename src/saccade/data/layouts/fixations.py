"""Images with a table of eye fixations: a CSV with one row per fixation.

Its columns are the image (found by its values, as in layout ``csv``), ``x`` and ``y`` in pixels from the upper left
corner of the image, and optionally ``viewer`` (``subject``, ``observer``), ``order``, ``split`` and ``group``
(``scene``, ``patient``, …). ``duration`` is not read. Fixations are sorted by viewer and ``order``. Fixations outside
their image are dropped and counted; an image without a fixation inside it is refused.

Layout ``csv`` would accept such a table, so this one is tried first. Class folders with a table of one row per image
are read as class folders, unless the recipe names this layout.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, final

from saccade.data.columns import EMPTY_VALUES, find_image_column, has_box_columns
from saccade.data.groups import group_key
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

__all__ = ["FixationLayout"]

_X = ("x", "xpx", "xpixel", "fixationx", "fixx", "xfix", "gazex")
_Y = ("y", "ypx", "ypixel", "fixationy", "fixy", "yfix", "gazey")
_VIEWER = ("viewer", "subject", "subjectid", "observer", "participant", "viewerid")
_GROUP = ("group", "groupid", "patient", "patientid", "lesion", "lesionid", "scene", "sceneid", "case", "caseid")
_ORDER = ("order", "fixation", "fixationindex", "index", "n")


class _FixationTable(NamedTuple):
    """Table of fixations and the names of its columns; an optional column is None if absent."""

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
    """Survey with the fixations of each image and the number of viewers."""

    fixations: dict[Path, list[Fixation]] = field(default_factory=dict)
    n_viewers: int = 0


@final
class FixationLayout(FolderLayout):
    """Images and a CSV with one row per fixation."""

    name = "fixations"
    rank = 44
    targets = ("fixations",)
    task_recipes = MappingProxyType({"auto": "fixations", "saliency": "fixations"})
    full_resolution = True

    def default_size(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
        """Return the common (H, W) of the images, square or not, so that no fixation is cropped."""
        return common_size(sizes)

    def check_folder(self, root: Path) -> str | None:
        """Return None if there is a table with the columns image, x and y, else the reason."""
        return table if isinstance(table := _find_table(root), str) else None

    def check_auto_choice(self, root: Path) -> str | None:
        """Decline class folders whose table has one row per image."""
        table = _find_table(root)
        if isinstance(table, str) or ClassFolders().check_folder(root) is not None:
            return None
        if max(Counter(table.records.column(table.image)).values(), default=0) > 1:
            return None
        return (
            f"it has class folders, and {brief(table.records.file_name)} has one row per image; set data.layout = "
            "fixations to read the table"
        )

    def survey(self, root: Path) -> Survey:
        """Return the images that the rows name; raise UserError without training images."""
        table = _find_table(root)
        if isinstance(table, str):
            raise UserError(table)
        records, folder = table.records, table.records.path.parent
        images, problems, bad_coordinates = RowImages(table.images), list(records.problems), list[str]()
        split_of_line = read_row_splits(records, table.split, problems)
        rows = defaultdict[Path, list[tuple[TableRow, float, float]]](list)
        for row in records.rows:
            location = records.location(row)
            x, y = (_parse_number(row.text(column)) for column in (table.x, table.y))
            if x is None or y is None:
                column = table.x if x is None else table.y
                bad_coordinates.append(
                    f"{location} has {quote_value(row.text(column))} in the column {column!r}; a number is needed"
                )
            path = images.find(row, table.image, folder, location)
            if path is not None and x is not None and y is not None:
                rows[path].append((row, x, y))
        problems += [*bad_coordinates, *images.problems, *_normalised_problem(rows, table)]
        viewers = sorted({_viewer(row, table) for row in records.rows} - {""})
        fixations = {path: _sorted_fixations(fixation_rows, table, viewers) for path, fixation_rows in rows.items()}
        splits, groups = _split_images(rows, table, split_of_line, problems)
        if "train" not in splits:
            raise UserError("; ".join(problems[:3]) or "no row names an image to train on")
        n_without = len(set(table.images.files) - rows.keys())
        notes = [f"{n_without} images have no fixation and are not used"] * (n_without > 0)
        survey = make_survey(root, splits, None, table.images.hidden, notes)
        completed = replace(
            survey, problems=sorted([*survey.problems, *problems]), definition_files=[records.path],
            missing=images.missing, groups=groups,
        )  # fmt: skip
        return _FixationSurvey(**vars(completed), fixations=fixations, n_viewers=len(viewers))

    def load_targets(self, survey: Survey, sizes: dict[Path, tuple[int, int]], notify: Notify | None) -> Fixations:
        """Return the fixations of each image."""
        from saccade.data.fixations import Fixations

        assert isinstance(survey, _FixationSurvey)
        return Fixations(survey.fixations, sizes, survey.n_viewers)


def _find_table(root: Path) -> _FixationTable | str:
    """Return the table of fixations, or a clause that says why it cannot be found."""
    reason = "it has no .csv with the columns image, x and y"
    index: ImageIndex | None = None
    for name, path in files_in(root, (".csv", ".tsv")).items():
        try:
            records = read_csv(path, name)
        except UserError:  # layout ``csv`` reports the error
            continue
        columns = {re.sub(r"[\W_]", "", column.lower()): column for column in records.header}
        x, y, viewer, order, split, group = (
            next((columns[word] for word in candidates if word in columns), None)
            for candidates in (_X, _Y, _VIEWER, _ORDER, ("split",), _GROUP)
        )
        if x is None or y is None or has_box_columns(records.header):
            continue
        index = index or ImageIndex(root)
        image = find_image_column(records, partial(index.has_image, folder=root))
        if image is None:
            reason = f"no column of {brief(name)} names an image of the folder"
            continue
        return _FixationTable(records, index, image, x, y, viewer, order, split, group)
    return reason


def _parse_number(text: str) -> float | None:
    """Return a finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _viewer(row: TableRow, table: _FixationTable) -> str:
    """Return the name of the viewer, "" if it is unknown."""
    name = row.text(table.viewer) if table.viewer else ""
    return "" if name.lower() in EMPTY_VALUES else group_key(name)


def _sorted_fixations(
    rows: list[tuple[TableRow, float, float]], table: _FixationTable, viewers: list[str]
) -> list[Fixation]:
    """Return the fixations of one image, sorted by viewer and order if those columns exist."""
    from saccade.data.fixations import Fixation

    index_of = {name: i for i, name in enumerate(viewers)}
    sortable = []
    for row, x, y in rows:
        viewer = index_of.get(_viewer(row, table), -1)
        order = _parse_number(row.text(table.order)) if table.order else None
        sortable.append(
            (viewer, math.inf if order is None else order, Fixation(x, y, viewer, table.records.location(row)))
        )
    return [fixation for *_, fixation in sorted(sortable, key=lambda item: item[:2])]


def _normalised_problem(rows: dict[Path, list[tuple[TableRow, float, float]]], table: _FixationTable) -> list[str]:
    """Return a message if most points lie between 0 and 1 and so are probably fractions, not pixels."""
    points = [(x, y) for image_rows in rows.values() for _, x, y in image_rows]
    n_fractions = sum(0 <= x <= 1 and 0 <= y <= 1 for x, y in points)
    if 2 * n_fractions <= len(points):
        return []
    return [
        f"{n_fractions} of {len(points)} fixations of {brief(table.records.file_name)} lie between 0 and 1; pixels are "
        f"needed: multiply {table.x!r} by the width of the image and {table.y!r} by its height"
    ]


def _split_images(
    rows: dict[Path, list[tuple[TableRow, float, float]]],
    table: _FixationTable,
    split_of_line: dict[int, tuple[str, str]],
    problems: list[str],
) -> tuple[dict[str, SplitFiles], dict[Path, str]]:
    """Return the files of each split, and the group of each image.

    ``problems`` gets a message for each image whose rows differ in them.
    """
    files, names, groups = defaultdict[str, list[Path]](list), dict[str, str](), dict[Path, str]()
    for path, image_rows in rows.items():
        splits = {split_of_line[row.line] for row, *_ in image_rows if row.line in split_of_line} or {("train", "")}
        if len(splits) > 1:
            problems.append(f"{brief(path.name)} is in the splits {' and '.join(sorted(name for _, name in splits))}")
        split, split_name = min(splits)
        files[split].append(path)
        names.setdefault(split, split_name)
        if table.group:
            image_groups = {row.text(table.group) for row, *_ in image_rows}
            if len(image_groups) > 1 or "" in image_groups:
                found = "rows without a group" if "" in image_groups else f"{len(image_groups)} groups"
                problems.append(f"{brief(path.name)} has {found} in the column {table.group!r}; one group is needed")
            groups[path] = min(image_groups)
    if "val" in files and "test" not in files:
        files["test"], names["test"] = files.pop("val"), names["val"]
    return {
        split: SplitFiles(names[split], {"": sorted(files[split])})
        for split in ("train", "test", "val")
        if split in files
    }, groups
