"""``saccade data``: describe a data set, and list the files that training would refuse."""

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

_MAX_LISTED = 10
"""Maximum number of sizes and of refusals to print; ``--json`` prints all."""


@click.command("data")
@click.argument("source")
@click.option(
    "--show", "sheet_file", metavar="FILE", help="Draw a contact sheet with labels and boxes: .png, .jpg or .webp."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a data key of the recipe: data.size=64; repeatable.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out and count files that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def command(
    ctx: click.Context, source: str, sheet_file: str | None, settings: tuple[str, ...], skip_bad: bool, as_json: bool
) -> None:
    """Print classes, numbers and sizes of the images in SOURCE, and the files that training would refuse.

    SOURCE is a folder of images, or the word digits. Every image is opened. The exit code is 1 if files are refused.
    """
    from saccade.data import find_layout
    from saccade.data.transforms import check_augmentations
    from saccade.recipe import Recipe

    if sheet_file is not None:
        from saccade.data.sheet import sheet_format

        sheet_format(Path(sheet_file))  # refuse a wrong suffix before the images are opened
    for setting in settings:
        if not setting.strip().startswith("data."):
            raise UserError(f"{setting!r}: only keys of the section data are used here; write data.key=value")
    data = (
        Recipe()
        .with_overrides(settings)
        .with_overrides({"data.source": source} | ({"data.skip_bad": True} if skip_bad else {}))
        .data
    )
    check_augmentations(data.augment)
    layout = find_layout(data)
    with _progress() as on_event:
        facts = layout.describe(data, on_event)
    click.echo(json.dumps(facts, indent=2) if as_json else _format_facts(facts))
    if sheet_file is not None and not facts["refused"]:
        _write_sheet(layout, data, facts, Path(sheet_file))
        click.echo(f"wrote {printable(sheet_file)}", err=True)
    ctx.exit(1 if facts["refused"] else 0)


@contextmanager
def _progress() -> Iterator[Notify | None]:
    """Show a progress bar over the images on a terminal; show nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking images")

        def on_event(event: Event) -> None:
            if isinstance(event, FilesChecked):
                bar.update(task, completed=event.done, total=event.total)

        yield on_event


def _format_facts(facts: dict[str, Any]) -> str:
    splits = facts["parts"]
    names = list(dict.fromkeys(name for split in splits for name in split["classes"]))
    rows = [["class", *(split["name"] or "images" for split in splits)]]
    rows += [[printable(name), *(str(split["classes"].get(name, "–")) for split in splits)] for name in names]
    rows.append(["all", *(str(split["images"]) for split in splits)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    sizes = [f"{row['size'][0]}×{row['size'][1]} ({row['images']})" for row in facts["sizes"][:_MAX_LISTED]]
    more = len(facts["sizes"]) - len(sizes)
    lines += [
        "",
        f"layout   {facts['layout']}",
        f"sizes    {', '.join(sizes)}{f' and {more} others' if more > 0 else ''}",
    ]
    axis_note = " (height × width)" if facts["height"] != facts["width"] else ""
    lines.append(f"network  sees {facts['height']}×{facts['width']} pixels{axis_note}, {facts['channels']} channel(s)")
    if used := facts["used"]:
        val_note = f", {used['val']} to validate" if "val" in used else ""
        lines.append(f"used     {used['train']} to train, {used['test']} to test{val_note}")
    lines += [f"note     {printable(note)}" for note in facts["notes"]]
    for label, sentences in (("left out", facts["left_out"]), ("refused ", facts["refused"])):
        lines += [f"{label} {printable(sentence)}" for sentence in sentences[:_MAX_LISTED]]
        if len(sentences) > _MAX_LISTED:
            lines.append(f"         and {len(sentences) - _MAX_LISTED} more")
    return "\n".join(lines)


def _write_sheet(layout: Layout, data: Data, facts: dict[str, Any], path: Path) -> None:
    from saccade.data import sheet

    resized_data = data.model_copy(update={"size": (facts["height"], facts["width"])})
    rows = [(split, layout.read_cells(resized_data, split, 20)) for split in facts["used"]]
    counts = ", ".join(f"{count} {split}" for split, count in facts["used"].items())
    title = f"{facts['source']}: {counts} images, {facts['height']}×{facts['width']} pixels"
    sheet.write_sheet(sheet.contact_sheet(rows, printable(title)), path)
