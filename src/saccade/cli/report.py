"""``saccade report``: write the report of a study again from its run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from saccade.cli._trust import trust_option
from saccade.escaping import printable

if TYPE_CHECKING:
    from saccade.study.results import StudyResults

__all__ = ["command"]


@click.command("report")
@click.argument("study", metavar="STUDY_FOLDER")
@click.option(
    "--open/--no-open", "open_page", default=False, show_default=True, help="Open the page in the web browser."
)
@click.option("--remeasure", is_flag=True, help="Measure parameters, MACs and latency again on this machine.")
@click.option("--scores", metavar="FILE", help="Also write the score of every test image as CSV for saccade judge.")
@click.option("--cases", metavar="FOLDER", help="Also write one CSV per seed in the format of claims-reloaded.dkfz.de.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    study: str, open_page: bool, remeasure: bool, scores: str | None, cases: str | None, trust: bool, as_json: bool
) -> None:
    """Write report.html, table.md, table.tex and results.json of STUDY_FOLDER again from its run folders.

    The report of an incomplete study lists the missing runs.
    """
    from saccade.study.plan import Study

    Study.open(study)  # refuse a wrong folder before importing torch
    from saccade.study.report import write_report

    results = write_report(study, remeasure=remeasure, trust=trust)
    path = Path(study) / "report.html"
    click.echo((path.parent / "results.json").read_text(encoding="utf-8").rstrip() if as_json else printable(path))
    if scores is not None:
        _write_scores(results, scores)
    if cases is not None:
        _write_seed_csvs(results, cases)
    if open_page:
        click.launch(path.resolve().as_uri())


def _write_scores(results: StudyResults, file: str) -> None:
    from saccade.study.scores.exporting import has_image_scores

    results.scores(file)
    row_note = "one row per test image" if has_image_scores(results) else (
        f"one row per run: {results.metric.name} is not a mean of per-image values, so images have no scores"
    )  # fmt: skip
    click.echo(f"wrote {printable(file)}, {row_note}", err=True)


def _write_seed_csvs(results: StudyResults, folder: str) -> None:
    from saccade.study.scores.exporting import has_image_scores, image_metric

    paths, name = results.cases(folder), image_metric(results).name
    mean_note = (
        "" if has_image_scores(results) else f": the {name} of each image; their mean is not the {name} of the study"
    )
    click.echo(
        f"wrote {len(paths)} file{'s' * (len(paths) > 1)} into {printable(folder)}, one per seed{mean_note}", err=True
    )
