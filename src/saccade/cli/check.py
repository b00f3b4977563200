"""``saccade check``: does a mechanism keep its promises?"""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from saccade import catalog

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
    # A class that states no SPEC has promised nothing, so no fact can be held against it.
    stated = catalog.stated(name)

    from saccade.contract import PROMISES, check

    make = catalog.load(name)
    records = check(make, stated, channels=channels, options=options)
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=2))
    else:
        meaning = {promise.__name__: (promise.__doc__ or "").strip() for promise in PROMISES}
        width = max(len(record.promise) for record in records)
        for record in records:
            told = record.reason or meaning[record.promise]
            click.echo(f"{record.status}  {record.promise.replace('_', ' ').ljust(width)}  {told}")
        counts = {status: sum(r.status == status for r in records) for status in ("passed", "failed", "skipped")}
        click.echo(f"\n{mechanism}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if any(record.status == "failed" for record in records):
        click.get_current_context().exit(1)
