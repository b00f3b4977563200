"""``saccade list``: every mechanism on one line, and what each costs in a network."""

from __future__ import annotations

import json
from typing import Any

import click

from saccade import catalog
from saccade.specs import Spec
from saccade.tables import Table

__all__ = ["command"]


@click.command("list")
@click.option("--on", "model", metavar="MODEL", help="Also what each costs in this network, one of timm's or ours.")
@click.option("--input", "size", metavar="C,H,W", help="With --on: size of a picture.  [default: the network's own]")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="With --on: pictures of the step.")
@click.option("--json", "as_json", is_flag=True, help="All facts of all mechanisms as JSON.")
@click.pass_context
def command(ctx: click.Context, model: str | None, size: str | None, batch: int, as_json: bool) -> None:
    """Every mechanism: year, kind, evidence, where its paper puts it.

    With --on, each is put into MODEL where its paper puts it, with random weights, and timed by turns with the plain
    network: what it adds in parameters and MACs, and by how much it multiplies the latency of one picture, the peak
    memory of its forward, and that of a training step of --batch pictures.
    """
    specs = {name: catalog.spec(name) for name in catalog.list_mechanisms()}
    if model is not None:
        _on(specs, model, size, batch, as_json)
        return
    for option in ("size", "batch"):
        if ctx.get_parameter_source(option) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{'input' if option == 'size' else option} needs --on MODEL")
    if as_json:
        click.echo(json.dumps({name: spec.to_json() for name, spec in specs.items()}, indent=2))
        return
    rows = [("name", "year", "kind", "evidence", "position", "title")]
    for name, spec in specs.items():
        year = str(spec.paper.year) if spec.paper else "–"
        rows.append((name, year, spec.kind, spec.evidence, spec.position["default"], spec.title))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(
        "\nevidence: oracle = equal to the authors' code, port = to code by others, paper = to the printed equations, "
        "reading = to our reading"
    )
    for what, package in (("tasks", "tasks"), ("data layouts", "data.layouts"), ("architectures", "models")):
        click.echo(f"{what}: {', '.join(Table[object](f'saccade.{package}', what).names())}")


def _on(specs: dict[str, Spec], model: str, size: str | None, batch: int, as_json: bool) -> None:
    from rich.console import Console
    from rich.status import Status

    from saccade.cli._costs import costs
    from saccade.cli._network import size_of

    console = Console(stderr=True)
    found = costs(model, specs, None if size is None else size_of(size), batch=batch)
    rows: list[dict[str, Any]] = []
    wide = max(map(len, specs))
    with Status("", console=console) as status:
        for name in specs:
            status.update(f"{name} in {model} ({len(rows) + 1} of {len(specs)})")
            row = next(found)
            rows.append(row)
            if as_json:
                continue
            if "plain" in row and sum("plain" in each for each in rows) == 1:
                _head(model, row["plain"], wide)
            click.echo(f"{name.ljust(wide)}  {_line(row, batch)}")
    if as_json:
        click.echo(json.dumps([{**specs[row["mechanism"]].to_json(), **row} for row in rows], indent=2))


def _head(model: str, plain: dict[str, Any], wide: int) -> None:
    picture = "×".join(map(str, plain["input"]))
    threads = f"{plain['threads']} thread" + "s" * (plain["threads"] != 1)
    click.echo(
        f"{model} on {picture}, {plain['device']}, {threads}: {plain['parameters'] / 1e6:.3f} M parameters, "
        f"{plain['macs'] / 1e9:.3f} G MACs, {plain['latency_ms']['median']:.1f} ms, {plain['memory'] / 1e6:.1f} MB\n"
    )
    click.echo(
        f"{'name'.ljust(wide)}  sites  {'position':22}  {'parameters':>21}  {'MACs':>21}  latency  memory    step"
    )


def _line(row: dict[str, Any], batch: int) -> str:
    if "refused" in row:
        return f"refused: {row['refused']}"
    plain, step = row["plain"], row["step_memory"]
    cells = [
        f"{row['sites']:5}",
        ", ".join(row["positions"]).ljust(22),
        _added(row["parameters"], plain["parameters"], 1e6, "M"),
        _added(row["macs"], plain["macs"], 1e9, "G"),
        f"{row['latency']:6.2f}×",
        f"{row['memory']:5.2f}×",
        f"{'–' if step is None else f'{step:.2f}×':>6}",
    ]
    return "  ".join(cells)


def _added(value: int, base: int, unit: float, letter: str) -> str:
    """``+2.531 M (+9.9 %)``, 21 characters wide."""
    return f"{(value - base) / unit:+.3f} {letter} {f'({100 * (value / base - 1):+.1f} %)':>10}".rjust(21)
