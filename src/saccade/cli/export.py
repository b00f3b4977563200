"""``saccade export``: a network as a file that runs elsewhere."""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saccade import catalog
from saccade.cli import _trust
from saccade.cli._network import network, origin, size_of
from saccade.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from saccade.exporting import Exported

__all__ = ["command"]

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ""}


@click.command("export")
@click.argument("model")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_SUFFIXES)),
    default="onnx",
    show_default=True,
    help="torch is a program of torch.export, .pt2; safetensors a folder for saccade.load.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file  [default: in the run folder, or here]")
@click.option("--input", "size", metavar="C,H,W", help="Size of a picture  [default: the network's own]")
@click.option(
    "--dynamic",
    type=click.Choice(["all", "batch", "none"]),
    default="all",
    show_default=True,
    help="What may vary: batch, height and width; the batch alone; nothing.",
)
@click.option("--attention", metavar="NAME", help="Plug this into a network of timm's: das, das:alpha=0.1.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The result as JSON and nothing else.")
def command(
    model: str,
    kind: str,
    out: Path | None,
    size: str | None,
    dynamic: str,
    attention: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Write MODEL as a file that runs without saccade.

    MODEL is a run folder of train or compare, or any folder that saccade saved. It may also be the name of a network of
    timm's, or torchvision:NAME; its weights are then random, and the file is a rehearsal.

    The file is read back by onnxruntime or torch, and gets its name only if it computes what the network computes in
    PyTorch, at several sizes and batch sizes.
    """
    picture = size_of(size) if size else None
    plugged = catalog.parse(attention) if attention else None
    is_folder = Path(model).is_dir()
    if is_folder and plugged:
        raise UserError(f"{model} has its plugs already; --attention is for a network that is named")
    place = out or _place(model, kind, is_folder)

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # The stream itself: what exporters print to sys.stderr meanwhile is kept from the screen.
    console, shown = Console(file=sys.stderr), sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=not shown, redirect_stderr=False) as progress:
        task = progress.add_task("building the network")
        given, facts = _saved(Path(model), trust) if is_folder else _named(model, plugged, picture)
        if picture:
            facts["input"] = picture

        from saccade.exporting import export

        options: dict[str, Any] = {"format": kind, "dynamic": dynamic, **facts}
        done = export(given, place, notify=lambda text: progress.update(task, description=text), **options)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2, ensure_ascii=False))
        return
    for line in _lines(done):
        click.echo(line)
    if not is_folder:
        click.echo("The weights are random: a rehearsal.")


def _place(model: str, kind: str, is_folder: bool) -> Path:
    """Where to write what has been given no name."""
    if is_folder:
        if kind == "safetensors":
            raise UserError(f"{model} is in that format already; name another folder by --out")
        return Path(model) / f"model{_SUFFIXES[kind]}"
    return Path(re.sub(r"[^\w.=]+", "-", model).strip("-") + _SUFFIXES[kind])


def _saved(folder: Path, trust: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a folder, and what the folder says of it, but for what ``export`` would take for its own."""
    from saccade.exporting import export
    from saccade.exporting.arguments import RESERVED
    from saccade.saving import describe, load

    try:
        config = describe(folder)
    except UserError as error:
        runs = sorted(path.parent for path in folder.glob("*/*/config.json"))
        if not runs or (folder / "config.json").exists():
            raise
        raise UserError(f"{folder} is a study; export one of its {len(runs)} runs, such as {runs[0]}") from error
    stated = {key: config[key] for key in ("host", "input", "classes")}
    taken = {*RESERVED, *inspect.signature(export).parameters}
    return load(folder, trust=trust), {
        key: value for key, value in config["facts"].items() if key not in taken
    } | stated


def _named(
    name: str, plugged: tuple[str, dict[str, Any]] | None, picture: tuple[int, ...] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of that name with random weights, and how it is made."""
    from saccade.surgery.insert import insert

    made = network(name)
    if plugged:
        insert(made, plugged[0], start="paper", input=picture, **plugged[1])
    return made, {"host": origin(name)}


def _lines(done: Exported) -> list[str]:
    """What was written, in words."""
    kind = {"onnx": f"ONNX, opset {done.opset}", "torch": "torch.export", "safetensors": "safetensors and config.json"}
    lines = [f"{done.path}: {kind[done.format]}, {done.size / 1e6:.1f} MB"]
    least = ", ".join(f"{side} from {n}" for side, n in zip(("height", "width"), done.smallest, strict=True) if n > 1)
    for name, shape in done.inputs.items():
        free = [axis for axis in shape if isinstance(axis, str)]
        step = done.metadata.get("multiple")
        told = [least] * bool(least) + [f"both multiples of {step}"] * (step is not None)
        note = "".join(f", {words}" for words in told) if "height" in free else ""
        lines.append(f"input {name} float32 ({', '.join(map(str, shape))}){note}; output {', '.join(done.outputs)}")
    found = ", ".join(f"{row.difference:.1e} at {'×'.join(map(str, row.shape))}" for row in done.compared)
    lines.append(f"read back and compared with PyTorch: largest difference {found} (relative; 1e-04 is let pass)")
    facts = (_told(key, value) for key, value in done.metadata.items() if value not in (None, []))
    lines.append(f"it says of itself: {', '.join(facts)}")
    return lines


def _told(key: str, value: Any) -> str:
    return f"{len(value)} {key}" if key in ("plugs", "replacements", "classes") else key
