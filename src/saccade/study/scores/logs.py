"""Logs of other trainers, one file per run and one row per epoch.

Supported files are Ultralytics' ``results.csv`` (names may be padded with spaces), timm's
``summary.csv``, Lightning's ``metrics.csv`` (training or validation cells are empty), and any other file with a column
``epoch``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.errors import UserError, did_you_mean
from saccade.study.scores.column_metric import is_bounded_score, is_loss, name_words
from saccade.study.scores.sheet import Sheet

__all__ = ["LogScore", "choose_column", "is_log", "last_score", "match_column"]

_ULTRALYTICS_COLUMNS = (
    "metrics/mAP50-95(M)", "metrics/mAP50-95(P)", "metrics/mAP50-95(B)", "metrics/mAP_0.5:0.95",
    "metrics/accuracy_top1",
)  # fmt: skip
"""Preferred columns of Ultralytics; masks and key points come before boxes."""
_TIME_COLUMNS = ("epoch", "step", "time")
"""Columns that count time or steps."""
_HELD_OUT_WORDS = {"metrics", "eval", "val", "valid", "validation", "test"}
"""Words that mark a column as a score on held-out images."""


@dataclass(frozen=True)
class LogScore:
    """Score of a run and the epoch of the score; the epoch is None if unknown."""

    score: float
    epoch: int | None


def is_log(sheet: Sheet) -> bool:
    """Return True if ``sheet`` has a column ``epoch``, and not both ``arm`` and ``seed``."""
    names = {name.lower() for name in sheet.columns}
    return "epoch" in names and not {"arm", "seed"} <= names


def choose_column(sheet: Sheet) -> str:
    """Return the name of the score column, chosen by words in the column names.

    Raises:
        UserError: no column can be chosen.
    """
    names = sheet.columns
    for name in _ULTRALYTICS_COLUMNS:
        if name in names:
            return name
    held_out = [name for name in names if _HELD_OUT_WORDS & set(name_words(name)) and not name.endswith("_step")]
    test_columns = [name for name in held_out if "test" in name_words(name)]
    for candidates in (test_columns, held_out):
        for is_wanted in (is_bounded_score, lambda name: not is_loss(name), is_loss):
            if columns := [name for name in candidates if is_wanted(name)]:
                return columns[0]
    others = [name for name in names if name.lower() not in _TIME_COLUMNS]
    raise UserError(f"{sheet.name}: name the column of the scores with --metric: {', '.join(others)}")


def match_column(sheet: Sheet, metric: str, candidates: Sequence[str]) -> str:
    """Return the column that is called ``metric``, in full or without prefix (``metrics/``) or suffix (``(B)``).

    Raises:
        UserError: no column matches (the message suggests similar names), or several do.
    """
    lower_name = metric.strip().lower()
    for spellings_of in (lambda name: {name}, _short_names):
        columns = [name for name in candidates if lower_name in {spelling.lower() for spelling in spellings_of(name)}]
        if len(columns) == 1:
            return columns[0]
        if columns:
            raise UserError(f"{sheet.name}: {metric!r} may be {' or '.join(columns)}; write the whole name")
    raise UserError(
        f"{sheet.name} has no column {metric!r}.{did_you_mean(metric, candidates)} It has {', '.join(candidates)}."
    )


def _short_names(name: str) -> set[str]:
    """Return the short forms of a column name: without prefix, without suffix, and without both."""
    without_suffix = re.sub(r"\s*(\([A-Z]\)|\[[^\]]*\])$", "", name)
    return {
        without_suffix,
        name.rpartition("/")[2],
        without_suffix.rpartition("/")[2],
        re.sub(r"^(eval|test|val)_", "", without_suffix),
    }


def last_score(sheet: Sheet, column: str) -> LogScore:
    """Return the last value of ``column``, ignoring empty cells.

    Raises:
        UserError: the column is missing, has no value, or its last value is not a finite number.
    """
    index, epochs = sheet.index_of(column), sheet.index_of("epoch")
    if index is None:
        raise UserError(f"{sheet.name} has no column {column!r}.{did_you_mean(column, sheet.columns)}")
    row = next((n for n in reversed(range(len(sheet.rows))) if not sheet.is_empty(n, index)), None)
    if row is None:
        raise UserError(f"{sheet.name}: no row has a value of {column}")
    has_epoch = epochs is not None and not sheet.is_empty(row, epochs)
    return LogScore(
        sheet.number(row, index), round(sheet.number(row, epochs)) if has_epoch and epochs is not None else None
    )
