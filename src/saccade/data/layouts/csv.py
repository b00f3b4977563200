"""Images with CSV tables: one label per image, several, or a 0/1 column for each label.

Supported structures:

* one table, with a column ``split`` (``train``, ``val``, ``test``), else ``test_part`` is held back for testing;
* one table beside lists of images: ``train_val_list.txt`` (or ``train_list.txt``, ``val_list.txt``) and
  ``test_list.txt``, as in ChestX-ray14;
* ``train.csv`` beside ``test.csv`` (ignored without labels, as on Kaggle) or ``val.csv``;
* ``_classes.csv`` in each of ``train``, ``valid`` and ``test``, as written by Roboflow.

A table is separated by commas, semicolons or tabs and has a header. Its columns are

* the image: the column whose values name images at any depth of the folder, by path or name, with or without suffix;
* the label: ``label``, ``class``, ``category``, ``Finding Labels`` or similar, or the only remaining column. A cell
  holds one label, or several separated by ``|`` or ``;`` (in ``labels`` and ``tags`` also by commas or spaces);
* or one 0/1 column for each label, which is a class if every image has exactly one 1;
* the group: ``group``, ``patient``, ``subject``, ``lesion`` or ``scene``; images of one group are kept in one split.

Columns such as age, sex and view are not labels. If headers are ambiguous, set ``data.options``: ``image``, ``labels``,
``split``, ``group``, ``delimiter``; ``file`` if there are several tables; ``uncertain`` and ``blank`` for the meaning
of -1 and of an empty cell in a 0/1 column. ``by`` names a column whose values are also scored one by one.

Class folders with a table of their images are read as class folders, unless the recipe names this layout. Folders such
as ``images_001``, or of patients, whose names never occur in both train and test, are not classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from saccade.data.columns import (
    Columns,
    UnclearError,
    find_columns,
    find_image_column,
    find_second_image_column,
    has_box_columns,
)
from saccade.data.groups import GROUP_FOLDER
from saccade.data.image_index import ImageIndex
from saccade.data.labelling import ImageTable
from saccade.data.layouts._table import FolderTables, TableLayout
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.records import TableFile, read_csv
from saccade.data.rows import RowImages
from saccade.data.split_lists import find_split_lists
from saccade.data.survey import assign_splits, files_in, subfolders
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["Csv"]

_SUFFIXES = (".csv", ".tsv")
_ROBOFLOW = "_classes.csv"
_NOT_A_CLASS = re.compile(r"(images?|imgs?|part|batch)[ _-]*\d*$", re.IGNORECASE)
"""Names of folders that hold images of any class."""


@final
class Csv(TableLayout):
    """CSV tables of images and labels."""

    name = "csv"
    rank = 62
    options = MappingProxyType({"file": "name of the table file", **TableLayout.options})

    def check_auto_choice(self, root: Path) -> str | None:
        """Decline if the rows name images that are in class folders."""
        if ClassFolders().check_folder(root) is not None:
            return None
        split_names = assign_splits(path.name for path in subfolders(root))
        class_root = root / split_names["train"] if split_names else root
        if "test" in split_names and not _names_in(class_root) & _names_in(root / split_names["test"]):
            return None
        folders = self._labelled_folders(root, class_root)
        classes = [
            name for name in folders if name and not _NOT_A_CLASS.search(name) and not GROUP_FOLDER.fullmatch(name)
        ]
        if "" in folders or not classes:
            return None
        return (
            f"its rows name images in class folders ({', '.join(map(brief, classes[:3]))}), as in class_folders; "
            "set data.layout = csv to read the table"
        )

    def _labelled_folders(self, root: Path, class_root: Path) -> list[str]:
        """Return the names of the folders in ``class_root`` with images that rows name; "" is ``class_root`` itself."""
        try:
            tables = self.find_tables(root, {})
        except UnclearError:
            return [path.name for path in subfolders(class_root)]
        images = RowImages(tables.images)
        for table in tables.tables:
            for row in table.records.rows:
                images.find(row, table.columns.image, table.folder, "")
        paths = (path.relative_to(class_root).parts for path in images.found if path.is_relative_to(class_root))
        return sorted({names[0] if names[1:] else "" for names in paths})

    def find_tables(self, root: Path, options: Mapping[str, Any]) -> FolderTables:
        """Return the tables that name images; raise UserError if no table does."""
        files = files_in(root, _SUFFIXES)
        if "file" in options:
            name = str(options["file"])
            if name not in files:
                choices = f"There are {', '.join(map(brief, files))}" if files else "There is no .csv"
                raise UserError(
                    f"data.options.file: the folder has no file {brief(name)!r}.{did_you_mean(name, files)} {choices}"
                )
            files = {name: files[name]}
        roboflow = {} if "file" in options else _roboflow_tables(root)
        if not roboflow and not files:
            raise UserError(f"it has no .csv or .tsv, nor {_ROBOFLOW} in a folder train")
        index = ImageIndex(root)
        if roboflow:
            return _split_tables(roboflow, index, options)
        paths_by_split = {split: files[name] for split, name in _tables_by_split(files).items()}
        if len(paths_by_split) > 1 and "train" in paths_by_split:
            try:
                return _split_tables(paths_by_split, index, options)
            except _NoImageColumnError:  # a table of something else that is called train
                pass
        return _single_table(files, index, options)


class _NoImageColumnError(UserError):
    """Error about a table without a column that names images."""


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in subfolders(folder)}


def _roboflow_tables(root: Path) -> dict[str, Path]:
    """Return Roboflow's tables by split; {} without a training table."""
    folders = {path.name: path for path in subfolders(root) if (path / _ROBOFLOW).is_file()}
    tables = {split: folders[name] / _ROBOFLOW for split, name in assign_splits(folders).items()}
    return tables if "train" in tables else {}


