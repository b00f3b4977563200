"""Images with a table in CSV beside them: one label each, several, or a column of 0/1 for each label.

Understood are

* one table, with a column ``split`` (``train``, ``val``, ``test``) or without, when ``test_part`` is held back;
* ``train.csv`` beside ``test.csv`` or ``val.csv``; one without labels, as Kaggle gives, is not used;
* ``_classes.csv`` in each of ``train``, ``valid`` and ``test``, as Roboflow writes it.

A table is separated by commas, semicolons or tabs and has a header. Its columns are

* the image: of the columns, the one whose values name images of the folder. A value is a path or a name, with its
  ending or without; images lie anywhere below the folder, none outside it;
* the label: ``label``, ``class``, ``category``, ``Finding Labels`` and their like, or the one column that is left. It
  is one label a row, or several separated by ``|`` or ``;`` (in ``labels`` and ``tags`` by commas or blanks too);
* or one column for each label, of 0 and 1. Where each image has exactly one 1 these are classes;
* the group, ``group``, ``patient``, ``subject``, ``lesion`` or ``scene``, which lies on one side of every split.

Columns such as age, sex and view are no labels. ``data.options`` says what headers do not (``image``, ``labels``,
``split``, ``group``, ``delimiter``; ``file`` where there are several tables), and what -1 (``uncertain``) and a
``blank`` are in a column of 0/1.

Class folders stay class folders, though a table of their images lies beside them, unless a recipe names this layout.
``images_001`` and its like are no classes, nor are folders of which no name is in both parts, such as of patients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from saccade.data.columns import Columns, UnclearError, find_columns, find_image_column, has_box_columns
from saccade.data.image_index import ImageIndex
from saccade.data.labelling import ImageTable
from saccade.data.layouts._table import Found, TableLayout
from saccade.data.layouts.class_folders import ClassFolders
from saccade.data.records import TableFile, read_csv
from saccade.data.rows import RowImages
from saccade.data.survey import assign_splits, files_in, subfolders
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief

__all__ = ["Csv"]

_ENDINGS = (".csv", ".tsv")
_ROBOFLOW = "_classes.csv"
_NO_CLASS = re.compile(r"(images?|imgs?|part|batch)[ _-]*\d*$", re.IGNORECASE)
"""Names of folders that hold images of any class."""


@final
class Csv(TableLayout):
    """Tables of images in CSV."""

    name = "csv"
    rank = 62
    options = MappingProxyType({"file": "the table", **TableLayout.options})

    def mistaken(self, root: Path) -> str | None:
        """Class folders are read as such, though a table of their images lies beside them."""
        if ClassFolders().reason(root) is not None:
            return None
        parts = assign_splits(path.name for path in subfolders(root))
        place = root / parts["train"] if parts else root
        if "test" in parts and not _names_in(place) & _names_in(root / parts["test"]):
            return None
        folders = self._folders(root, place)
        classes = [name for name in folders if name and not _NO_CLASS.search(name)]
        if "" in folders or not classes:
            return None
        return (
            f"its rows name images in class folders ({', '.join(map(brief, classes[:3]))}), as of class_folders; "
            "data.layout = csv reads the table"
        )

    def _folders(self, root: Path, place: Path) -> list[str]:
        """The folders of ``place`` that hold images which rows name; empty for ``place`` itself."""
        try:
            found = self.found(root, {})
        except UnclearError:
            return [path.name for path in subfolders(place)]
        images = RowImages(found.images)
        for table in found.tables:
            for row in table.records.rows:
                images.find(row, table.columns.image, table.folder, "")
        inner = (path.relative_to(place).parts for path in images.found if path.is_relative_to(place))
        return sorted({parts[0] if parts[1:] else "" for parts in inner})

    def found(self, root: Path, options: Mapping[str, Any]) -> Found:
        """The tables that name images of the folder."""
        files = files_in(root, _ENDINGS)
        if "file" in options:
            name = str(options["file"])
            if name not in files:
                there = f"There are {', '.join(map(brief, files))}" if files else "There is no .csv"
                raise UserError(
                    f"data.options.file: there is no {brief(name)!r} in it.{did_you_mean(name, files)} {there}"
                )
            files = {name: files[name]}
        inner = {} if "file" in options else _roboflow(root)
        if not inner and not files:
            raise UserError(f"it has no .csv or .tsv, nor {_ROBOFLOW} in a folder train")
        index = ImageIndex(root)
        if inner:
            return _of_parts(inner, index, options)
        parts = {role: files[name] for role, name in _parts(files).items()}
        if len(parts) > 1 and "train" in parts:
            try:
                return _of_parts(parts, index, options)
            except _NotOfImagesError:  # a table of something else, called train
                pass
        return _alone(files, index, options)


class _NotOfImagesError(UserError):
    """No column of a table names images."""


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in subfolders(folder)}


def _roboflow(root: Path) -> dict[str, Path]:
    """Role to the table in its folder, where there is one to train on."""
    folders = {path.name: path for path in subfolders(root) if (path / _ROBOFLOW).is_file()}
    found = {role: folders[name] / _ROBOFLOW for role, name in assign_splits(folders).items()}
    return found if "train" in found else {}


def _parts(names: Mapping[str, Path]) -> dict[str, str]:
    """Role to the name of its table: ``train.csv``, ``train_labels.csv``."""
    stems = {re.sub(r"[\W_]|labels?|set$", "", Path(name).stem.lower()): name for name in names}
    return {role: stems[stem] for role, stem in assign_splits(stems).items()}


def _of_parts(parts: Mapping[str, Path], index: ImageIndex, options: Mapping[str, Any]) -> Found:
    """A table for each part; those that lack the labels of the one to train on are not used."""
    read = {
        role: read_csv(path, path.relative_to(index.root).as_posix(), min_columns=2 if role == "train" else 1)
        for role, path in parts.items()
    }
    first = read["train"]
    columns = _columns(first, _near(first, "train", index), index, {**options, "split": False})
    tables, unused = [], []
    for role, table in read.items():
        near = _near(table, role, index)
        lacking = [name for name in columns.labels if name not in table.header]
        if len(lacking) == len(columns.labels):
            unused.append(f"{brief(table.file_name)!r} has no column {brief(lacking[0])!r} and is not used")
            continue
        if lacking or (columns.group and columns.group not in table.header):
            name = lacking[0] if lacking else columns.group
            raise UserError(f"{brief(table.file_name)} has no column {name!r}; {brief(first.file_name)} has it")
        image = columns.image if columns.image in table.header else _image(table, near, index, options)
        part = table.path.parent.name if table.path.name == _ROBOFLOW else table.file_name
        tables.append(ImageTable(role, part, table, replace(columns, image=image), near))
    if "test" not in {table.split for table in tables}:
        tables = [table._replace(split="test" if table.split == "val" else table.split) for table in tables]
    if len(tables) == 1:
        tables = [tables[0]._replace(split_name="")]
    return Found(tables, index, [], unused)


def _alone(files: Mapping[str, Path], index: ImageIndex, options: Mapping[str, Any]) -> Found:
    """The one table whose rows name images and labels."""
    why, boxes, notes, unclear = list[str](), list[str](), list[str](), list[UnclearError]()
    found = list[ImageTable]()
    for name, path in files.items():
        image = ""
        try:
            table = read_csv(path, name)
            near = _near(table, "train", index)
            image = _image(table, near, index, options)
            if has_box_columns(table.header) and "file" not in options:
                notes.append(f"{brief(name)} holds boxes or runs, one a row, and is not read")
                boxes.append(f"{notes[-1]}: write them as COCO or YOLO")
                continue
            found.append(ImageTable("train", "", table, find_columns(table, image, options), near))
        except UnclearError as error:
            unclear.append(error)
            notes.append(f"{brief(name)} is not read")
        except UserError as error:
            why.append(str(error))
            notes += [f"{brief(name)} has no labels and is not read"] * bool(image)
    called = [table for table in found if re.fullmatch(r"labels?|train", Path(table.records.file_name).stem.lower())]
    if len(found) > 1 and len(called) == 1:
        notes += [f"{brief(table.records.file_name)} is not read" for table in found if table not in called]
        found = called
    if len(found) > 1:
        names = [brief(table.records.file_name) for table in found]
        raise UnclearError(
            f"{' and '.join(names)} are {len(names)} tables of images; say which is read: data.options.file = "
            f"{names[0]!r}"
        )
    if not found:
        raise unclear[0] if unclear else UserError("; ".join([*why, *boxes]))
    return Found(found, index, notes, [])


def _near(table: TableFile, role: str, index: ImageIndex) -> Path:
    """Where the images of a table are sought first: beside it, or in the folder of its part."""
    folder = table.path.parent
    inner = (
        [path for path in subfolders(folder) if assign_splits([path.name]).get(role)] if folder == index.root else []
    )
    return inner[0] if inner else folder


def _columns(table: TableFile, near: Path, index: ImageIndex, options: Mapping[str, Any]) -> Columns:
    return find_columns(table, _image(table, near, index, options), options)


def _image(table: TableFile, near: Path, index: ImageIndex, options: Mapping[str, Any]) -> str:
    """The column that names images.

    Raises:
        UserError: an option names no column, or no column names an image.
    """
    if (asked := options.get("image")) is not None:
        if asked not in table.header:
            raise UserError(
                f"data.options.image: {brief(table.file_name)} has no column {brief(asked)!r}."
                f"{did_you_mean(str(asked), table.header)} There are {', '.join(map(brief, table.header))}"
            )
        return str(asked)
    if not table.rows:
        raise UserError(table.problems[0])
    found = find_image_column(table, partial(index.has_image, folder=near))
    if found is None:
        first = brief(table.rows[0].text(table.header[0]), 60)
        raise _NotOfImagesError(
            f"no column of {brief(table.file_name)} names an image of the folder, which holds {len(index.files)}: its "
            f"first row begins with {first!r}"
        )
    return found
