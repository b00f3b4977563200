"""``saccade data``: what a network would see, before it sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saccade.errors import UserError
from saccade.escaping import printable
from saccade.events import Event, FilesChecked, Notify

if TYPE_CHECKING:
    from saccade.data.layouts import Layout
    from saccade.recipe import Data

__all__ = ["command"]

_SHOWN = 10
"""So many sizes and refusals are printed; ``--json`` holds all."""


@click.command("data")
@click.argument("source")
@click.option("--show", metavar="FILE", help="Draw a contact sheet with labels and boxes: .png, .jpg or .webp.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in a recipe: data.size=64; repeatable.")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read, and count them.")
@click.option("--json", "as_json", is_flag=True, help="All facts as JSON.")
@click.pass_context
def command(
    ctx: click.Context, source: str, show: str | None, settings: tuple[str, ...], skip_bad: bool, as_json: bool
) -> None:
    """Classes, counts and sizes of SOURCE, the word digits or a folder of images, and what would be refused.

    Every image is opened. The exit code is 1 where training would refuse something.
    """
    from saccade.data import find_layout
    from saccade.data.transforms import check_names
    from saccade.recipe import Recipe

    if show is not None:
        from saccade.data.sheet import check_path

        check_path(Path(show))
    for setting in settings:
        if not setting.strip().startswith("data."):
            raise UserError(f"{setting!r}: only data.… says what the images are; write data.key=value")
    spec = (
        Recipe()
        .with_overrides(settings)
        .with_overrides({"data.source": source} | ({"data.skip_bad": True} if skip_bad else {}))
        .data
    )
    check_names(spec.augment)
    layout = find_layout(spec)
    with _progress() as notify:
        facts = layout.describe(spec, notify)
    click.echo(json.dumps(facts, indent=2) if as_json else _page(facts))
    if show is not None and not facts["refused"]:
        _draw(layout, spec, facts, Path(show))
        click.echo(f"wrote {printable(show)}", err=True)
    ctx.exit(1 if facts["refused"] else 0)


@contextmanager
def _progress() -> Iterator[Notify | None]:
    """A bar over the images on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking images")

        def show(event: Event) -> None:
            if isinstance(event, FilesChecked):
                bar.update(task, completed=event.done, total=event.total)

        yield show


def _page(facts: dict[str, Any]) -> str:
    parts = facts["parts"]
    names = list(dict.fromkeys(name for part in parts for name in part["classes"]))
    rows = [["class", *(part["name"] or "images" for part in parts)]]
    rows += [[printable(name), *(str(part["classes"].get(name, "–")) for part in parts)] for name in names]
    rows.append(["all", *(str(part["images"]) for part in parts)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    sizes = [f"{row['size'][0]}×{row['size'][1]} ({row['images']})" for row in facts["sizes"][:_SHOWN]]
    more = len(facts["sizes"]) - len(sizes)
    lines += [
        "",
        f"layout   {facts['layout']}",
        f"sizes    {', '.join(sizes)}{f' and {more} others' if more > 0 else ''}",
    ]
    turned = " (height × width)" if facts["height"] != facts["width"] else ""
    lines.append(f"network  sees {facts['height']}×{facts['width']} pixels{turned}, {facts['channels']} channel(s)")
    if used := facts["used"]:
        beside = f", {used['val']} to validate" if "val" in used else ""
        lines.append(f"used     {used['train']} to train, {used['test']} to test{beside}")
    lines += [f"note     {printable(note)}" for note in facts["notes"]]
    for word, sentences in (("left out", facts["left_out"]), ("refused ", facts["refused"])):
        lines += [f"{word} {printable(sentence)}" for sentence in sentences[:_SHOWN]]
        if len(sentences) > _SHOWN:
            lines.append(f"         and {len(sentences) - _SHOWN} more")
    return "\n".join(lines)


def _draw(layout: Layout, spec: Data, facts: dict[str, Any], path: Path) -> None:
    from saccade.data import sheet

    shown = spec.model_copy(update={"size": (facts["height"], facts["width"])})
    rows = [(part, layout.read_cells(shown, part, 20)) for part in facts["used"]]
    counts = ", ".join(f"{count} {part}" for part, count in facts["used"].items())
    title = f"{facts['source']}: {counts} images, {facts['height']}×{facts['width']} pixels"
    sheet.write(sheet.contact_sheet(rows, printable(title)), path)
