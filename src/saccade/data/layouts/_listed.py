"""Names of images that a file lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from saccade.imagefiles import inside

__all__ = ["check_inside"]


def check_inside(root: Path, names: Iterable[str], owner: str) -> None:
    """Refuse names that lead out of ``root``; links are followed once for each folder, which lists of images need.

    Args:
        root: the folder that no path leaves.
        names: paths from ``root`` with ``/``.
        owner: the file that names them, for the message.

    Raises:
        UserError: as :func:`saccade.imagefiles.inside`.
    """
    folders = set()
    for name in names:
        folder = name.rpartition("/")[0]
        if folder not in folders or ".." in name or "\0" in name:
            inside(root, name, owner)
            folders.add(folder)
