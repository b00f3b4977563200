"""Check the image paths that a list file names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from saccade.imagefiles import resolve_inside

__all__ = ["check_inside"]


def check_inside(root: Path, paths: Iterable[str], file_name: str) -> None:
    """Raise UserError unless all ``paths`` stay below ``root``; see :func:`saccade.imagefiles.resolve_inside`.

    Symbolic links are resolved once per folder, because lists hold many paths of few folders.

    Args:
        root: folder that must contain every path.
        paths: paths relative to ``root``, with ``/``.
        file_name: file that holds the paths, for the message.
    """
    checked_folders = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in checked_folders or ".." in path or "\0" in path:
            resolve_inside(root, path, file_name)
            checked_folders.add(folder)
