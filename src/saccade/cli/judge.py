"""``saccade judge``: compare arms by scores that any training program wrote."""

from __future__ import annotations

import re
from pathlib import Path

import click

from saccade.escaping import printable

__all__ = ["command"]

_TOP_LEVEL_COMMA = re.compile(r",(?![^\[\]]*\])")
"""Comma outside brackets; eca:kernel_size=[3,5] is one name."""


@click.command("judge")
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@click.option("--metric", metavar="NAME", help="Column of the scores.  [default: chosen by name, and reported]")
@click.option("--baseline", default="none", show_default=True, help="Arm that the others are compared with.")
@click.option(
    "--controls",
    metavar="ARMS",
    default="",
    help="Arms that are controls, comma-separated; the multiple-comparison correction excludes them.",
)
@click.option(
    "--lower-is-better/--higher-is-better",
    "lower_is_better",
    default=None,
    help="Direction of the metric.  [default: by name; lower for losses and errors]",
)
@click.option(
    "--margin", type=float, help="Largest difference that counts as equal.  [default: 1 % of the range of the metric]"
)
@click.option("--unit", metavar="TEXT", help="Unit of the scores, such as %.  [default: by name and values]")
@click.option("--range", "bounds", type=float, nargs=2, metavar="LOW HIGH", help="Smallest and largest possible score.")
@click.option(
    "--trivial",
    type=float,
    metavar="SCORE",
    help="Score of a constant prediction. If the baseline is not better, no arm is judged.",
)
@click.option("--out", metavar="FOLDER", help="Folder for report.html, table.md, table.tex and results.json.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    files: tuple[str, ...],
    metric: str | None,
    baseline: str,
    controls: str,
    lower_is_better: bool | None,
    margin: float | None,
    unit: str | None,
    bounds: tuple[float, float] | None,
    trivial: float | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Judge scores of any training program: which arm beats the baseline, by how much, and with what certainty.

    FILE is a CSV with the columns arm, seed and score (optionally also image and group, with one row per test image),
    or the log of one run: Ultralytics' results.csv, timm's summary.csv, Lightning's metrics.csv. Give one log per run;
    its folder names arm and seed (se-seed0/results.csv), or write ARM:SEED=FILE.
    """
    from saccade.study.judging import judge
    from saccade.study.report.writing import json_text, write_files

    results = judge(
        list(files),
        metric=metric,
        baseline=baseline,
        controls=[name.strip() for name in re.split(_TOP_LEVEL_COMMA, controls) if name.strip()],
        lower_is_better=lower_is_better,
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
