"""``saccade measure``: what attention costs in one network."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from saccade import catalog
from saccade.errors import UserError

__all__ = ["command"]


@click.command("measure")
@click.argument("model")
@click.option("--attention", default="none", metavar="LIST", help="Mechanisms, as none,se,das:alpha=0.1.")
@click.option("--where", default="paper", show_default=True, help="Where they are plugged.")
@click.option(
    "--start",
    type=click.Choice(["paper", "neutral"]),
    default="paper",
    show_default=True,
    help="paper: as published; neutral: with the factor that lets a pretrained network start unchanged.",
)
@click.option("--input", "size", metavar="C,H,W", help="Size of a picture  [default: the network's own]")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Pictures of the second latency.")
@click.option(
    "--counter",
    type=click.Choice(["true", "thop"]),
    default="true",
    show_default=True,
    help="true: every parameter, and the MACs that are done; thop: the figures that thop reports and most papers "
    "print, without functional operators such as attention and deformable convolution, and with four for each value "
    "of a batch norm.",
)
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON.")
def command(
    model: str, attention: str, where: str, start: str, size: str | None, batch: int, counter: str, as_json: bool
) -> None:
    """Parameters, MACs, latency and peak memory of MODEL, a network of timm's or ours, without and with attention.

    Latency is that of a forward in eval mode on this machine: the median and where the middle 90 % of the runs lie.
    Memory is the most that was live at once, weights included: in a forward of one picture, and in the forward and
    backward of a training step of --batch pictures, gradients included, the state of an optimiser not. It is that of
    live tensors: what kernels take and give back while they run is not in it, except on CUDA.
    """
    names = catalog.split_list(attention)
    mechanisms = {name: catalog.parse(name) for name in names if name != "none"}
    wanted = _size(size)

    rows = _rows(model, ["none", *mechanisms], mechanisms, where, start, wanted, batch, counter)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    _print_table(rows)
    first = rows[0]
    threads = f"{first['threads']} thread" + "s" * (first["threads"] != 1)
    counted = (
        "MACs of one picture: convolutions, linear layers, matrix products, attention, sampling; "
        "not norms, pooling or elementwise work."
        if counter == "true"
        else "Parameters and MACs of one picture as thop reports them: layers it knows, by their exact type, "
        "batch\nnorm included; no functional operators such as attention and deformable convolution."
    )
    click.echo(
        f"\n{model} on {'×'.join(map(str, first['input']))}, {first['device']}, {threads}; percentages are relative to "
        f"none.\n{counted}\nLatency in ms: median [5 %–95 %]. Memory: the most live at once, weights included, in a "
        f"forward of one picture; step: in\nforward and backward of {batch}, gradients included, optimiser not. "
        "Live tensors: what kernels take and give back while they\nrun is not in it, except on CUDA."
    )
    for row in rows[1:]:
        click.echo(f"{row['attention']}: {row['sites']} site{'s' * (row['sites'] != 1)}, {', '.join(row['positions'])}")


def _size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--input {text!r} is no size; write channels,height,width, for example 3,224,224")
    return tuple(int(part) for part in parts)


def _rows(
    model: str,
    labels: Sequence[str],
    mechanisms: dict[str, tuple[str, dict[str, Any]]],
    where: str,
    start: str,
    size: tuple[int, ...] | None,
    batch: int,
    counter: str,
) -> list[dict[str, Any]]:
    """The costs of each network: those at batch 1, the latency at ``batch`` under ``batched``."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    from saccade.cost import measure_all
    from saccade.graph.inputs import example_input
    from saccade.models import create_host
    from saccade.recipe import Model
    from saccade.surgery.insert import insert, positions_of

    batches = sorted({1, batch})
    columns = (SpinnerColumn(), *Progress.get_default_columns()[:2], TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("building", total=len(labels) + len(batches) * len(labels))
        hosts = []
        for label in labels:
            host = create_host(Model(name=model), classes=1000, channels=size[0] if size else 3)
            if label in mechanisms:
                name, options = mechanisms[label]
                insert(
                    host, name, where=where, start="neutral" if start == "neutral" else "paper", input=size, **options
                )
            hosts.append(host)
            progress.advance(task)
        costs = {}
        for count in batches:
            progress.update(task, description=f"timing batch {count}")
            costs[count] = measure_all(hosts, size, batch=count, counter=counter)
            progress.advance(task, len(labels))
    rows = []
    for i, (label, host) in enumerate(zip(labels, hosts, strict=True)):
        carried = positions_of(host)
        row = {
            "attention": label,
            "input": list(example_input(host, size)[0].shape[1:]),
            "sites": len(carried),
            "positions": sorted(set(carried)),
            **asdict(costs[1][i]),
        }
        if batch > 1:
            kept = ("batch", "latency_ms", "memory", "step_memory")
            row["batched"] = {key: value for key, value in asdict(costs[batch][i]).items() if key in kept}
        rows.append(row)
    return rows


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    by = " (thop)" if rows[0]["counter"] == "thop" else ""
    largest = [row.get("batched", row) for row in rows]
    columns: dict[str, list[str]] = {
        "attention": [row["attention"] for row in rows],
        f"parameters{by}": _amounts([row["parameters"] for row in rows], 1e6, "M"),
        f"MACs{by}": _amounts([row["macs"] for row in rows], 1e9, "G"),
        "batch 1": _latencies([row["latency_ms"] for row in rows]),
    }
    if "batched" in rows[0]:
        columns[f"batch {rows[0]['batched']['batch']}"] = _latencies([row["latency_ms"] for row in largest])
    columns["memory"] = _amounts([row["memory"] for row in rows], 1e6, "MB", 1)
    steps = [row["step_memory"] for row in largest]
    columns["step"] = ["-"] * len(steps) if None in steps else _amounts(steps, 1e6, "MB", 1)
    table = [list(columns), *zip(*columns.values(), strict=True)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        click.echo("  ".join(cells).rstrip())


def _amounts(values: Sequence[int], unit: float, letter: str, places: int = 3) -> list[str]:
    digits = [f"{value / unit:.{places}f} {letter}" for value in values]
    return [f"{text} {_relative(value, values[0])}" for text, value in zip(digits, values, strict=True)]


def _latencies(spreads: Sequence[dict[str, float]]) -> list[str]:
    first = spreads[0]["median"]
    return [f"{s['median']:.2f} [{s['low']:.2f}–{s['high']:.2f}] {_relative(s['median'], first)}" for s in spreads]


def _relative(value: float, base: float) -> str:
    """The change in percent, right-aligned so that the numbers before it line up; none against itself."""
    return "".rjust(7) if value == base else f"{100 * (value / base - 1):+.1f} %".rjust(7)
