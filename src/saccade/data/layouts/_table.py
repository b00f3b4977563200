"""What layouts of tables share: rows that name images and say their labels, their part and their group."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

from saccade.data.columns import UnclearError
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

__all__ = ["Found", "TableLayout"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Found(NamedTuple):
    """The tables of a folder.

    Attributes:
        tables: where labels stand.
        images: those of the folder.
        notes: sentences on tables that are not read.
        unused: clauses on parts that are not used.
    """

    tables: list[ImageTable]
    images: ImageIndex
    notes: list[str]
    unused: list[str]


@dataclass(frozen=True)
class _TableSurvey(Survey):
    """A survey with what the rows say.

    Attributes:
        labels: all of them, in their order.
        vector: image to its labels; None where each image has one, so that it is its class.
    """

    labels: tuple[str, ...] = ()
    vector: dict[Path, tuple[str, ...]] | None = None


class TableLayout(FolderLayout):
    """A layout in which a table names images and their labels."""

    targets = ("label", "vector")
    options: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "image": "the column that names images",
            "labels": "the column of labels, or those of 0/1, separated by commas",
            "split": "the column of the part; false takes none",
            "group": "the column of the group (patient, scene); false takes none",
            "delimiter": "between the labels of a cell; empty where each cell is one label",
            "uncertain": "0 or 1: what -1 is in a column of 0/1",
            "blank": "0 or 1: what a blank is in a column of 0/1",
        }
    )

    @abstractmethod
    def found(self, root: Path, options: Mapping[str, Any]) -> Found:
        """The tables of a folder, by the columns that ``data.options`` say.

        Raises:
            UserError: no table is there or can be read; the message is a clause with the reason.
        """

    @final
    def gives(self, spec: Data) -> tuple[str, ...]:
        """``label`` where every image has one label, else ``vector``."""
        seen = self._survey(spec)
        return ("vector",) if isinstance(seen, _TableSurvey) and seen.vector is not None else ("label",)

    @final
    def reason(self, root: Path) -> str | None:
        """Look for a table whose rows name images of the folder."""
        try:
            self.found(root, _NO_OPTIONS)
        except UnclearError:  # ``survey_by`` says what is missing
            return None
        except UserError as error:
            return str(error)
        return None

    @final
    def survey(self, root: Path) -> Survey:
        """The images that the rows name."""
        return self.survey_by(root, _NO_OPTIONS)

    @final
    def survey_by(self, root: Path, options: Mapping[str, Any]) -> Survey:
        """The images that the rows name, by the columns that ``data.options`` say."""
        _check_flags(options)
        found = self.found(root, options)
        read = read_table_labels(found.tables, found.images, options)
        notes, problems = [*found.notes, *read.notes], list(read.problems)
        if not read.classes and not problems:
            problems.append("no row has a label")
        flags = [table.columns.form == "flags" for table in found.tables]
        single = all(len(one.labels) == 1 for one in read.images.values())
        vector = None
        if any(table.columns.form == "delimited" for table in found.tables) or (any(flags) and not single):
            vector = {path: one.labels for path, one in read.images.items()}
        elif all(flags):
            notes.append(f"each image has exactly one of {len(read.classes)} labels, which are read as classes")
        notes += [sentence for table in found.tables if (sentence := _separated(table))]
        groups = {path: one.group for path, one in read.images.items() if one.group}
        problems += _without_group(found.tables)
        if groups:
            column = next(table.columns.group for table in found.tables if table.columns.group)
            notes.append(f"images are in {len(set(groups.values()))} groups, by the column {column!r}")
        if options.get("split") is not False:
            read.images |= _by_folder(read, root)
        if beside := len(set(found.images.files) - read.images.keys()):
            notes.append(f"{beside} images are in no row and are not used")
        parts = _parts(read, by_class=vector is None)
        if "train" not in parts:
            raise UserError("; ".join(problems[:3]) or "no row names an image to train on")
        seen = make_survey(root, parts, None, found.images.hidden, notes)
        ordered = [name for name in read.classes if name in seen.classes]
        more = replace(
            seen,
            classes=seen.classes if vector is not None else ordered,
            problems=sorted([*seen.problems, *problems]),
            definition_files=[table.records.path for table in found.tables],
            unused=found.unused,
            missing=read.missing,
            groups=groups,
        )
        return _TableSurvey(**vars(more), labels=tuple(read.classes), vector=vector)

    @final
    def label(self, seen: Survey, sizes: object, notify: Notify | None) -> TargetSource:
        """The class or the vector of each file."""
        if isinstance(seen, _TableSurvey) and seen.vector is not None:
            return LabelVectors(seen.labels, seen.vector, _unlearnable(seen.splits.values(), seen.labels, seen.vector))
        return ClassLabels(seen)


def _by_folder(read: TableLabels, root: Path) -> dict[Path, LabelledImage]:
    """The images by the folders of parts that all of them lie in, where rows say no part."""
    known = {word: role for role, words in SPLIT_NAMES.items() for word in words}
    if any(one.split_name for one in read.images.values()):
        return {}
    tops = {path: path.parts[len(root.parts)] for path in read.images}
    roles = {known.get(top.lower(), "") for top in tops.values()}
    if "" in roles or not {"train"} < roles:
        return {}
    return {
        path: replace(one, split=known[tops[path].lower()], split_name=tops[path]) for path, one in read.images.items()
    }


def _parts(read: TableLabels, by_class: bool) -> dict[str, SplitFiles]:
    """Role to part; the validation part is the test part where there is no other."""
    files = defaultdict[str, dict[str, list[Path]]](dict)
    names = dict[str, str]()
    for path, one in read.images.items():
        names.setdefault(one.split, one.split_name)
        files[one.split].setdefault(one.labels[0] if by_class else "", []).append(path)
    if "val" in files and "test" not in files:
        files["test"], names["test"] = files.pop("val"), names["val"]
    return {
        role: SplitFiles(names[role], {label: sorted(of) for label, of in files[role].items()})
        for role in ("train", "test", "val")
        if role in files
    }


def _without_group(tables: Sequence[ImageTable]) -> list[str]:
    """A sentence on each table that says no groups where another says them."""
    first = next((table for table in tables if table.columns.group), None)
    return [
        f"{brief(table.records.file_name)} has no column {first.columns.group!r}; {brief(first.records.file_name)} has it. "
        "data.options.group = false takes images as unrelated"
        for table in tables
        if first and not table.columns.group
    ]


def _unlearnable(
    parts: Iterable[SplitFiles], labels: Sequence[str], vector: Mapping[Path, tuple[str, ...]]
) -> list[str]:
    """Notes on labels that no image of a part has."""
    notes = []
    for part in parts:
        shown = {label for path in part.files for label in vector[path]}
        if lacking := [label for label in labels if label not in shown]:
            where = f" of {part.name!r}" if part.name else ""
            notes.append(f"no image{where} has {', '.join(map(repr, lacking))}")
    return notes


def _separated(table: ImageTable) -> str:
    """A note on what separates the labels of a cell; empty where nothing does."""
    column, mark = table.columns.labels[0], table.columns.delimiter
    cells = (row.cells[column] for row in table.records.rows if mark)
    if not any(isinstance(cell, str) and mark in cell for cell in cells):
        return ""
    return f"labels in the column {column!r} of {brief(table.records.file_name)} are separated by {mark!r}"


def _check_flags(options: Mapping[str, Any]) -> None:
    """Refuse another value than 0 or 1 for what is uncertain or blank.

    Raises:
        UserError: names it.
    """
    for name in ("uncertain", "blank"):
        if options.get(name, 0) not in (0, 1):
            raise UserError(f"data.options.{name} = {options[name]!r}: 0 or 1 is needed")
