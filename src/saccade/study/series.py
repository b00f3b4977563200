"""Runs of a study, one after another in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade import training
from saccade.events import Notify
from saccade.recipe import Recipe
from saccade.study.images import open_once
from saccade.trust import Trust

__all__ = ["train"]

_PATIENCE = 120.0
"""Seconds. A file system that nodes share takes up to 90 of them (the lease of NFS 4) to free the locks of a node that
was lost, which is longer than Ray takes to notice the loss."""


def train(recipe: Recipe, folder: str | Path, *, device: str, notify: Notify, trust: Trust = False) -> dict[str, Any]:
    """Do as :func:`saccade.training.train`; the images of the last run are at hand for the next.

    Raises:
        UserError: as there, once the run folder has been held by another process for two minutes.
    """
    return training.train(
        recipe, folder, device=device, notify=notify, opener=open_once, lock_timeout=_PATIENCE, trust=trust
    )
