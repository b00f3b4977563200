"""The images of a study, read once by each process that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from saccade.data import Split, open_data
from saccade.data.survey import survey
from saccade.imagefiles import located
from saccade.recipe import Data

__all__ = ["open_once"]

_Stamp = tuple[tuple[str, int, int], ...]
_last: tuple[Data, _Stamp, Split] | None = None
"""What was opened last: one set of images at a time is kept in memory."""


def open_once(spec: Data, notify: Callable[[dict[str, Any]], None] | None = None) -> Split:
    """As :func:`saccade.data.open_data`; asked for the same images again, it reads no file a second time.

    The same are those of one description whose files have kept their names, sizes and times of change, which their
    folders tell without an image being opened: the checksums of ``Split.fingerprint`` would take reading every byte.

    Raises:
        UserError: as ``open_data``.
    """
    global _last
    stamp = _stamp(spec)
    if _last is None or _last[:2] != (spec, stamp):
        _last = None  # first, so that two sets are never held at once
        _last = spec, stamp, open_data(spec, notify)
    return _last[2]


def _stamp(spec: Data) -> _Stamp:
    """What changes when a file of ``spec`` does; nothing where they are drawn."""
    if spec.source == "digits":
        return ()
    seen = survey(located(spec.source))
    return tuple(_facts(path) for classes in seen.parts.values() for paths in classes.values() for path in paths)


def _facts(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:  # a link to nowhere; whether it may be is for ``open_data`` to say
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns
