"""Check the names of labels: separators left in them, and names that differ in form only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from saccade.escaping import brief

__all__ = ["near_name_notes", "separator_notes", "separator_problems"]

_SURE_SEPARATORS, _POSSIBLE_SEPARATORS = ("|", ";"), (",", "/")


def separator_problems(names: Collection[str]) -> list[str]:
    """Return one sentence per separator: ``|`` or ``;`` anywhere, a comma or slash between other ``names``."""
    problems = []
    for separator in _SURE_SEPARATORS + _POSSIBLE_SEPARATORS:
        found = [
            name
            for name in names
            if separator in name and (separator in _SURE_SEPARATORS or not _others(name, separator, names))
        ]
        if found:
            problems.append(
                f"the label {brief(found[0])!r}{_more(found)} contains {separator!r}, which may separate labels. "
                f"Set data.options.delimiter = {separator!r}, or '' if each cell is one label; one delimiter is needed "
                "in all rows and tables"
            )
    return problems


def separator_notes(names: Collection[str], are_several: bool) -> list[str]:
    """Return one note per comma or slash that may separate labels.

    Args:
        names: names of all labels.
        are_several: True if an image may have several labels; if False, a part must be in ``names``.
    """
    notes = []
    for separator in _POSSIBLE_SEPARATORS:
        found = [
            name
            for name in names
            if separator in name
            and (others := _others(name, separator, names))
            and (are_several or len(others) < len(name.split(separator)))
        ]
        if found:
            notes.append(
                f"the label {brief(found[0])!r}{_more(found)} contains {separator!r} and is kept whole; "
                f"data.options.delimiter = {separator!r} divides it"
            )
    return notes


def near_name_notes(names: Iterable[str]) -> list[str]:
    """Return one note per set of ``names`` that differ in capital letters, spaces, ``_`` or ``.0`` only."""
    by_key = defaultdict[str, list[str]](list)
    for name in names:
        by_key[_key(name)].append(name)
    notes = []
    for similar in by_key.values():
        if len(similar) > 1:
            only_case = len({name.casefold() for name in similar}) == 1
            difference = "capital letters" if only_case else "capital letters, spaces, _ or .0"
            notes.append(
                f"the labels {' and '.join(repr(brief(name)) for name in similar)} differ in {difference} only and are "
                "kept apart"
            )
    return notes


def _others(name: str, separator: str, names: Collection[str]) -> list[str]:
    """Return the parts of ``name`` between separators that are not in ``names``."""
    return [part for text in name.split(separator) if (part := text.strip()) not in names]


def _more(found: list[str]) -> str:
    return f" (and {len(found) - 1} more)" if found[1:] else ""


def _key(name: str) -> str:
    number = re.fullmatch(r"(\d+)\.0+", name)
    return number[1] if number else re.sub(r"[\s_]", "", name.casefold())
