"""``saccade export``: write a network as a file that runs without Saccade."""

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
from saccade.cli._network import build_network, origin, parse_input_size
from saccade.cli._trust import trust_option
from saccade.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from saccade.exporting import Exported

__all__ = ["command"]

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ""}
"""Maps format to file suffix; a safetensors export is a folder."""


@click.command("export")
@click.argument("model")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_SUFFIXES)),
    default="onnx",
    show_default=True,
    help="torch: a torch.export program (.pt2); safetensors: a folder for saccade.load.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Path of the file.  [default: in the run folder, else in the working directory]",
)
@click.option("--input", "size", metavar="C,H,W", help="Image size.  [default: the network's own]")
@click.option(
    "--dynamic",
    type=click.Choice(["all", "batch", "none"]),
    default="all",
    show_default=True,
    help="Axes that may vary: all for batch, height and width; batch; or none.",
)
@click.option("--attention", metavar="NAME", help="Insert this mechanism into a timm model: das, das:alpha=0.1.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print only the result, as JSON.")
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
    """Write MODEL as a file that runs without Saccade.

    MODEL is a run folder of train or compare, or any folder that saccade.save wrote. It may also be the name of a timm
    model, or torchvision:NAME; the weights are then random, and the file serves only as a test of the export. A folder
    is refused with --attention.

    The file is read back by onnxruntime or torch, and moved to its final path only if its outputs equal those in
    PyTorch at several image and batch sizes.
    """
    input_size = parse_input_size(size) if size else None
    mechanism = catalog.parse(attention) if attention else None
    is_folder = Path(model).is_dir()
    if is_folder and mechanism:
        raise UserError(f"{model} is a folder and has its mechanisms already; --attention needs the name of a network")
    path = out or _default_path(model, kind, is_folder)

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Keep the current stderr: export() replaces sys.stderr to hide the output of exporters.
    console, is_terminal = Console(file=sys.stderr), sys.stderr.isatty()
    with Progress(
        *columns, console=console, transient=True, disable=not is_terminal, redirect_stderr=False
    ) as progress:
        task = progress.add_task("building the network")
        if is_folder:
            network, arguments = _load_saved(Path(model), trust)
        else:
            network, arguments = _build_named(model, mechanism, input_size)
        if input_size:
            arguments["input"] = input_size

        from saccade.exporting import export

        options: dict[str, Any] = {"format": kind, "dynamic": dynamic, **arguments}
        exported = export(network, path, notify=lambda text: progress.update(task, description=text), **options)
    if as_json:
        click.echo(json.dumps(asdict(exported), indent=2, ensure_ascii=False))
        return
    for line in _summary_lines(exported):
        click.echo(line)
    if not is_folder:
        click.echo("The weights are random; use the file only to test the export.")


def _default_path(model: str, kind: str, is_folder: bool) -> Path:
    """Return the path to write to without ``--out``.

    Raises:
        UserError: a folder would be exported to its own format.
    """
    if is_folder:
        if kind == "safetensors":
            raise UserError(f"{model} has that format already; choose another folder with --out")
        return Path(model) / f"model{_SUFFIXES[kind]}"
    return Path(re.sub(r"[^\w.=]+", "-", model).strip("-") + _SUFFIXES[kind])


def _load_saved(folder: Path, trust: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network in ``folder``; return it and the keyword arguments for ``export``."""
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
    arguments = {key: config[key] for key in ("host", "input", "classes")}
    reserved = {*RESERVED, *inspect.signature(export).parameters}
    return load(folder, trust=trust), {
        key: value for key, value in config["facts"].items() if key not in reserved
    } | arguments


def _build_named(
    name: str, mechanism: tuple[str, dict[str, Any]] | None, input_size: tuple[int, ...] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network ``name`` with random weights, and return it and the keyword arguments for ``export``."""
    from saccade.surgery.insert import insert

    network = build_network(name)
    if mechanism:
        insert(network, mechanism[0], start="paper", input=input_size, **mechanism[1])
    return network, {"host": origin(name)}


def _summary_lines(exported: Exported) -> list[str]:
    """Return a description of the exported file, in lines."""
    formats = {
        "onnx": f"ONNX, opset {exported.opset}",
        "torch": "torch.export",
        "safetensors": "safetensors and config.json",
    }
    lines = [f"{exported.path}: {formats[exported.format]}, {exported.size / 1e6:.1f} MB"]
    minimum_note = ", ".join(
        f"{side} from {minimum}"
        for side, minimum in zip(("height", "width"), exported.smallest, strict=True)
        if minimum > 1
    )
    for name, shape in exported.inputs.items():
        variable_axes = [axis for axis in shape if isinstance(axis, str)]
        multiple = exported.metadata.get("multiple")
        multiple_note = f"height and width multiples of {multiple}" if multiple is not None else ""
        constraints = filter(None, (minimum_note, multiple_note))
        note = "".join(f", {text}" for text in constraints) if "height" in variable_axes else ""
        lines.append(f"input {name} float32 ({', '.join(map(str, shape))}){note}; output {', '.join(exported.outputs)}")
    differences = ", ".join(f"{row.difference:.1e} at {'×'.join(map(str, row.shape))}" for row in exported.compared)
    lines.append(f"read back and compared with PyTorch: largest difference {differences} (relative; tolerance 1e-04)")
    facts = (_metadata_label(key, value) for key, value in exported.metadata.items() if value not in (None, []))
    lines.append(f"metadata: {', '.join(facts)}")
    return lines


def _metadata_label(key: str, value: Any) -> str:
    return f"{len(value)} {key}" if key in ("plugs", "replacements", "classes") else key
