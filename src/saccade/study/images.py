"""Data sets of a study, read once per process."""

from __future__ import annotations

from typing import Any

from saccade.data import find_layout, open_data
from saccade.data.samples import Splits
from saccade.events import Notify, ignore
from saccade.recipe import Data

__all__ = ["open_once"]

_last: tuple[tuple[Data, str, Any], Splits] | None = None
"""Key and images of the last opened data set; only one data set is kept in memory."""


def open_once(spec: Data, target: str, notify: Notify = ignore) -> Splits:
    """Return the images of ``open_data``; repeat the last result if settings and files are unchanged.

    Files are unchanged if their names, sizes and modification times are.

    Raises:
        UserError: the data cannot be opened; see :func:`saccade.data.open_data`.
    """
    global _last
    key = spec, target, find_layout(spec, target).stamp(spec)
    if _last is None or _last[0] != key:
        _last = None  # to free memory before the next data set
        _last = key, open_data(spec, target, notify)
    return _last[1]
