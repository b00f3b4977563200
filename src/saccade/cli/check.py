"""``saccade check``: test a mechanism against the contract, a list of properties called promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from saccade import catalog
from saccade.errors import UserError

if TYPE_CHECKING:
    from saccade.contract import Record

__all__ = ["command"]


@click.command("check")
@click.argument("mechanism")
@click.option(
    "--channels", default=64, show_default=True, type=click.IntRange(1), help="Number of channels in most trials."
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def command(mechanism: str, channels: int, as_json: bool) -> None:
    """Test MECHANISM against the contract, a list of properties (promises) that every mechanism must have.

    MECHANISM is a name, or package.module:Class of your own; options are added as name:option=value. A list with one
    value per stage is refused. The exit code is 1 if a promise is broken.
    """
    name, options = catalog.parse(mechanism)
    defaults = catalog.options(name)
    for key, value in options.items():
        if isinstance(value, list) and not isinstance(defaults.get(key), (list, tuple)):
            raise UserError(
                f"{key} = {value} gives one value per stage, but a mechanism alone has no stages; give a single value"
            )
    spec = catalog.declared_spec(name)

    from saccade.contract import PROMISES, examine

    mechanism_class = catalog.load(name)
    with _progress([promise.__name__ for promise in PROMISES]) as track:
        records = list(track(examine(mechanism_class, spec, channels=channels, options=options)))
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=2))
    else:
        summary_by_promise = {promise.__name__: (promise.__doc__ or "").strip().splitlines()[0] for promise in PROMISES}
        width = max(len(record.promise) for record in records)
        first_by_reason: dict[str, str] = {}
        for record in records:
            text = record.reason or summary_by_promise[record.promise]
            if record.status == "failed" and first_by_reason.setdefault(text, record.promise) != record.promise:
                text = f"same reason as {_with_spaces(first_by_reason[text])}"
            click.echo(f"{record.status}  {_with_spaces(record.promise).ljust(width)}  {text}")
        counts = {status: sum(r.status == status for r in records) for status in ("passed", "failed", "skipped")}
        click.echo(f"\n{mechanism}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if any(record.status == "failed" for record in records):
        click.get_current_context().exit(1)


@contextmanager
def _progress(promises: Sequence[str]) -> Iterator[Callable[[Iterable[Record]], Iterator[Record]]]:
    """Show a progress bar with the current promise on a terminal; show nothing elsewhere."""
    if not sys.stderr.isatty():
        yield iter
        return
    from rich.console import Console
    from rich.progress import Progress

    # Keep the current stderr: examine() replaces sys.stderr while torch prints.
    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(_with_spaces(promises[0]), total=len(promises))

        def track(records: Iterable[Record]) -> Iterator[Record]:
            for done, record in enumerate(records, 1):
                bar.update(task, completed=done, description=_with_spaces(promises[min(done, len(promises) - 1)]))
                yield record

        yield track


def _with_spaces(promise: str) -> str:
    return promise.replace("_", " ")
