"""Open the images of a study again."""

from __future__ import annotations

from saccade import tasks
from saccade.data import open_data
from saccade.errors import UserError
from saccade.study.plan import Study
from saccade.tasks.base import Task
from saccade.training.fingerprint import fingerprint_with_val

__all__ = ["open_task"]


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
