"""Readers of files that list the classes of masks by index, by pixel value or by colour."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.data.records import read_csv
from saccade.data.survey import read_class_names, read_lines
from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["CLASS_FILES", "ClassMap", "Colour", "find_class_file", "read_class_map"]

Colour = tuple[int, int, int]

_ROBOFLOW_FILE = "_classes.csv"
_CVAT_LINE = re.compile(r"(.+?)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:.*")
_CAMVID_LINE = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(.+)")
CLASS_FILES = ("labelmap.txt", "class_dict.csv", "label_colors.txt", _ROBOFLOW_FILE, "classes.txt")
"""Names of the files that list the classes of masks, the most informative first."""


@dataclass(frozen=True)
class ClassMap:
    """Names and colours of the classes of masks.

    Attributes:
        names: names in the order of the class indices.
        colours: RGB colour of each class; empty if masks hold indices.
        file_name: name of the file that lists the classes; empty without a file.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    file_name: str = ""

    def describe_nearest(self, colour: Colour) -> str:
        """Return ``name (r, g, b)`` of the class whose colour is nearest."""
        distances = [sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)) for other in self.colours]
        index = distances.index(min(distances))
        return f"{brief(self.names[index])} {self.colours[index]}"


def find_class_file(folders: Iterable[Path]) -> Path | None:
    """Return the first file of ``CLASS_FILES`` in any of ``folders``; None if no folder has one."""
    folders = list(folders)
    paths = (folder / name for name in CLASS_FILES for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def read_class_map(path: Path | None) -> ClassMap:
    """Read the class names and colours in a file of ``CLASS_FILES``; return an empty map if ``path`` is None.

    Raises:
        UserError: the file cannot be read, a line is malformed or a comment, or a name or a colour is repeated.
    """
    if path is None:
        return ClassMap()
    if path.name == _ROBOFLOW_FILE:
        return ClassMap(_read_roboflow(path), (), path.name)
    if path.name == "classes.txt":
        names = read_class_names(path)
        if comment := next((name for name in names if name.startswith("#")), None):
            raise UserError(
                f"{brief(path)} has the line {brief(comment, 60)!r}, which would name a class; remove the comment, or "
                "write a name that does not begin with #"
            )
        return ClassMap(tuple(names), (), path.name)
    classes = _read_class_dict(path) if path.suffix == ".csv" else _read_text_map(path)
    values = [("name", name) for name, _ in classes] + [("colour", str(colour)) for _, colour in classes]
    for kind, value in values:
        if (count := values.count((kind, value))) > 1:
            raise UserError(f"{brief(path)} has the {kind} {brief(value)} {count} times")
    if not classes:
        raise UserError(f"{brief(path)} names no class")
    return ClassMap(tuple(name for name, _ in classes), tuple(colour for _, colour in classes), path.name)


def _read_text_map(path: Path) -> list[tuple[str, Colour]]:
    """Read lines ``name:r,g,b::`` (CVAT) or ``r g b name`` (CamVid)."""
    classes = []
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        if match := _CVAT_LINE.fullmatch(line):
            name, *values = match.groups()
        elif match := _CAMVID_LINE.fullmatch(line):
            *values, name = match.groups()
        else:
            raise UserError(f"{brief(path)} has the line {brief(line, 60)!r}; name:r,g,b:: or r g b name is needed")
        classes.append((name, _to_colour(values, path, line)))
    return classes


def _read_class_dict(path: Path) -> list[tuple[str, Colour]]:
    table = read_csv(path, path.name)
    if len(table.header) < 4 or [name.lower() for name in table.header[1:4]] != ["r", "g", "b"]:
        raise UserError(f"{brief(path)} has the columns {', '.join(table.header)}; name, r, g, b are needed")
    if table.problems:
        raise UserError(table.problems[0])
    rows = [[row.text(name) for name in table.header[:4]] for row in table.rows]
    return [(name, _to_colour(values, path, ",".join([name, *values]))) for name, *values in rows]


def _read_roboflow(path: Path) -> tuple[str, ...]:
    """Read Roboflow's CSV with the columns ``Pixel Value, Class``; return the names in the order of the values."""
    table = read_csv(path, path.name)
    if [name.lower() for name in table.header] != ["pixel value", "class"]:
        raise UserError(f"{brief(path)} has the columns {', '.join(table.header)}; Pixel Value, Class are needed")
    names = {row.text(table.header[0]): row.text(table.header[1]) for row in table.rows}
    for number in range(len(table.rows)):
        if str(number) not in names:
            raise UserError(f"{brief(path)} has no pixel value {number}; the values must be 0 to {len(table.rows) - 1}")
    return tuple(names[str(number)] for number in range(len(names)))


def _to_colour(values: Sequence[str], path: Path, line: str) -> Colour:
    red, green, blue = (int(value) if value.isdecimal() else -1 for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise UserError(f"{brief(path)} has the line {brief(line, 60)!r}; red, green and blue are 0 to 255")
    return red, green, blue
