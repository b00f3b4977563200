"""The files that trainers write, one a run and a row an epoch: which column is the score, and its last value.

Ultralytics' ``results.csv`` (YOLOv5 and YOLOv8 pad the names with blanks), timm's ``summary.csv``, Lightning's
``metrics.csv`` (a row holds training or validation values, the other cells are empty), and any other with a column
``epoch``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.errors import UserError, did_you_mean
from saccade.study.scores.measures import is_loss, is_share, words
from saccade.study.scores.sheet import Sheet

__all__ = ["LogScore", "chosen_column", "is_log", "last", "match"]

_ULTRALYTICS = (
    "metrics/mAP50-95(M)", "metrics/mAP50-95(P)", "metrics/mAP50-95(B)", "metrics/mAP_0.5:0.95",
    "metrics/accuracy_top1",
)  # fmt: skip
"""Masks and key points before boxes, where there are both."""
_TIME = ("epoch", "step", "time")
_HELD_OUT = {"metrics", "eval", "val", "valid", "validation", "test"}
"""Words in the names of scores of images that are not trained on."""


@dataclass(frozen=True)
class LogScore:
    """The score of a run, and the epoch it is of; None where the row names none."""

    score: float
    epoch: int | None


def is_log(sheet: Sheet) -> bool:
    """Whether ``sheet`` has a row an epoch."""
    names = {name.lower() for name in sheet.columns}
    return "epoch" in names and not {"arm", "seed"} <= names


def chosen_column(sheet: Sheet) -> str:
    """The column that gives the score where none is named.

    Raises:
        UserError: nothing singles one out.
    """
    names = sheet.columns
    for name in _ULTRALYTICS:
        if name in names:
            return name
    held_out = [name for name in names if _HELD_OUT & set(words(name)) and not name.endswith("_step")]
    tests = [name for name in held_out if "test" in words(name)]
    for some in (tests, held_out):
        for fits in (is_share, lambda name: not is_loss(name), is_loss):
            if found := [name for name in some if fits(name)]:
                return found[0]
    others = [name for name in names if name.lower() not in _TIME]
    raise UserError(f"{sheet.name}: name the column of the scores with --metric: {', '.join(others)}")


def match(sheet: Sheet, metric: str, candidates: Sequence[str]) -> str:
    """The column that ``metric`` names: whole, or without a prefix as ``metrics/`` and an end as ``(B)`` or ``[%]``.

    Raises:
        UserError: no column or several are meant; the nearest spellings are named.
    """
    wanted = metric.strip().lower()
    for forms in (lambda name: {name}, _forms):
        found = [name for name in candidates if wanted in {form.lower() for form in forms(name)}]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{sheet.name}: {metric!r} may be {' or '.join(found)}; write the whole name")
    raise UserError(
        f"{sheet.name} has no column {metric!r}.{did_you_mean(metric, candidates)} It has {', '.join(candidates)}."
    )


def _forms(name: str) -> set[str]:
    """Shorter spellings of a column."""
    bare = re.sub(r"\s*(\([A-Z]\)|\[[^\]]*\])$", "", name)
    return {bare, name.rpartition("/")[2], bare.rpartition("/")[2], re.sub(r"^(eval|test|val)_", "", bare)}


def last(sheet: Sheet, column: str) -> LogScore:
    """The last value of ``column``: empty cells belong to other rows.

    Raises:
        UserError: there is no such column or no value in it, or it is no finite number.
    """
    index, epochs = sheet.find(column), sheet.find("epoch")
    if index is None:
        raise UserError(f"{sheet.name} has no column {column!r}.{did_you_mean(column, sheet.columns)}")
    row = next((n for n in reversed(range(len(sheet.rows))) if not sheet.is_empty(n, index)), None)
    if row is None:
        raise UserError(f"{sheet.name}: no row has a value of {column}")
    known = epochs is not None and not sheet.is_empty(row, epochs)
    return LogScore(
        sheet.number(row, index), round(sheet.number(row, epochs)) if known and epochs is not None else None
    )