def _tables_by_split(names: Mapping[str, Path]) -> dict[str, str]:
    """Return table names by split, such as ``train.csv`` or ``train_labels.csv``."""
    stems = {re.sub(r"[\W_]|labels?|set$", "", Path(name).stem.lower()): name for name in names}
    return {split: stems[stem] for split, stem in assign_splits(stems).items()}


def _split_tables(paths: Mapping[str, Path], index: ImageIndex, options: Mapping[str, Any]) -> FolderTables:
    """Return one table per split; tables without a label column of the training table are left out.

    Raises:
        UserError: a table lacks some labels, the group column or that of ``by``.
    """
    records = {
        split: read_csv(path, path.relative_to(index.root).as_posix(), min_columns=2 if split == "train" else 1)
        for split, path in paths.items()
    }
    training = records["train"]
    columns = _find_columns(training, _image_folder(training, "train", index), index, {**options, "split": False})
    tables, unused = [], []
    for split, table in records.items():
        folder = _image_folder(table, split, index)
        lacking = [name for name in columns.labels if name not in table.header]
        if len(lacking) == len(columns.labels):
            unused.append(f"{brief(table.file_name)!r} has no column {brief(lacking[0])!r} and is not used")
            continue
        lacking += [name for name in (columns.group, columns.by) if name and name not in table.header]
        if lacking:
            name = lacking[0]
            raise UserError(f"{brief(table.file_name)} has no column {name!r}; {brief(training.file_name)} has it")
        has_image_column = columns.image in table.header
        image = columns.image if has_image_column else _find_image_column(table, folder, index, options)
        split_name = table.path.parent.name if table.path.name == _ROBOFLOW else table.file_name
        tables.append(ImageTable(split, split_name, table, replace(columns, image=image), folder))
    if "test" not in {table.split for table in tables}:
        tables = [table._replace(split="test" if table.split == "val" else table.split) for table in tables]
    if len(tables) == 1:
        tables = [tables[0]._replace(split_name="")]
    return FolderTables(tables, index, [], unused)


