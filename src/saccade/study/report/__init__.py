"""The report of a study: one page that stands alone, a table as Markdown and as LaTeX, and the numbers as JSON."""

from __future__ import annotations

from pathlib import Path

from saccade import tasks
from saccade.data import open_data
from saccade.errors import UserError
from saccade.files import write_atomically
from saccade.runfiles import read_epochs
from saccade.study.costs import measure_costs
from saccade.study.plan import Study
from saccade.study.report.charts import styles
from saccade.study.report.page import page
from saccade.study.report.sections.base import Context
from saccade.study.report.table import latex, markdown
from saccade.study.results import StudyResults, write_results
from saccade.tasks.base import Task
from saccade.training.fingerprint import with_val
from saccade.trust import Trust

__all__ = ["write_report"]


def write_report(folder: str | Path, remeasure: bool = False, trust: Trust = False) -> StudyResults:
    """Make ``report.html``, ``table.md``, ``table.tex`` and ``results.json`` from the run folders of a study.

    Costs are measured once and kept; everything else is made anew, the same bytes as long as the runs are the same.

    Args:
        folder: a study.
        remeasure: measure all costs again.
        trust: what the saved networks may name besides the catalogue; see ``saccade.load``.

    Raises:
        UserError: ``folder`` holds no study, no run of it is finished, or it cannot be written.
    """
    study = Study.open(folder)
    if not any(run.finished for run in study.runs()):
        raise UserError(
            f"{folder}: no run of this study is finished ({len(study.runs())} planned); there is nothing to report"
        )
    try:
        measure_costs(study.folder, again=remeasure, trust=trust)
        results = write_results(study.folder)
        write_atomically(study.folder / "table.md", markdown(results))
        write_atomically(study.folder / "table.tex", latex(results))
        write_atomically(study.folder / "report.html", page(_context(results, trust)))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror or error}") from None
    return results


def _context(results: StudyResults, trust: Trust) -> Context:
    study = results.study
    epochs = {
        run.folder: read_epochs(study.folder / run.folder / "metrics.jsonl")
        for run in results.runs
        if run.status == "done"
    }
    task, missing = None, None
    try:
        task = _task(results)
    except UserError as error:
        missing = str(error)
    return Context(results, styles(study.arms), epochs, task, missing, trust)


def _task(results: StudyResults) -> Task:
    """The task with the images of the study.

    Raises:
        UserError: they are no longer where the recipe says, or no longer the same.
    """
    study, kind = results.study, tasks.get(results.task)
    base = tasks.resolved(study.base, kind.target)
    split = open_data(base.data, kind.target)
    same = (run for run in study.runs() if run.recipe.data == study.base.data)
    of_runs = {done["fingerprint"] for run in same if (done := run.finished) and done.get("fingerprint")}
    if (others := of_runs - {split.fingerprint}) and others != {with_val(split)}:
        raise UserError(f"the images in {study.base.data.source} changed since the runs were made")
    return kind(base, split)
