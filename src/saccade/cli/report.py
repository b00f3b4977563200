"""``saccade report``: make a study's report again from its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from saccade.cli import _trust
from saccade.escaping import printable

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["command"]


@click.command("report")
@click.argument("study", metavar="STUDY_FOLDER")
@click.option("--open/--no-open", "show", default=False, show_default=True, help="Show the page in the web browser.")
@click.option("--remeasure", is_flag=True, help="Measure parameters, MACs and latency again, on this machine.")
@click.option("--scores", metavar="FILE", help="Also write the score of every test image as CSV, for saccade judge.")
@click.option("--cases", metavar="FOLDER", help="Also write a CSV a seed in the form that Claims Reloaded reads.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
def command(
    study: str, show: bool, remeasure: bool, scores: str | None, cases: str | None, trust: bool, as_json: bool
) -> None:
    """Make report.html, table.md, table.tex and results.json of STUDY_FOLDER again from its run folders.

    A study that is not complete gets a report too; it names the runs that are missing.
    """
    from saccade.study.plan import Study

    Study.open(study)  # a wrong folder is refused before torch is imported
    from saccade.study.report import write_report

    results = write_report(study, remeasure=remeasure, trust=trust)
    path = Path(study) / "report.html"
    click.echo((path.parent / "results.json").read_text(encoding="utf-8").rstrip() if as_json else printable(path))
    if scores is not None:
        _write_scores(results, scores)
    if cases is not None:
        _write_cases(results, cases)
    if show:
        click.launch(path.resolve().as_uri())


def _write_scores(results: StudyResults, file: str) -> None:
    from saccade.study.scores.exporting import has_images

    results.scores(file)
    what = "a row a test image" if has_images(results) else (
        f"a row a run: {results.metric.name} is no mean of per-image values, so none are written"
    )  # fmt: skip
    click.echo(f"wrote {printable(file)}, {what}", err=True)


def _write_cases(results: StudyResults, folder: str) -> None:
    from saccade.study.scores.exporting import case_metric, has_images

    made, name = results.cases(folder), case_metric(results).name
    what = "" if has_images(results) else f": each image's {name} by itself; their mean is not the study's {name}"
    click.echo(f"wrote {len(made)} file{'s' * (len(made) > 1)} into {printable(folder)}, one a seed{what}", err=True)
