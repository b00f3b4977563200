"""``saccade judge``: verdicts for scores that another trainer made."""

from __future__ import annotations

import re
from pathlib import Path

import click

from saccade.escaping import printable

__all__ = ["command"]

_COMMA = re.compile(r",(?![^\[\]]*\])")
"""One that parts names: not inside brackets, as in eca:kernel_size=[3,5]."""


@click.command("judge")
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@click.option(
    "--metric", metavar="NAME", help="The column of the scores.  [default: chosen by name; a note says which]"
)
@click.option("--baseline", default="none", show_default=True, help="The arm that the others are compared with.")
@click.option(
    "--controls",
    metavar="ARMS",
    default="",
    help="Arms that are controls, comma-separated; they are outside the correction.",
)
@click.option(
    "--lower-is-better/--higher-is-better",
    "lower",
    default=None,
    help="Which way is better.  [default: lower for losses and errors, by name]",
)
@click.option("--margin", type=float, help="Half-width of “equal”.  [default: a hundredth of the span]")
@click.option("--unit", metavar="TEXT", help="Unit of the scores, as %.  [default: by name and values]")
@click.option("--range", "bounds", type=float, nargs=2, metavar="LOW HIGH", help="Least and largest possible score.")
@click.option(
    "--trivial",
    type=float,
    metavar="SCORE",
    help="Score of an answer that needs no image; no arm is judged where the baseline is not better.",
)
@click.option("--out", metavar="FOLDER", help="Write report.html, table.md, table.tex and results.json there.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
def command(
    files: tuple[str, ...],
    metric: str | None,
    baseline: str,
    controls: str,
    lower: bool | None,
    margin: float | None,
    unit: str | None,
    bounds: tuple[float, float] | None,
    trivial: float | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Judge the scores of any trainer: which arm beats the baseline, by how much, and how sure that is.

    FILE is a CSV with the columns arm, seed, score (and image, group: a row a test image), or the log of one run:
    Ultralytics' results.csv, timm's summary.csv, Lightning's metrics.csv. Give one log a run; its folder says which it
    is (se-seed0/results.csv), or write ARM:SEED=FILE.
    """
    from saccade.study.judging import judge
    from saccade.study.report.writing import json_text, write_files

    results = judge(
        list(files),
        metric=metric,
        baseline=baseline,
        controls=[name.strip() for name in re.split(_COMMA, controls) if name.strip()],
        lower_is_better=lower,
        margin=margin,
        unit=unit,
        bounds=bounds,
        trivial=trivial,
    )
    if out is not None:
        write_files(results, Path(out))
    if as_json:
        click.echo(json_text(results), nl=False)
    else:
        from saccade.screen import Screen

        with Screen() as screen:
            screen.show(results)
    if out is not None:
        click.echo(f"\n{printable(Path(out) / 'report.html')}", err=as_json)
