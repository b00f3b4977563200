"""``saccade list``: list all mechanisms, and their costs in a network."""

from __future__ import annotations

import json
from typing import Any

import click

from saccade import catalog
from saccade.architecture_files import architectures
from saccade.registry import Registry
from saccade.specs import Spec

__all__ = ["command"]


@click.command("list")
@click.option("--on", "model", metavar="MODEL", help="Also measure the cost of each mechanism in this timm model.")
@click.option("--input", "size", metavar="C,H,W", help="With --on: image size.  [default: the network's own]")
@click.option(
    "--batch", default=8, show_default=True, type=click.IntRange(1), help="With --on: batch size for the column step."
)
@click.option("--architectures", "networks", is_flag=True, help="List the networks of Saccade instead.")
@click.option("--json", "as_json", is_flag=True, help="Print all facts as JSON.")
@click.pass_context
def command(ctx: click.Context, model: str | None, size: str | None, batch: int, networks: bool, as_json: bool) -> None:
    """List every mechanism with its year, kind, evidence and position.

    With --on, insert each mechanism into MODEL at the position of its paper, with random weights, and time it in
    alternation with the plain network. Columns: added parameters and MACs, and the ratios of latency and peak memory of
    a forward pass of one image, and of peak memory of a training step with --batch images.
    """
    if networks:
        if model is not None:
            raise click.UsageError("--architectures and --on exclude each other")
        _print_architectures(as_json)
        return
    specs = {name: catalog.spec(name) for name in catalog.list_mechanisms()}
    if model is not None:
        _print_costs(specs, model, size, batch, as_json)
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
        rows.append((name, year, spec.kind, spec.evidence, spec.positions("default")[0], spec.title))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(
        "\nevidence: oracle = equals the authors' code, port = equals other code, "
        "paper = follows the printed equations, reading = our interpretation of the text"
    )
    for label, package in (("tasks", "tasks"), ("data layouts", "data.layouts"), ("architectures", "models")):
        click.echo(f"{label}: {', '.join(Registry[object](f'saccade.{package}', label).names())}")
    click.echo("`saccade list --architectures` names the networks of each.")


def _print_architectures(as_json: bool) -> None:
    found = architectures()
    if as_json:
        click.echo(
            json.dumps({name: {"file": entry.file, "title": entry.title} for name, entry in found.items()}, indent=2)
        )
        return
    width = max(map(len, found))
    for name, entry in found.items():
        click.echo(f"{name.ljust(width)}  {entry.title}")
    click.echo("\n`saccade show NAME` prints layout, source and options.")


def _print_costs(specs: dict[str, Spec], model: str, size: str | None, batch: int, as_json: bool) -> None:
    from rich.console import Console
    from rich.status import Status

    from saccade.cli._costs import costs
    from saccade.cli._network import parse_input_size

    console = Console(stderr=True)
    cost_rows = costs(model, specs, None if size is None else parse_input_size(size), batch=batch)
    rows: list[dict[str, Any]] = []
    name_width = max(map(len, specs))
    with Status("", console=console) as status:
        for name in specs:
            status.update(f"{name} in {model} ({len(rows) + 1} of {len(specs)})")
            row = next(cost_rows)
            rows.append(row)
            if as_json:
                continue
            if "plain" in row and sum("plain" in cost_row for cost_row in rows) == 1:
                _print_header(model, row["plain"], name_width)
            click.echo(f"{name.ljust(name_width)}  {_format_row(row, batch)}")
    if as_json:
        click.echo(json.dumps([{**specs[row["mechanism"]].to_json(), **row} for row in rows], indent=2))


def _print_header(model: str, plain: dict[str, Any], name_width: int) -> None:
    input_shape = "×".join(map(str, plain["input"]))
    threads = f"{plain['threads']} thread" + "s" * (plain["threads"] != 1)
    click.echo(
        f"{model} on {input_shape}, {plain['device']}, {threads}: {plain['parameters'] / 1e6:.3f} M parameters, "
        f"{plain['macs'] / 1e9:.3f} G MACs, {plain['latency_ms']['median']:.1f} ms, {plain['memory'] / 1e6:.1f} MB\n"
    )
    click.echo(
        f"{'name'.ljust(name_width)}  sites  {'position':22}  {'parameters':>21}  {'MACs':>21}  latency  memory    step"
    )


def _format_row(row: dict[str, Any], batch: int) -> str:
    if "refused" in row:
        return f"refused: {row['refused']}"
    plain, step_ratio = row["plain"], row["step_memory"]
    cells = [
        f"{row['sites']:5}",
        ", ".join(row["positions"]).ljust(22),
        _format_increase(row["parameters"], plain["parameters"], 1e6, "M"),
        _format_increase(row["macs"], plain["macs"], 1e9, "G"),
        f"{row['latency']:6.2f}×",
        f"{row['memory']:5.2f}×",
        f"{'–' if step_ratio is None else f'{step_ratio:.2f}×':>6}",
    ]
    return "  ".join(cells)


def _format_increase(value: int, base: int, divisor: float, unit: str) -> str:
    """Return text such as ``+2.531 M (+9.9 %)``, padded to 21 characters."""
    return f"{(value - base) / divisor:+.3f} {unit} {f'({100 * (value / base - 1):+.1f} %)':>10}".rjust(21)
