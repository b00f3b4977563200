"""Open a finished run again: its recipe, result and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade import tasks
from saccade.data import open_data
from saccade.data.samples import Splits
from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.runfiles import read_done, read_recipe
from saccade.tasks.base import Task

__all__ = ["open_splits", "open_task", "read_finished_run"]


def read_finished_run(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return recipe.toml and done.json of the run in ``folder``.

    Raises:
        UserError: ``folder`` is no finished run; a study is refused with one of its runs.
    """
    recipe = read_recipe(folder / "recipe.toml") if folder.is_dir() else None
    done = read_done(folder / "done.json") if recipe is not None else None
    if recipe is None or done is None:
        what = "is not a folder" if not folder.is_dir() else "holds no finished run"
        of_study = sorted(path.parent for path in folder.glob("*/seed*/done.json"))
        hint = f". It is a study; name one of its runs, such as {of_study[-1]}" if of_study else ""
        raise UserError(f"{folder} {what}; the folder of a run that ended has recipe.toml and done.json{hint}")
    return recipe, done


def open_splits(folder: Path, recipe: Recipe, done: dict[str, Any]) -> Splits:
    """Return the images of the run in ``folder``.

    Raises:
        UserError: they are missing, or have changed since the run was made.
    """
    from saccade.training.fingerprint import fingerprint_with_val  # imports lightning

    target = tasks.get(done["task"]).target
    splits = open_data(tasks.resolve(recipe, target).data, target)
    known = done.get("fingerprint")
    if known and known != splits.fingerprint and known != fingerprint_with_val(splits):
        raise UserError(f"{folder}: the images in {recipe.data.source} have changed since the run was made")
    return splits


def open_task(folder: Path, recipe: Recipe, done: dict[str, Any]) -> Task:
    """Return the task of the run in ``folder`` with its images; errors are those of ``open_splits``."""
    task_class = tasks.get(done["task"])
    return task_class(tasks.resolve(recipe, task_class.target), open_splits(folder, recipe, done))
