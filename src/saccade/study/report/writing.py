"""Write the results of a study, or of given scores, as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saccade import tasks
from saccade.data import open_data
from saccade.errors import UserError
from saccade.files import make_folders, write_atomically
from saccade.runfiles import read_epochs
from saccade.study.report.charts import assign_styles
from saccade.study.report.page import render_page
from saccade.study.report.sections.base import ReportContext
from saccade.study.report.table import to_latex, to_markdown
from saccade.training.fingerprint import fingerprint_with_val
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.plan import Study
    from saccade.study.results import StudyResults
    from saccade.tasks.base import Task

__all__ = ["json_text", "report_write_errors", "write_files", "write_page"]


@contextmanager
def report_write_errors(folder: str | Path) -> Iterator[None]:
    """Convert an OSError in the ``with`` block into a UserError that names ``folder``.

    Raises:
        UserError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror or error}") from None


def json_text(results: StudyResults) -> str:
    """Return the text of ``results.json``, in strict JSON."""
    return json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"


def write_files(results: StudyResults, folder: Path, trust: Trust = False) -> None:
    """Write ``results.json``, ``table.md``, ``table.tex`` and ``report.html`` into ``folder``, created if missing.

    Raises:
        UserError: a file cannot be written.
    """
    with report_write_errors(folder):
        make_folders(folder)
        write_atomically(folder / "results.json", json_text(results))
        write_atomically(folder / "table.md", to_markdown(results))
        write_atomically(folder / "table.tex", to_latex(results))
    write_page(results, folder / "report.html", trust)


def write_page(results: StudyResults, path: Path, trust: Trust = False) -> None:
    """Write the report as the HTML page ``path``.

    Raises:
        UserError: no run is done or diverged, or the page cannot be written.
    """
    if not any(run.status in ("done", "diverged") for run in results.runs):
        raise UserError(f"{results.name}: every run is missing or failed; there is nothing to report")
    with report_write_errors(path.parent):
        write_atomically(path, render_page(_context(results, trust)))


def _context(results: StudyResults, trust: Trust) -> ReportContext:
    styles = assign_styles([row.arm for row in results.arms], results.baseline)
    if results.study is None:
        return ReportContext(results, styles, {}, None, None, trust)
    rows_by_run = {
        run.folder: read_epochs(results.study.folder / run.folder / "metrics.jsonl")
        for run in results.runs
        if run.status == "done"
    }
    try:
        return ReportContext(results, styles, rows_by_run, _open_task(results.study, str(results.task)), None, trust)
    except UserError as error:
        return ReportContext(results, styles, rows_by_run, None, str(error), trust)


def _open_task(study: Study, name: str) -> Task:
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
