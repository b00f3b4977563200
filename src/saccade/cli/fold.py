"""``saccade fold``: fold the gates that a trained run does not need into its host."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from saccade.cli._trust import trust_option
from saccade.escaping import printable

if TYPE_CHECKING:
    from saccade.explanation.folding import FoldedRun

__all__ = ["command"]


@click.command("fold")
@click.argument("run", metavar="RUN_FOLDER")
@click.option(
    "--margin", type=float, metavar="POINTS", help="Largest loss of the score.  [default: the margin of the metric]"
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Largest number of training images for the mean gates.",
)
@click.option("--sites", metavar="LIST", help="Sites that may be folded, such as layer1*,layer2.0.bn2.  [default: all]")
@click.option("--out", metavar="FOLDER", help="Folder of the folded network.  [default: RUN_FOLDER/folded]")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    run: str, margin: float | None, images: int, sites: str | None, out: str | None, trust: bool, as_json: bool
) -> None:
    """Fold the channel gates that the trained run RUN_FOLDER does not need into its host.

    Each gate is held at its mean over training images. While the score loses at most the margin, the cheapest next one
    is multiplied into the convolution or norm beside it, and its plug is removed. The network is written to a folder
    that saccade.load opens.
    """
    from saccade.explanation.folding import fold_run

    patterns = None if sites is None else [site.strip() for site in sites.split(",") if site.strip()]
    with _progress() as progress:
        result = fold_run(run, out, margin=margin, images=images, sites=patterns, trust=trust, progress=progress)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
        return
    for line in _lines(result):
        click.echo(line)


def _lines(result: FoldedRun) -> Iterator[str]:
    """Yield the table of sites, the scores and the costs."""
    metric = result.metric
    rows = [("site", "outcome", "cost alone", "")]
    for site in result.sites:
        cost = "" if site.cost is None else f"{site.cost:+.{metric.digits}f}"
        rows.append((printable(site.site), site.outcome, cost, printable(site.into or site.reason)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        yield f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
    yield ""
    unit = f" {metric.difference_unit}".rstrip()
    n_folded = sum(site.outcome == "folded" for site in result.sites)
    yield (
        f"{n_folded} of {len(result.sites)} gates folded; margin {result.margin:g}{unit} of {metric.name}, means over "
        f"{result.n_training} training images, chosen on {result.n_choosing} {result.chosen_on} images"
    )
    scores = ", ".join(f"{metric.format(result.scores[key])} {key}" for key in ("own", "held", "folded"))
    yield f"{metric.name} on {result.n_test} test images: {scores}"
    if result.chosen_on == "test" and n_folded:
        yield "The data have no validation images, so the loss on new images is likely to be larger."
    for name, (before, after) in (("MACs", result.macs), ("parameters", result.parameters)):
        yield f"{name}: {before:,} before, {after:,} after"
    yield "nothing is written" if result.folder is None else printable(result.folder)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows a bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("opening the run", total=None)
        yield lambda text, done, total: bars.update(task, description=text, completed=done, total=total)
