"""``saccade list``: every mechanism on one line."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from saccade import catalog

__all__ = ["command"]


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="All facts of all mechanisms as JSON.")
def command(as_json: bool) -> None:
    """Every mechanism: year, kind, evidence, where its paper puts it."""
    specs = {name: catalog.spec(name) for name in catalog.list_mechanisms()}
    if as_json:
        click.echo(json.dumps({name: asdict(spec) for name, spec in specs.items()}, indent=2))
        return
    rows = [("name", "year", "kind", "evidence", "position", "title")]
    for name, spec in specs.items():
        year = str(spec.paper.year) if spec.paper else "–"
        rows.append((name, year, spec.kind, spec.evidence, spec.position["default"], spec.title))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("\nevidence: oracle = equal to the authors' code, paper = to the printed equations, reading = to ours")
