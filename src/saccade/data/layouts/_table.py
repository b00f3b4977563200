"""Base class of the layouts in which table rows give image, labels, split and group."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

from saccade.data.columns import UnclearError
from saccade.data.groups import folder_groups, group_name_notes
from saccade.data.image_index import ImageIndex
from saccade.data.labelling import ImageTable, LabelledImage, TableLabels, read_table_labels
from saccade.data.labels import ClassLabels, TargetSource
from saccade.data.layouts._folder import FolderLayout
from saccade.data.survey import SPLIT_NAMES, SplitFiles, Survey, make_survey
from saccade.data.vectors import LabelVectors
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import Notify
from saccade.recipe import Data

__all__ = ["FolderTables", "TableLayout"]

_MAX_VALUES = 20
"""Largest number of values that are scored one by one; each adds a column to the report."""
_MAX_FOLDERS = 3
"""Number of folders that a sentence names."""
_SPLIT_FOLDER = re.compile(
    r"(?:(?:images?|imgs?)[ _-]?)?(" + "|".join(word for words in SPLIT_NAMES.values() for word in words) + ")"
    r"(?:[ _-]?(?:images?|imgs?|set|data))?",
    re.IGNORECASE,
)
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class FolderTables(NamedTuple):
    """Tables of a folder.

    Attributes:
        tables: tables that hold labels.
        images: index of the images in the folder.
        notes: sentences on tables that are not read.
        unused: sentences on splits that are not used.
    """

    tables: list[ImageTable]
    images: ImageIndex
    notes: list[str]
    unused: list[str]


@dataclass(frozen=True)
class _TableSurvey(Survey):
    """Survey with the labels of the rows.

    Attributes:
        labels: names of all labels, in column order.
        labels_of: maps an image to its labels; None if single-label, so that labels are classes.
    """

    labels: tuple[str, ...] = ()
    labels_of: dict[Path, tuple[str, ...]] | None = None


class TableLayout(FolderLayout):
    """Layout in which a table names images and their labels."""

    targets = ("label", "vector")
    options: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "image": "column that names images",
            "labels": "column of labels, or names of the 0/1 columns, separated by commas",
            "split": "column of the split; false for none",
            "group": "column of the group (patient, scene); false for none",
            "by": "column whose values (such as views) are also scored one by one",
            "delimiter": "text between the labels of a cell; empty if each cell is one label",
            "uncertain": "value (0 or 1) for -1 in a 0/1 column",
            "blank": "value (0 or 1) for an empty cell in a 0/1 column",
        }
    )

    @abstractmethod
    def find_tables(self, root: Path, options: Mapping[str, Any]) -> FolderTables:
        """Return the tables of a folder, with the columns set in ``data.options``.

        Raises:
            UserError: there is no readable table; the message is a clause with the reason.
        """

    @final
    def list_targets(self, spec: Data) -> tuple[str, ...]:
        """Return ``label`` if every image has one label, else ``vector``."""
        survey = self._survey(spec)
        return ("vector",) if isinstance(survey, _TableSurvey) and survey.labels_of is not None else ("label",)

    @final
    def check_folder(self, root: Path) -> str | None:
        """Return None if the rows of a table name images of the folder, else the reason."""
        try:
            self.find_tables(root, _NO_OPTIONS)
        except UnclearError:  # ``survey_with_options`` reports what is missing
            return None
        except UserError as error:
            return str(error)
        return None

    @final
    def survey(self, root: Path) -> Survey:
        return self.survey_with_options(root, _NO_OPTIONS)

    @final
    def survey_with_options(self, root: Path, options: Mapping[str, Any]) -> Survey:
        _check_binary_options(options)
        folder_tables = self.find_tables(root, options)
        labelling = read_table_labels(folder_tables.tables, folder_tables.images, options)
        notes, problems = [*folder_tables.notes, *labelling.notes], list(labelling.problems)
        if not labelling.classes and not problems:
            problems.append("no row has a label")
        are_binary = [table.columns.form == "flags" for table in folder_tables.tables]
        is_single_label = all(len(row.labels) == 1 for row in labelling.images.values())
        labels_of = None
        if any(table.columns.form == "delimited" for table in folder_tables.tables) or (
            any(are_binary) and not is_single_label
        ):
            labels_of = {path: row.labels for path, row in labelling.images.items()}
        elif all(are_binary):
            notes.append(f"each image has exactly one of {len(labelling.classes)} labels; they are read as classes")
        notes += [sentence for table in folder_tables.tables if (sentence := _delimiter_note(table))]
        notes += dict.fromkeys(sentence for table in folder_tables.tables for sentence in table.columns.notes)
        groups = {path: row.group for path, row in labelling.images.items() if row.group}
        problems += _group_problems(folder_tables.tables)
        if groups:
            column = next(table.columns.group for table in folder_tables.tables if table.columns.group)
            notes.append(f"images are in {len(set(groups.values()))} groups, by the column {column!r}")
            notes += group_name_notes(groups.values())
        elif options.get("group") is not False and (groups := folder_groups(labelling.images, root)):
            notes.append(
                f"images are in {len(set(groups.values()))} groups, by folders such as "
                f"{brief(next(iter(groups.values())))!r}; data.options.group = false treats images as unrelated"
            )
        by = _by_column(folder_tables.tables, labelling, problems, notes)
        if options.get("split") is not False:
            labelling.images |= _assign_by_folder(labelling, root, notes)
        if n_unlisted := len(set(folder_tables.images.files) - labelling.images.keys()):
            notes.append(f"{n_unlisted} images are in no row and are not used")
        splits = _group_by_split(labelling, by_class=labels_of is None)
        if "train" not in splits:
            raise UserError("; ".join(problems[:3]) or "no row names an image to train on")
        survey = make_survey(root, splits, None, folder_tables.images.hidden, notes)
        classes = [name for name in labelling.classes if name in survey.classes]
        completed = replace(
            survey,
            classes=survey.classes if labels_of is not None else classes,
            problems=sorted([*survey.problems, *problems]),
            definition_files=[
                path
                for table in folder_tables.tables
                for path in (table.records.path, *(table.lists.files.values() if table.lists else ()))
            ],
            unused=folder_tables.unused,
            missing=labelling.missing,
            groups=groups,
            by=by,
        )
        return _TableSurvey(**vars(completed), labels=tuple(labelling.classes), labels_of=labels_of)

    @final
    def load_targets(self, survey: Survey, sizes: object, notify: Notify | None) -> TargetSource:
        if isinstance(survey, _TableSurvey) and survey.labels_of is not None:
            return LabelVectors(
                survey.labels,
                survey.labels_of,
                _unused_label_notes(survey.splits.values(), survey.labels, survey.labels_of),
            )
        return ClassLabels(survey)


def _assign_by_folder(labelling: TableLabels, root: Path, notes: list[str]) -> dict[Path, LabelledImage]:
    """Return the images, assigned to splits by their first folder such as ``train`` or ``test_images``.

    Return {} if a row names a split, an image is in no split folder (noted), or train or any other split is missing.
    """
    split_of = {word: split for split, words in SPLIT_NAMES.items() for word in words}
    if any(row.split_name for row in labelling.images.values()):
        return {}
    matches = {
        path: next(filter(None, map(_SPLIT_FOLDER.fullmatch, path.parts[len(root.parts) : -1])), None)
        for path in labelling.images
    }
    splits = {path: split_of[match[1].lower()] for path, match in matches.items() if match}
    if not {"train"} < set(splits.values()):
        return {}
    if n_others := len(matches) - len(splits):
        names = " and ".join(sorted({repr(brief(match[0])) for match in matches.values() if match})[:_MAX_FOLDERS])
        notes.append(
            f"{len(splits)} images are in the folders {names}, which are not used as splits, because {n_others} images "
            "are in no such folder; write a column split with train and test"
        )
        return {}
    return {
        path: replace(labelling.images[path], split=splits[path], split_name=match[0])
        for path, match in matches.items()
        if match
    }


def _by_column(
    tables: Sequence[ImageTable], labelling: TableLabels, problems: list[str], notes: list[str]
) -> tuple[str, dict[Path, str]] | None:
    """Return the column of the option ``by`` and its value for each image, or None; append problems and notes."""
    column = next((table.columns.by for table in tables if table.columns.by), None)
    if column is None:
        return None
    values = {path: row.by for path, row in labelling.images.items()}
    counts = Counter(values.values())
    if (n_blank := counts.pop("", 0)) and counts:
        notes.append(f"{n_blank} images have no {brief(column)!r} and count for none of its values")
    if not 1 <= len(counts) <= _MAX_VALUES:
        problems.append(
            f"data.options.by: the column {brief(column)!r} has {len(counts)} values; 1 to {_MAX_VALUES} are needed"
        )
    return column, values


def _group_by_split(labelling: TableLabels, by_class: bool) -> dict[str, SplitFiles]:
    """Return the files of each split; without a test split, the validation split is used as test."""
    files = defaultdict[str, dict[str, list[Path]]](dict)
    names = dict[str, str]()
    for path, row in labelling.images.items():
        names.setdefault(row.split, row.split_name)
        files[row.split].setdefault(row.labels[0] if by_class else "", []).append(path)
    if "val" in files and "test" not in files:
        files["test"], names["test"] = files.pop("val"), names["val"]
    return {
        split: SplitFiles(names[split], {label: sorted(paths) for label, paths in files[split].items()})
        for split in ("train", "test", "val")
        if split in files
    }


def _group_problems(tables: Sequence[ImageTable]) -> list[str]:
    """Return a message for each table without the group column that another table has."""
    grouped = next((table for table in tables if table.columns.group), None)
    return [
        f"{brief(table.records.file_name)} has no column {grouped.columns.group!r}; "
        f"{brief(grouped.records.file_name)} has it. "
        "data.options.group = false treats images as unrelated"
        for table in tables
        if grouped and not table.columns.group
    ]


def _unused_label_notes(
    splits: Iterable[SplitFiles], labels: Sequence[str], labels_of: Mapping[Path, tuple[str, ...]]
) -> list[str]:
    """Return notes on labels that no image of a split has."""
    notes = []
    for split_files in splits:
        present = {label for path in split_files.files for label in labels_of[path]}
        if lacking := [label for label in labels if label not in present]:
            split_text = f" of {split_files.name!r}" if split_files.name else ""
            notes.append(f"no image{split_text} has {', '.join(map(repr, lacking))}")
    return notes


def _delimiter_note(table: ImageTable) -> str:
    """Return a note on the delimiter between labels in a cell; "" if no cell holds it."""
    column, delimiter = table.columns.labels[0], table.columns.delimiter
    cells = (row.cells[column] for row in table.records.rows if delimiter)
    if not any(isinstance(cell, str) and delimiter in cell for cell in cells):
        return ""
    return f"labels in the column {column!r} of {brief(table.records.file_name)} are separated by {delimiter!r}"


def _check_binary_options(options: Mapping[str, Any]) -> None:
    """Raise UserError unless the options ``uncertain`` and ``blank`` are 0 or 1."""
    for name in ("uncertain", "blank"):
        if options.get(name, 0) not in (0, 1):
            raise UserError(f"data.options.{name} = {options[name]!r}: 0 or 1 is needed")
