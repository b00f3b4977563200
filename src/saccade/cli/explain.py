"""``saccade explain``: draw where networks look for a class of a picture, as activation maps and gates."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saccade.cli._network import build_network
from saccade.cli._trust import trust_option
from saccade.errors import UserError
from saccade.escaping import printable

if TYPE_CHECKING:
    from saccade.explanation import Explanation, PreparedNetwork

__all__ = ["command"]


@click.command("explain")
@click.argument("model")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--with", "others", metavar="MODEL", multiple=True, help="Another network beside MODEL; repeatable.")
@click.option("--class", "class_key", metavar="NAME", help="Class to explain, by name or index.  [default: predicted]")
@click.option("--box", type=click.IntRange(1), help="Box of a detector to explain, counted from the best.")
@click.option("--layer", "layers", metavar="LIST", help="Layers, such as layer3,layer4.  [default: last feature map]")
@click.option("--method", default="gradcam", show_default=True, help="gradcam++, layercam, hirescam, scorecam, …")
@click.option(
    "--region",
    "regions",
    metavar="MASK|X,Y,W,H",
    multiple=True,
    help="Where the object is, to score the maps: file of a mask, or a box in pixels; one for all images, or one each.",
)
@click.option("--pretrained", is_flag=True, help="Load timm's or torchvision's pretrained weights.")
@click.option("--checkpoint", metavar="FILE", help="Load weights from a safetensors file into a timm model.")
@click.option("--size", metavar="PIXELS", type=click.IntRange(1), help="Side of the input.  [default: the network's]")
@click.option("--opacity", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Opacity of the maps.")
@click.option(
    "--threshold", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Values below it are not drawn."
)
@click.option("--out", metavar="FILE", default="explain.png", show_default=True, help="File to write, .png or .html.")
@click.option("--open/--no-open", "open_file", default=False, show_default=True, help="Open the file.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print predictions, gates and the peak of each map as JSON.")
def command(
    model: str,
    images: tuple[str, ...],
    others: tuple[str, ...],
    class_key: str | None,
    box: int | None,
    layers: str | None,
    method: str,
    regions: tuple[str, ...],
    pretrained: bool,
    checkpoint: str | None,
    size: int | None,
    opacity: float,
    threshold: float,
    out: str,
    open_file: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Draw where MODEL looks for a class of each IMAGE: an activation map per layer, and the gates of its mechanism.

    MODEL is a run folder of train or compare, any folder that saccade.save wrote, a timm model, torchvision:NAME, or
    package.module:function. Networks given by name have random weights without --pretrained or --checkpoint. Other
    suffixes of --out than .png and .html are refused.
    """
    if Path(out).suffix.lower() not in (".png", ".html", ".htm"):
        raise UserError(f"--out {out}: an explanation is written as .png or .html")
    if (pretrained or checkpoint) and all(Path(name).is_dir() for name in (model, *others)):
        raise UserError("--pretrained and --checkpoint are for networks given by name; a folder has its own weights")
    for image in images:
        if not Path(image).is_file():
            raise UserError(f"there is no image {image}")
    from saccade.explanation.explain import explain
    from saccade.explanation.methods import find_method

    find_method(method)
    areas = [_parse_region(text) for text in regions]
    with _progress() as progress:
        networks = [_prepare(name, pretrained, checkpoint, size, trust) for name in (model, *others)]
        explanation = explain(
            networks,
            list(images),
            classes=class_key,
            boxes=None if box is None else [box] * len(images),
            layers=None if layers is None else [name.strip() for name in layers.split(",") if name.strip()],
            method=method,
            regions=areas or None,
            progress=progress,
        )
        path = explanation.save(out, opacity=opacity, threshold=threshold)
    if as_json:
        click.echo(json.dumps({"file": str(path), **explanation.to_json()}, indent=1, ensure_ascii=False))
    else:
        _print(explanation)
        click.echo(printable(path))
    if open_file:
        click.launch(path.resolve().as_uri())


def _parse_region(text: str) -> str | tuple[float, float, float, float]:
    """Return the box in ``text``, else the file that it names."""
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        if not Path(text).is_file():
            raise UserError(f"--region {text}: there is no such file, nor is it a box such as 30,20,120,90") from None
        return text
    if width <= 0 or height <= 0:
        raise UserError(f"--region {text}: width and height must be positive")
    return x, y, width, height


def _prepare(name: str, pretrained: bool, checkpoint: str | None, size: int | None, trust: bool) -> PreparedNetwork:
    """Return the network ``name`` with its weights, and its way of reading images."""
    from dataclasses import replace

    from saccade.explanation.prepared_network import prepare

    if Path(name).is_dir():
        return prepare(name, size=size, trust=trust)
    if pretrained or checkpoint is not None:
        from saccade.explanation.pretrained import prepare_pretrained

        return prepare_pretrained(name, checkpoint, size)
    network = prepare(build_network(name), name, size=size)
    if ":" in name and not name.startswith("torchvision:"):
        return network
    note = f"The weights of {name} are random: its maps mean nothing. Add --pretrained or --checkpoint FILE."
    return replace(network, note=note)


def _print(explanation: Explanation) -> None:
    """Print the class, its value and the peak of the map for each image and network."""
    for image, row in zip(explanation.images, explanation.rows, strict=True):
        for network, cell in zip(explanation.networks, row, strict=True):
            value = "" if cell.value is None else f" {100 * cell.value:.1f} %"
            parts = [f"{cell.class_name or 'no class'}{value}", ", ".join(cell.heat_maps), *cell.notes]
            click.echo(printable(f"{image}  {network}  {'  '.join(parts)}"))
            for layer, score in (cell.region.maps if cell.region else {}).items():
                controls = cell.region.controls[layer] if cell.region else {}
                for name, each in {layer: score, **controls}.items():
                    line = f"  sfd {each.sfd:.3f}  pointing {each.pointing:.2f}  best IoU {each.iou:.3f}  {name}"
                    click.echo(printable(line))
    for note in explanation.notes:
        click.echo(printable(note))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows a bar of maps on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    # Score-CAM hides the package's own bars by replacing sys.stderr; keep the current one.
    console = Console(file=sys.stderr)
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty(), redirect_stderr=False
    ) as bars:
        task = bars.add_task("loading the networks", total=None)
        yield lambda done, total: bars.update(task, description="drawing maps", completed=done, total=total)
