"""``saccade report``: make a study's report again from its run folders."""

from __future__ import annotations

from pathlib import Path

import click

from saccade.cli import _trust
from saccade.escaping import printable

__all__ = ["command"]


@click.command("report")
@click.argument("study", metavar="STUDY_FOLDER")
@click.option("--open/--no-open", "show", default=False, show_default=True, help="Show the page in the web browser.")
@click.option("--remeasure", is_flag=True, help="Measure parameters, MACs and latency again, on this machine.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
def command(study: str, show: bool, remeasure: bool, trust: bool, as_json: bool) -> None:
    """Make report.html, table.md, table.tex and results.json of STUDY_FOLDER again from its run folders.

    A study that is not complete gets a report too; it names the runs that are missing.
    """
    from saccade.study.plan import Study

    Study.open(study)  # a wrong folder is refused before torch is imported
    from saccade.study.report import write_report

    write_report(study, remeasure=remeasure, trust=trust)
    path = Path(study) / "report.html"
    click.echo((path.parent / "results.json").read_text(encoding="utf-8").rstrip() if as_json else printable(path))
    if show:
        click.launch(path.resolve().as_uri())
