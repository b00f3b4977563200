"""Write the results of a study, or of judged scores, as files."""

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
from saccade.study.report.charts import styles
from saccade.study.report.page import page
from saccade.study.report.sections.base import Context
from saccade.study.report.table import latex, markdown
from saccade.training.fingerprint import fingerprint_with_val
from saccade.trust import Trust

if TYPE_CHECKING:
    from saccade.study.plan import Study
    from saccade.study.results import StudyResults
    from saccade.tasks.base import Task

__all__ = ["cannot_write", "json_text", "write_files", "write_page"]


@contextmanager
def cannot_write(place: str | Path) -> Iterator[None]:
    """Turn an OSError inside into a UserError that names ``place``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write the report into {place}: {error.strerror or error}") from None


def json_text(results: StudyResults) -> str:
    """The text of ``results.json``: strict JSON."""
    return json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"


def write_files(results: StudyResults, folder: Path, trust: Trust = False) -> None:
    """Write ``results.json``, ``table.md``, ``table.tex`` and ``report.html`` into ``folder``, made if missing.

    Raises:
        UserError: it cannot be written.
    """
    with cannot_write(folder):
        make_folders(folder)
        write_atomically(folder / "results.json", json_text(results))
        write_atomically(folder / "table.md", markdown(results))
        write_atomically(folder / "table.tex", latex(results))
    write_page(results, folder / "report.html", trust)


def write_page(results: StudyResults, path: Path, trust: Trust = False) -> None:
    """Write the report as the HTML page ``path``.

    Raises:
        UserError: no run has ended yet, or it cannot be written.
    """
    if not any(run.status in ("done", "diverged") for run in results.runs):
        raise UserError(f"{results.name}: no run of this study is finished; there is nothing to report")
    with cannot_write(path.parent):
        write_atomically(path, page(_context(results, trust)))


def _context(results: StudyResults, trust: Trust) -> Context:
    drawn = styles([row.arm for row in results.arms], results.baseline)
    if results.study is None:
        return Context(results, drawn, {}, None, None, trust)
    epochs = {
        run.folder: read_epochs(results.study.folder / run.folder / "metrics.jsonl")
        for run in results.runs
        if run.status == "done"
    }
    try:
        return Context(results, drawn, epochs, _task(results.study, str(results.task)), None, trust)
    except UserError as error:
        return Context(results, drawn, epochs, None, str(error), trust)


def _task(study: Study, name: str) -> Task:
    """The task ``name`` with the images of the study.

    Raises:
        UserError: they are no longer where the recipe says, or no longer the same.
    """
    kind = tasks.get(name)
    base = tasks.resolved(study.base, kind.target)
    split = open_data(base.data, kind.target)
    same = (run for run in study.runs() if run.recipe.data == study.base.data)
    of_runs = {done["fingerprint"] for run in same if (done := run.finished) and done.get("fingerprint")}
    if (others := of_runs - {split.fingerprint}) and others != {fingerprint_with_val(split)}:
        raise UserError(f"the images in {study.base.data.source} changed since the runs were made")
    return kind(base, split)
