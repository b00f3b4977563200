"""Open the images of a study again, and check that its saved networks belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade import tasks
from saccade.data import open_data
from saccade.errors import UserError
from saccade.recipe import short_repr
from saccade.saving import describe
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.tasks.base import Task
from saccade.training.fingerprint import fingerprint_with_val

__all__ = ["check_saved", "open_task", "task_of"]


def open_task(study: Study, name: str) -> Task:
    """Return the task ``name`` with the images of the study.

    Raises:
        UserError: the images are missing or have changed.
    """
    task_class = tasks.get(name)
    base = tasks.resolve(study.base, task_class.target)
    split = open_data(base.data, task_class.target)
    runs = (run for run in study.runs() if run.recipe.data == study.base.data)
    run_fingerprints = {done["fingerprint"] for run in runs if (done := run.done_record) and done.get("fingerprint")}
    if (other_fingerprints := run_fingerprints - {split.fingerprint}) and other_fingerprints != {
        fingerprint_with_val(split)
    }:
        raise UserError(f"the images in {study.base.data.source} changed since the runs were made")
    return task_class(base, split)


def task_of(study: Study, arm: Arm, seed: int, task: Task) -> Task:
    """Return the task of one run: ``task`` itself, or one with other images if the arm's settings say so.

    Raises:
        UserError: the images cannot be opened.
    """
    recipe = tasks.resolve(arm.recipe(study.base, seed), task.target)
    return task if recipe.data == task.recipe.data else type(task)(recipe, open_data(recipe.data, task.target))


def check_saved(folder: Path, classes: Sequence[str], size: Sequence[int]) -> None:
    """Raise UserError unless the network saved in ``folder`` is for these classes and images of this size (C, H, W)."""
    saved = describe(folder)
    for key, needed in (("classes", list(classes)), ("input", list(size))):
        if (saved[key] or []) != needed:
            raise UserError(
                f"{folder}/config.json: {key} is {short_repr(saved[key])}; that of the images is {short_repr(needed)}"
            )
