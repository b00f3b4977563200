"""Check the image paths that a list file names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from saccade.imagefiles import resolve_inside

__all__ = ["check_inside"]


def check_inside(root: Path, names: Iterable[str], owner: str) -> None:
    """Raise unless every path in ``names`` stays below ``root``.

    Links are resolved once per folder, because lists hold many paths of few folders.

    Args:
        root: folder that must contain every path.
        names: paths relative to ``root``, with ``/``.
        owner: file that holds the paths, for the message.

    Raises:
        UserError: see :func:`saccade.imagefiles.resolve_inside`.
    """
    checked_folders = set()
    for name in names:
        folder = name.rpartition("/")[0]
        if folder not in checked_folders or ".." in name or "\0" in name:
            resolve_inside(root, name, owner)
            checked_folders.add(folder)
