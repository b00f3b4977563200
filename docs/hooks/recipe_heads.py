"""The recipes that come with Saccade, read from the comment at the head of each file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "<!-- recipes -->"
FOLDER = Path(__file__).parents[2] / "recipes"
KEYS = ("command", "hardware", "time", "numbers", "run")
"""Keys that every head has."""

_KEY = re.compile(r"# ([a-z]+) {2,}(\S.*)")
_CONTINUATION = re.compile(r"# {8,}(\S.*)")


@dataclass(frozen=True)
class Head:
    """Comment at the head of a recipe."""

    name: str
    title: str
    """The first line."""
    values: dict[str, str]
    """Maps key to text; lines of one text are separated by line breaks."""
    notes: str
    """All lines after the keys, without the comment signs."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table where the page has the marker."""
    return markdown.replace(MARKER, recipes_table()) if MARKER in markdown else markdown


def recipes_table() -> str:
    """Return one row per recipe, sorted by name."""
    heads = [read_head(path) for path in sorted(FOLDER.glob("*.toml"))]
    rows = [
        # The source is the text up to its first colon; what was taken from it follows.
        (
            f"`{head.name}`",
            head.title,
            head.values["numbers"].partition(": ")[0],
            head.values["time"],
            head.values["run"],
        )
        for head in heads
    ]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(["| recipe | trains | numbers from | time | run |", "|---|---|---|---|---|", *lines])


def read_head(path: Path) -> Head:
    """Read the comment at the head of a recipe.

    Raises:
        ValueError: there is no comment, or a key of ``KEYS`` is missing.
    """
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    if not lines:
        raise ValueError(f"{path.name} does not open with a comment")
    values: dict[str, str] = {}
    end, key = len(lines), ""
    for n, line in enumerate(lines[1:], 1):
        if match := _KEY.fullmatch(line):
            key = match[1]
            values[key] = match[2]
        elif key and (match := _CONTINUATION.fullmatch(line)):
            values[key] += f"\n{match[1]}"
        elif key:
            end = n
            break
    if missing := [name for name in KEYS if name not in values]:
        raise ValueError(f"the comment of {path.name} has no {', '.join(missing)}")
    return Head(path.stem, lines[0][2:], values, "\n".join(line[2:] for line in lines[end:]))


def _cell(text: str) -> str:
    return " ".join(text.removesuffix(".").split()).replace("|", "\\|")
