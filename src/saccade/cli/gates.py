"""``saccade gates``: draw the channel gates of a trained run by class."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from saccade.cli._trust import trust_option
from saccade.escaping import printable

__all__ = ["command"]


@click.command("gates")
@click.argument("run", metavar="RUN_FOLDER")
@click.option("--classes", metavar="LIST", help="Classes to draw, such as cat,dog; up to seven.  [default: first five]")
@click.option("--out", metavar="FILE", help="File of the page.  [default: RUN_FOLDER/gates.html]")
@click.option(
    "--open/--no-open", "open_page", default=False, show_default=True, help="Open the page in the web browser."
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the numbers and the mean gates as JSON.")
def command(run: str, classes: str | None, out: str | None, open_page: bool, trust: bool, as_json: bool) -> None:
    """Draw the mean gate of each class by channel, for every channel gate of the trained run RUN_FOLDER.

    For gates such as those of se and eca, plugged or part of the architecture. A table shows how far the classes, and
    the images of one class, differ, and which gates are saturated.
    """
    from saccade.explanation import class_gates
    from saccade.study.report.class_gates import check_class_count, write_class_gates

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    if names is not None:
        check_class_count(names)
    with _progress() as progress:
        gates = class_gates(run, trust=trust, progress=progress, needed_classes=names or ())
    path = Path(run) / "gates.html" if out is None else Path(out)
    write_class_gates(gates, path, names)
    click.echo(json.dumps(gates.to_json(), indent=1) if as_json else printable(path))
    if open_page:
        click.launch(path.resolve().as_uri())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows a bar of images on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("opening the run", total=None)
        yield lambda done, total: bars.update(task, description="reading gates", completed=done, total=total)
