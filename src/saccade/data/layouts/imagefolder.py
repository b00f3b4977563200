"""Hugging Face's ``imagefolder``: ``metadata.csv`` or ``metadata.jsonl`` among the images.

The table lies in the folder, or in each of ``train``, ``test`` and ``validation`` (``val``, ``valid``). Its column
``file_name`` is a path relative to the table; ``label`` is one label, ``labels`` a JSON list of labels (in CSV,
labels separated as in layout ``csv``). ``group``, ``patient``, ``subject``, ``lesion`` or ``scene`` is the group.
``text`` and ``objects`` are not read. Without a table, the folder names are the labels (``class_folders``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from saccade.data.columns import Columns, find_columns
from saccade.data.image_index import ImageIndex
from saccade.data.labelling import ImageTable
from saccade.data.layouts._table import FolderTables, TableLayout
from saccade.data.records import TableFile, read_csv, read_jsonl
from saccade.data.survey import assign_splits, subfolders
from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["ImageFolder"]

_READERS = {"metadata.csv": read_csv, "metadata.jsonl": read_jsonl}
_IMAGE_COLUMN = "file_name"
_LABEL_COLUMNS = ("label", "labels")
_UNSUPPORTED_COLUMNS = {
    "objects": "boxes in 'objects' are not read: convert them to COCO or YOLO",
    "text": "captions in 'text' are not labels",
    "caption": "captions in 'caption' are not labels",
}
"""Maps a column that is not read to a hint for the message on missing labels."""


@final
class ImageFolder(TableLayout):
    """Images with a metadata table, as the library ``datasets`` reads them."""

    name = "imagefolder"
    rank = 56

    def find_tables(self, root: Path, options: Mapping[str, Any]) -> FolderTables:
        """Return the table of the folder or of each split; raise UserError if the folder has no table."""
        paths = _tables_by_split(root)
        if "train" not in paths:
            has_parquet = any((folder / "metadata.parquet").is_file() for folder in (root, root / "train"))
            raise UserError(
                "metadata.parquet is not read: convert it to metadata.csv with pandas.read_parquet(path).to_csv(…)"
                if has_parquet
                else f"neither the folder nor its folder train has {' or '.join(_READERS)}"
            )
        index, tables, unused = ImageIndex(root), list[ImageTable](), list[str]()
        for split, path in paths.items():
            table = _READERS[path.name](path, path.relative_to(root).as_posix())
            try:
                columns = _find_columns(table, options)
            except UserError as error:
                if split == "train":
                    raise
                unused.append(f"{brief(table.file_name)!r} is not used: {error}")
                continue
            split_name = "" if path.parent == root else path.parent.name
            tables.append(ImageTable(split, split_name, table, columns, path.parent))
        return FolderTables(tables, index, [], unused)


def _tables_by_split(root: Path) -> dict[str, Path]:
    """Return tables by split; a table at the top level is the training table."""
    folders = {path.name: path for path in subfolders(root)}
    folders_by_split = (
        {"train": root}
        if _find_table(root)
        else {split: folders[name] for split, name in assign_splits(folders).items()}
    )
    return {split: path for split, folder in folders_by_split.items() if (path := _find_table(folder))}


def _find_table(folder: Path) -> Path | None:
    return next((folder / name for name in _READERS if (folder / name).is_file()), None)


def _find_columns(table: TableFile, options: Mapping[str, Any]) -> Columns:
    """Return the columns of a table; raise UserError without one of file names or of labels."""
    image = str(options.get("image", _IMAGE_COLUMN))
    if image not in table.header:
        raise UserError(f"{brief(table.file_name)} has no column {image!r}; its columns are {', '.join(table.header)}")
    if "labels" not in options and not any(name in table.header for name in _LABEL_COLUMNS):
        hint = next((reason for name, reason in _UNSUPPORTED_COLUMNS.items() if name in table.header), None)
        raise UserError(f"{brief(table.file_name)} has no column label or labels" + (f"; {hint}" if hint else ""))
    label = next((name for name in _LABEL_COLUMNS if name in table.header), None)
    return find_columns(table, image, {"labels": label, **options} if label else options)
