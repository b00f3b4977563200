"""The images of a study, read once by each process that trains on them."""

from __future__ import annotations

from typing import Any

from saccade.data import find_layout, open_data
from saccade.data.samples import Split
from saccade.events import Notify, ignore
from saccade.recipe import Data

__all__ = ["open_once"]

_last: tuple[tuple[Data, str, Any], Split] | None = None
"""What was opened last: one set of images at a time is kept in memory."""


def open_once(spec: Data, target: str, notify: Notify = ignore) -> Split:
    """As :func:`saccade.data.open_data`; asked for the same images again, read no file a second time.

    The same are those of one description whose files have kept their names, sizes and times of change: the checksums
    of ``Split.fingerprint`` would take reading every byte.

    Raises:
        UserError: as ``open_data``.
    """
    global _last
    wanted = spec, target, find_layout(spec, target).stamp(spec)
    if _last is None or _last[0] != wanted:
        _last = None  # first, so that two sets are never held at once
        _last = wanted, open_data(spec, target, notify)
    return _last[1]
