"""Write the results of a study, or of given scores, as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.errors import UserError
from saccade.files import make_folders, write_atomically
from saccade.runfiles import read_epochs
from saccade.study.gate_costs import gates_of_results
from saccade.study.opening import open_task
from saccade.study.report.charts import assign_styles
from saccade.study.report.page import render_page
from saccade.study.report.sections.base import ReportContext
from saccade.study.report.table import to_latex, to_markdown
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

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

    If networks have gates, their costs are written as ``constant_gates.json``.

    Raises:
        UserError: a file cannot be written.
    """
    with report_write_errors(folder):
        make_folders(folder)
        write_atomically(folder / "results.json", json_text(results))
        write_atomically(folder / "table.md", to_markdown(results))
        write_atomically(folder / "table.tex", to_latex(results))
    context = _write_page(results, folder / "report.html", trust)
    path = folder / "constant_gates.json"
    with report_write_errors(folder):
        if context.gates:
            text = json.dumps([arm.to_json() for arm in context.gates], indent=1, allow_nan=False)
            write_atomically(path, f"{text}\n")
        else:
            path.unlink(missing_ok=True)


def write_page(results: StudyResults, path: Path, trust: Trust = False) -> None:
    """Write the report as the HTML page ``path``.

    Raises:
        UserError: no run is done or diverged, or the page cannot be written.
    """
    _write_page(results, path, trust)


def _write_page(results: StudyResults, path: Path, trust: Trust) -> ReportContext:
    if not any(run.status in ("done", "diverged") for run in results.runs):
        raise UserError(f"{results.name}: every run is missing or failed; there is nothing to report")
    with report_write_errors(path.parent):
        context = _context(results, trust)
        write_atomically(path, render_page(context))
    return context


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
        task = open_task(results.study, str(results.task))
    except UserError as error:
        return ReportContext(results, styles, rows_by_run, None, str(error), trust)
    context = ReportContext(results, styles, rows_by_run, task, None, trust)
    try:
        return replace(context, gates=gates_of_results(results, task, trust))
    except UserError as error:
        return replace(context, gates_error=str(error))