def _single_table(files: Mapping[str, Path], index: ImageIndex, options: Mapping[str, Any]) -> FolderTables:
    """Return the only table whose rows name images and labels."""
    lists = find_split_lists(index.root)
    reasons, box_problems, notes, ambiguity_errors = list[str](), list[str](), list[str](), list[UnclearError]()
    tables = list[ImageTable]()
    for name, path in files.items():
        image = ""
        try:
            table = read_csv(path, name)
            folder = _image_folder(table, "train", index)
            image = _find_image_column(table, folder, index, options)
            if has_box_columns(table.header) and "file" not in options:
                notes.append(f"{brief(name)} holds one box or RLE mask per row and is not read")
                box_problems.append(f"{notes[-1]}: convert it to COCO or YOLO")
                continue
            columns = find_columns(table, image, options)
            has_lists = columns.split is None and options.get("split") is not False
            tables.append(ImageTable("train", "", table, columns, folder, lists if has_lists else None))
        except UnclearError as error:
            ambiguity_errors.append(error)
            notes.append(f"{brief(name)} is not read")
        except UserError as error:
            reasons.append(str(error))
            notes += [f"{brief(name)} has no labels and is not read"] * bool(image)
    label_tables = [
        table for table in tables if re.fullmatch(r"labels?|train", Path(table.records.file_name).stem.lower())
    ]
    if len(tables) > 1 and len(label_tables) == 1:
        notes += [f"{brief(table.records.file_name)} is not read" for table in tables if table not in label_tables]
        tables = label_tables
    if len(tables) > 1:
        names = [brief(table.records.file_name) for table in tables]
        raise UnclearError(
            f"{' and '.join(names)} are {len(names)} tables of images; choose one: data.options.file = {names[0]!r}"
        )
    if not tables:
        raise ambiguity_errors[0] if ambiguity_errors else UserError("; ".join([*reasons, *box_problems]))
    return FolderTables(tables, index, notes, [])


def _image_folder(table: TableFile, split: str, index: ImageIndex) -> Path:
    """Return the folder searched first for a table's images: its own, or the split's if its own is the root."""
    folder = table.path.parent
    if folder != index.root:
        return folder
    return next((path for path in subfolders(folder) if assign_splits([path.name]).get(split)), folder)


def _find_columns(table: TableFile, folder: Path, index: ImageIndex, options: Mapping[str, Any]) -> Columns:
    return find_columns(table, _find_image_column(table, folder, index, options), options)


def _find_image_column(table: TableFile, folder: Path, index: ImageIndex, options: Mapping[str, Any]) -> str:
    """Return the column that names images.

    Raises:
        UserError: the option ``image`` is not a column, or not exactly one column names images.
    """
    if (option := options.get("image")) is not None:
        if option not in table.header:
            raise UserError(
                f"data.options.image: {brief(table.file_name)} has no column {brief(option)!r}."
                f"{did_you_mean(str(option), table.header)} There are {', '.join(map(brief, table.header))}"
            )
        return str(option)
    if not table.rows:
        raise UserError(table.problems[0])
    column = find_image_column(table, partial(index.has_image, folder=folder))
    if column is None:
        value = brief(table.rows[0].text(table.header[0]), 60)
        raise _NoImageColumnError(
            f"no column of {brief(table.file_name)} names any of the {len(index.files)} images of the folder; "
            f"the first row begins with {value!r}"
        )
    if second := find_second_image_column(table, column, partial(index.has_image, folder=folder)):
        name, row = second
        raise UnclearError(
            f"the columns {brief(column)!r} and {brief(name)!r} of {brief(table.file_name)} both name images; "
            f"{table.location(row)} names {brief(row.text(column))} and {brief(row.text(name))}. "
            f"Set data.options.image = {brief(column, 40)!r}"
        )
    return column
