"""Lists of the images of each split beside a table, as ChestX-ray14's ``train_val_list.txt`` and ``test_list.txt``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from saccade.data.records import TableFile
from saccade.data.survey import SPLIT_NAMES, files_in, read_lines
from saccade.escaping import brief

__all__ = ["SplitLists", "find_split_lists"]

_LIST = re.compile(r"(train_?val|train(?:ing)?|val(?:id|idation)?|test(?:ing)?)_list\.txt", re.IGNORECASE)
_MAX_NAMED = 3
"""Number of images that a sentence names."""


@dataclass(frozen=True)
class SplitLists:
    """Text files with one image name per line.

    Attributes:
        files: maps a split to its file.
    """

    files: dict[str, Path]

    def row_splits(
        self, table: TableFile, image: str, problems: list[str], notes: list[str]
    ) -> dict[int, tuple[str, str]]:
        """Map the line of each listed row to (split, name of the list); append ``problems`` and ``notes``.

        Args:
            table: table of the images.
            image: column of the image names.
            problems: gets a sentence on images in two lists.
            notes: gets a sentence on rows in no list, and on listed images in no row.
        """
        splits: dict[str, tuple[str, str]] = {}
        in_two = dict[str, str]()
        for split, path in self.files.items():
            for name in map(_key, read_lines(path)):
                first = splits.setdefault(name, (split, path.name))
                if first[0] != split:
                    in_two[name] = f"{brief(name)} is in {first[1]} and in {path.name}"
        problems += [*list(in_two.values())[:_MAX_NAMED]]
        problems += [f"{len(in_two)} images are in two lists of images"] * (len(in_two) > _MAX_NAMED)
        row_splits, unlisted = dict[int, tuple[str, str]](), list[str]()
        for row in table.rows:
            name = _key(row.text(image))
            if name in splits:
                row_splits[row.line] = splits[name]
            else:
                unlisted.append(name)
        lists = " and ".join(path.name for path in self.files.values())
        notes.append(f"the splits are those of {lists}")
        if unlisted:
            notes.append(f"{len(unlisted)} rows are in neither list and are not used, such as {brief(unlisted[0])}")
        if absent := splits.keys() - {_key(row.text(image)) for row in table.rows}:
            notes.append(f"{len(absent)} listed images are in no row, such as {brief(min(absent))}")
        return row_splits


def find_split_lists(root: Path) -> SplitLists | None:
    """Return the lists in ``root`` if there is one for training and one for testing, else None."""
    split_of_word = {word: split for split, words in SPLIT_NAMES.items() for word in words}
    files = dict[str, Path]()
    for name, path in files_in(root, ("_list.txt",)).items():
        if match := _LIST.fullmatch(name):
            files[split_of_word.get(match[1].lower(), "train")] = path
    if not {"train", "test"} <= files.keys():
        return None
    return SplitLists({split: files[split] for split in SPLIT_NAMES if split in files})


def _key(text: str) -> str:
    """Return the name of an image without its folders."""
    return text.strip().replace("\\", "/").rpartition("/")[2]
