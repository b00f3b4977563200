"""Training of one run of a study in a process that trains several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade import training
from saccade.events import Notify
from saccade.recipe import Recipe
from saccade.study.images import open_once
from saccade.trust import Trust

__all__ = ["train_run"]

_LOCK_TIMEOUT_S = 120.0
"""Seconds to wait for the lock of a run folder; NFS 4 may take 90 s to free the locks of a lost node."""


def train_run(
    recipe: Recipe, folder: str | Path, *, device: str, notify: Notify, trust: Trust = False
) -> dict[str, Any]:
    """Train one run, reusing the images of the previous run; arguments and result as in :func:`saccade.training.train`.

    Raises:
        UserError: the training cannot start, or another process has locked the run folder for two minutes.
    """
    return training.train(
        recipe, folder, device=device, notify=notify, opener=open_once, lock_timeout=_LOCK_TIMEOUT_S, trust=trust
    )
