"""Files that name the classes of masks: by index, by pixel value, or by colour."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.data.records import read_csv
from saccade.data.survey import class_names, lines
from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["MAPS", "ClassMap", "class_map", "map_file"]

Colour = tuple[int, int, int]

_PIXEL = "_classes.csv"
_CVAT = re.compile(r"(.+?)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:.*")
_CAMVID = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(.+)")
MAPS = ("labelmap.txt", "class_dict.csv", "label_colors.txt", _PIXEL, "classes.txt")
"""The files, the one that says most first."""


@dataclass(frozen=True)
class ClassMap:
    """The classes of masks.

    Attributes:
        names: in the order of the indices.
        colours: of each class; empty where masks hold indices.
        owner: the file that says so; empty where none does.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    owner: str = ""

    def nearest(self, colour: Colour) -> str:
        """``name (r, g, b)`` of the class whose colour is nearest."""
        distance = [sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)) for other in self.colours]
        found = distance.index(min(distance))
        return f"{brief(self.names[found])} {self.colours[found]}"


def map_file(places: Iterable[Path]) -> Path | None:
    """The first of ``MAPS`` that lies in one of the ``places``."""
    folders = list(places)
    return next((path for name in MAPS for place in folders if (path := place / name).is_file()), None)


def class_map(path: Path | None) -> ClassMap:
    """The classes that a file of ``MAPS`` names.

    Raises:
        UserError: it cannot be read, a line is of another form, or a name or a colour stands twice.
    """
    if path is None:
        return ClassMap()
    if path.name == _PIXEL:
        return ClassMap(_by_pixel(path), (), path.name)
    if path.name == "classes.txt":
        return ClassMap(tuple(class_names(path)), (), path.name)
    found = _dictionary(path) if path.suffix == ".csv" else _text(path)
    values = [("name", name) for name, _ in found] + [("colour", str(colour)) for _, colour in found]
    for what, value in values:
        if (times := values.count((what, value))) > 1:
            raise UserError(f"{brief(path)} has the {what} {brief(value)} {times} times")
    if not found:
        raise UserError(f"{brief(path)} names no class")
    return ClassMap(tuple(name for name, _ in found), tuple(colour for _, colour in found), path.name)


def _text(path: Path) -> list[tuple[str, Colour]]:
    """``name:r,g,b::``, as CVAT writes it, or ``r g b name``, as CamVid has it."""
    found = []
    for line in lines(path):
        if line.startswith("#"):
            continue
        if cvat := _CVAT.fullmatch(line):
            name, *values = cvat.groups()
        elif camvid := _CAMVID.fullmatch(line):
            *values, name = camvid.groups()
        else:
            raise UserError(f"{brief(path)} has the line {brief(line, 60)!r}; name:r,g,b:: or r g b name is needed")
        found.append((name, _colour(values, path, line)))
    return found


def _dictionary(path: Path) -> list[tuple[str, Colour]]:
    """``name,r,g,b`` with a header."""
    table = read_csv(path, path.name)
    if len(table.header) < 4 or [name.lower() for name in table.header[1:4]] != ["r", "g", "b"]:
        raise UserError(f"{brief(path)} has the columns {', '.join(table.header)}; name, r, g, b are needed")
    if table.problems:
        raise UserError(table.problems[0])
    rows = [[row.text(name) for name in table.header[:4]] for row in table.rows]
    return [(name, _colour(values, path, ",".join([name, *values]))) for name, *values in rows]


def _by_pixel(path: Path) -> tuple[str, ...]:
    """``Pixel Value, Class``, as Roboflow writes it: the names in the order of the values, which are 0, 1, 2, …"""
    table = read_csv(path, path.name)
    if [name.lower() for name in table.header] != ["pixel value", "class"]:
        raise UserError(f"{brief(path)} has the columns {', '.join(table.header)}; Pixel Value, Class are needed")
    found = {row.text(table.header[0]): row.text(table.header[1]) for row in table.rows}
    for number in range(len(table.rows)):
        if str(number) not in found:
            raise UserError(f"{brief(path)} has no pixel value {number}; {len(table.rows)} classes are 0, 1, 2, …")
    return tuple(found[str(number)] for number in range(len(found)))


def _colour(values: Sequence[str], path: Path, line: str) -> Colour:
    red, green, blue = (int(value) if value.isdecimal() else -1 for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise UserError(f"{brief(path)} has the line {brief(line, 60)!r}; red, green and blue are 0 to 255")
    return red, green, blue
