"""``saccade check``: does a mechanism keep its promises?"""

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
@click.option("--channels", default=64, show_default=True, type=click.IntRange(1), help="Channels of most trials.")
@click.option("--json", "as_json", is_flag=True, help="The records as JSON.")
def command(mechanism: str, channels: int, as_json: bool) -> None:
    """Try every promise of the contract on MECHANISM: a name, or package.module:Class of your own.

    Options are given as name:option=value. Exit code 1 if a promise is broken.
    """
    name, options = catalog.parse(mechanism)
    defaults = catalog.options(name)
    for key, value in options.items():
        if isinstance(value, list) and not isinstance(defaults.get(key), (list, tuple)):
            raise UserError(f"{key} = {value} gives one value per stage, and a mechanism alone has no stages; give one")
    # A class that states no SPEC has promised nothing, so no fact can be held against it.
    stated = catalog.declared_spec(name)

    from saccade.contract import PROMISES, examine

    make = catalog.load(name)
    with _progress([promise.__name__ for promise in PROMISES]) as shown:
        records = list(shown(examine(make, stated, channels=channels, options=options)))
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=2))
    else:
        meaning = {promise.__name__: (promise.__doc__ or "").strip().splitlines()[0] for promise in PROMISES}
        width = max(len(record.promise) for record in records)
        first: dict[str, str] = {}
        for record in records:
            words = record.reason or meaning[record.promise]
            if record.status == "failed" and first.setdefault(words, record.promise) != record.promise:
                words = f"as {_spoken(first[words])}"
            click.echo(f"{record.status}  {_spoken(record.promise).ljust(width)}  {words}")
        counts = {status: sum(r.status == status for r in records) for status in ("passed", "failed", "skipped")}
        click.echo(f"\n{mechanism}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if any(record.status == "failed" for record in records):
        click.get_current_context().exit(1)


@contextmanager
def _progress(promises: Sequence[str]) -> Iterator[Callable[[Iterable[Record]], Iterator[Record]]]:
    """A bar over the promises on a terminal, with the one that is being tried; silence elsewhere."""
    if not sys.stderr.isatty():
        yield iter
        return
    from rich.console import Console
    from rich.progress import Progress

    # This stream, whatever stands for stderr while torch talks.
    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(_spoken(promises[0]), total=len(promises))

        def shown(records: Iterable[Record]) -> Iterator[Record]:
            for done, record in enumerate(records, 1):
                bar.update(task, completed=done, description=_spoken(promises[min(done, len(promises) - 1)]))
                yield record

        yield shown


def _spoken(promise: str) -> str:
    return promise.replace("_", " ")
