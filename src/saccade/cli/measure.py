"""``saccade measure``: measure the cost of attention in one network."""

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
@click.option("--attention", default="none", metavar="LIST", help="Mechanisms, such as none,se,das:alpha=0.1.")
@click.option(
    "--where", default="paper", show_default=True, help="Position of the mechanisms; paper: that of each paper."
)
@click.option(
    "--start",
    type=click.Choice(["paper", "neutral"]),
    default="paper",
    show_default=True,
    help="paper: as published; neutral: with a learned factor that makes the mechanism the identity at first.",
)
@click.option("--input", "size", metavar="C,H,W", help="Image size.  [default: the network's own]")
@click.option(
    "--batch",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Batch size of a second latency measurement and of the training step.",
)
@click.option(
    "--counter",
    type=click.Choice(["true", "thop"]),
    default="true",
    show_default=True,
    help="true: all parameters, and the MACs of all operators; thop: the numbers of thop, which most papers print: "
    "without functional operators such as attention and deformable convolution, and with four operations per value "
    "of a batch norm.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(
    model: str, attention: str, where: str, start: str, size: str | None, batch: int, counter: str, as_json: bool
) -> None:
    """Measure parameters, MACs, latency and peak memory of MODEL, a timm model, without and with attention.

    Latency is that of a forward pass in eval mode on this machine: the median and the 5th to 95th percentile. Memory is
    the peak of live tensors, including weights: in a forward pass of one image, and in a training step of --batch
    images, including gradients but not the state of an optimiser. Kernel workspace is counted only on CUDA.
    """
    labels = catalog.split_list(attention)
    mechanisms = {label: catalog.parse(label) for label in labels if label != "none"}
    input_size = _parse_size(size)

    rows = _measure_rows(model, ["none", *mechanisms], mechanisms, where, start, input_size, batch, counter)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    _print_table(rows)
    first = rows[0]
    threads = f"{first['threads']} thread" + "s" * (first["threads"] != 1)
    counter_note = (
        "MACs of one image: convolutions, linear layers, matrix products, attention, sampling; "
        "not norms, pooling or elementwise work."
        if counter == "true"
        else "Parameters and MACs of one image as thop reports them: layers of the types it knows, including "
        "batch\nnorm; no functional operators such as attention and deformable convolution."
    )
    click.echo(
        f"\n{model} on {'×'.join(map(str, first['input']))}, {first['device']}, {threads}; percentages are relative to "
        f"none.\n{counter_note}\nLatency in ms: median [5 %–95 %]. Memory: peak of live tensors, including weights, in "
        f"a forward pass of one image; step: in a\ntraining step of {batch}, including gradients, without optimiser. "
        "Kernel workspace is counted only on CUDA."
    )
    for row in rows[1:]:
        click.echo(f"{row['attention']}: {row['sites']} site{'s' * (row['sites'] != 1)}, {', '.join(row['positions'])}")


def _parse_size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--input {text!r} is not a size; write channels,height,width, for example 3,224,224")
    return tuple(int(part) for part in parts)


def _measure_rows(
    model: str,
    labels: Sequence[str],
    mechanisms: dict[str, tuple[str, dict[str, Any]]],
    where: str,
    start: str,
    size: tuple[int, ...] | None,
    batch: int,
    counter: str,
) -> list[dict[str, Any]]:
    """Return one row per network: costs at batch size 1, and under ``batched`` latency and memory at ``batch``."""
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
            host = create_host(Model(name=model), num_classes=1000, channels=size[0] if size else 3)
            if label in mechanisms:
                name, options = mechanisms[label]
                insert(
                    host, name, where=where, start="neutral" if start == "neutral" else "paper", input=size, **options
                )
            hosts.append(host)
            progress.advance(task)
        costs = {}
        for batch_size in batches:
            progress.update(task, description=f"timing batch {batch_size}")
            costs[batch_size] = measure_all(hosts, size, batch=batch_size, counter=counter)
            progress.advance(task, len(labels))
    rows = []
    for index, (label, host) in enumerate(zip(labels, hosts, strict=True)):
        positions = positions_of(host)
        row = {
            "attention": label,
            "input": list(example_input(host, size)[0].shape[1:]),
            "sites": len(positions),
            "positions": sorted(set(positions)),
            **asdict(costs[1][index]),
        }
        if batch > 1:
            batched_keys = ("batch", "latency_ms", "memory", "step_memory")
            row["batched"] = {key: value for key, value in asdict(costs[batch][index]).items() if key in batched_keys}
        rows.append(row)
    return rows


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    counter_note = " (thop)" if rows[0]["counter"] == "thop" else ""
    batched_rows = [row.get("batched", row) for row in rows]
    columns: dict[str, list[str]] = {
        "attention": [row["attention"] for row in rows],
        f"parameters{counter_note}": _format_amounts([row["parameters"] for row in rows], 1e6, "M"),
        f"MACs{counter_note}": _format_amounts([row["macs"] for row in rows], 1e9, "G"),
        "batch 1": _format_latencies([row["latency_ms"] for row in rows]),
    }
    if "batched" in rows[0]:
        columns[f"batch {rows[0]['batched']['batch']}"] = _format_latencies([row["latency_ms"] for row in batched_rows])
    columns["memory"] = _format_amounts([row["memory"] for row in rows], 1e6, "MB", 1)
    step_memory = [row["step_memory"] for row in batched_rows]
    columns["step"] = ["-"] * len(step_memory) if None in step_memory else _format_amounts(step_memory, 1e6, "MB", 1)
    table = [list(columns), *zip(*columns.values(), strict=True)]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        click.echo("  ".join(cells).rstrip())


def _format_amounts(values: Sequence[int], divisor: float, unit: str, places: int = 3) -> list[str]:
    amounts = [f"{value / divisor:.{places}f} {unit}" for value in values]
    return [f"{text} {_format_change(value, values[0])}" for text, value in zip(amounts, values, strict=True)]


def _format_latencies(latencies: Sequence[dict[str, float]]) -> list[str]:
    first = latencies[0]["median"]
    ranges = [f"{row['median']:.2f} [{row['low']:.2f}–{row['high']:.2f}]" for row in latencies]
    return [f"{text} {_format_change(row['median'], first)}" for text, row in zip(ranges, latencies, strict=True)]


def _format_change(value: float, base: float) -> str:
    """Return the change in percent, padded to 7 characters; blank if ``value`` equals ``base``."""
    return "".rjust(7) if value == base else f"{100 * (value / base - 1):+.1f} %".rjust(7)
