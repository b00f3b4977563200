"""Hugging Face's ``imagefolder``: ``metadata.csv`` or ``metadata.jsonl`` among the images.

The table lies in the folder, or in each of ``train``, ``test`` and ``validation`` (``val``, ``valid``). Its column
``file_name`` is a path from the table; ``label`` is one label, ``labels`` a list of them in JSON (in CSV separated as
in layout ``csv``). A column ``group``, ``patient``, ``subject``, ``lesion`` or ``scene`` names the group. ``text`` and
``objects`` are not read. Without a table the folders are the labels, as of ``class_folders``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from saccade.data.columns import Columns, find_columns
from saccade.data.image_index import ImageIndex
from saccade.data.labelling import ImageTable
from saccade.data.layouts._table import Found, TableLayout
from saccade.data.records import TableFile, read_csv, read_jsonl
from saccade.data.survey import assign_splits, subfolders
from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["ImageFolder"]

_TABLES = {"metadata.csv": read_csv, "metadata.jsonl": read_jsonl}
_IMAGE = "file_name"
_LABELS = ("label", "labels")
_ELSEWHERE = {
    "objects": "boxes in 'objects' are not read here: write them as COCO or YOLO",
    "text": "captions in 'text' are no labels",
    "caption": "captions in 'caption' are no labels",
}


@final
class ImageFolder(TableLayout):
    """Images with a table of metadata, as the library ``datasets`` reads them."""

    name = "imagefolder"
    rank = 56

    def found(self, root: Path, options: Mapping[str, Any]) -> Found:
        """The table of the folder, or of each part."""
        paths = _paths(root)
        if "train" not in paths:
            packed = any((folder / "metadata.parquet").is_file() for folder in (root, root / "train"))
            raise UserError(
                "metadata.parquet is not read: write metadata.csv, in Python pandas.read_parquet(path).to_csv(…)"
                if packed
                else f"it has no {' or '.join(_TABLES)}, nor has a folder train"
            )
        index, tables, unused = ImageIndex(root), list[ImageTable](), list[str]()
        for role, path in paths.items():
            table = _TABLES[path.name](path, path.relative_to(root).as_posix())
            try:
                columns = _columns(table, options)
            except UserError as error:
                if role == "train":
                    raise
                unused.append(f"{brief(table.file_name)!r} is not used: {error}")
                continue
            part = "" if path.parent == root else path.parent.name
            tables.append(ImageTable(role, part, table, columns, path.parent))
        return Found(tables, index, [], unused)


def _paths(root: Path) -> dict[str, Path]:
    """Role to its table; the one of the folder itself, where there is one, is that to train on."""
    folders = {path.name: path for path in subfolders(root)}
    places = {"train": root} if _table(root) else {role: folders[name] for role, name in assign_splits(folders).items()}
    return {role: path for role, place in places.items() if (path := _table(place))}


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)


def _columns(table: TableFile, options: Mapping[str, Any]) -> Columns:
    """The columns of a table.

    Raises:
        UserError: it has no names of files or no labels.
    """
    image = str(options.get("image", _IMAGE))
    if image not in table.header:
        raise UserError(f"{brief(table.file_name)} has no column {image!r}; its columns are {', '.join(table.header)}")
    if "labels" not in options and not any(name in table.header for name in _LABELS):
        said = next((why for name, why in _ELSEWHERE.items() if name in table.header), None)
        raise UserError(f"{brief(table.file_name)} has no column label or labels" + (f"; {said}" if said else ""))
    return find_columns(table, image, options)
