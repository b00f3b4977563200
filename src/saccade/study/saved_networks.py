"""Saved networks of a study's runs, with the images of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade.data import open_data
from saccade.errors import UserError
from saccade.recipe import short_repr
from saccade.saving import describe
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.tasks import resolve
from saccade.tasks.base import Task

__all__ = ["check_saved", "task_of"]


def task_of(study: Study, arm: Arm, seed: int, task: Task) -> Task:
    """Return the task of one run: ``task`` itself, or one with other images if the arm's settings say so.

    Raises:
        UserError: the images cannot be opened.
    """
    recipe = resolve(arm.recipe(study.base, seed), task.target)
    return task if recipe.data == task.recipe.data else type(task)(recipe, open_data(recipe.data, task.target))


def check_saved(folder: Path, classes: Sequence[str], size: Sequence[int]) -> None:
    """Raise UserError unless the network saved in ``folder`` is for these classes and images of this size (C, H, W)."""
    saved = describe(folder)
    for key, needed in (("classes", list(classes)), ("input", list(size))):
        if (saved[key] or []) != needed:
            raise UserError(
                f"{folder}/config.json: {key} is {short_repr(saved[key])}; that of the images is {short_repr(needed)}"
            )
