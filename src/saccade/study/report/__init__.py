"""Report of a study: an HTML page, a table in Markdown and LaTeX, and the numbers in JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from saccade.errors import UserError
from saccade.study.collecting import collect
from saccade.study.costs import measure_costs
from saccade.study.plan import Study
from saccade.study.report.writing import report_write_errors, write_files
from saccade.study.results import StudyResults
from saccade.trust import Trust

__all__ = ["write_report"]


def write_report(folder: str | Path, remeasure: bool = False, trust: Trust = False) -> StudyResults:
    """Write ``report.html``, ``table.md``, ``table.tex`` and ``results.json`` from the run folders of a study.

    Costs are measured once and cached in ``folder``. Other files are regenerated; the same runs give identical files.

    Args:
        folder: folder of a study.
        remeasure: True to measure all costs again.
        trust: True, or names such as ``my.module:Class`` that saved networks may import; see ``saccade.load``.

    Raises:
        UserError: ``folder`` holds no study, no run of it is finished, or the report cannot be written.
    """
    study = Study.open(folder)
    if not any(run.done_record for run in study.runs()):
        raise UserError(
            f"{folder}: no run of this study is finished ({len(study.runs())} planned); there is nothing to report"
        )
    with report_write_errors(folder):
        measure_costs(study.folder, remeasure=remeasure, trust=trust)
    results = replace(collect(study.folder), trust=trust)
    write_files(results, study.folder, trust)
    return results
