"""The report of a study: one page that stands alone, a table as Markdown and as LaTeX, and the numbers as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saccade.data import open_data
from saccade.errors import UserError
from saccade.escaping import printable
from saccade.study.plan import Study, write_atomically
from saccade.study.report.page import contents
from saccade.study.report.pictures import examples
from saccade.study.report.table import latex, markdown
from saccade.study.results import measure_costs, write_results
from saccade.trust import Trust

__all__ = ["write_report"]


def write_report(folder: str | Path, remeasure: bool = False, trust: Trust = False) -> Path:
    """Make ``report.html``, ``table.md``, ``table.tex`` and ``results.json`` from the run folders of a study.

    What an arm costs is measured once and kept; everything else is made anew, and comes out the same as long as the
    runs are. Runs that are missing, failed or diverged are named.

    Args:
        folder: a study.
        remeasure: measure all costs again.
        trust: what the saved networks may name besides the catalogue; see ``saccade.load``.

    Returns:
        The path of ``report.html``.

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
        write_atomically(study.folder / "report.html", _html(study, results, trust))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror or error}") from None
    return study.folder / "report.html"


def _shown(value: Any) -> Any:
    """What a page shows for a value of its template: text without control characters."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _html(study: Study, results: dict[str, Any], trust: Trust) -> str:
    """The page. Images that are no longer where the recipe says, or no longer the same, cost it its pictures only."""
    split, shown, reason = None, None, None
    try:
        found = open_data(study.base.data)
        of_runs = {done["fingerprint"] for run in study.runs() if (done := run.finished) and "fingerprint" in done}
        if of_runs - {found.fingerprint}:
            raise UserError(f"the images in {study.base.data.source} changed since the runs were made")
        split, shown = found, examples(study, found, trust)
    except UserError as error:
        reason = str(error)
    environment = Environment(
        loader=PackageLoader("saccade.study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        finalize=_shown,
    )
    return environment.get_template("report.html.j2").render(contents(study, results, split, shown, reason))
