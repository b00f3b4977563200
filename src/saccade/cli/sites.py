"""``saccade sites``: where a mechanism can be put into a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saccade.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["command"]


@click.command("sites")
@click.argument("model")
@click.option("--where", help="Only those of a position (stage, conv3x3, stage[:-1], …) or a glob of paths.")
@click.option("--input", "size", help="Channels, height and width of the picture, such as 3,224,224.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(model: str, where: str | None, size: str | None, as_json: bool) -> None:
    """The sites of MODEL: a name of timm's, torchvision:NAME, or a folder that saccade saved."""
    picture = _size(size) if size else None
    host = _host(model)

    from saccade.facts import Spec
    from saccade.surgery.positions import POSITIONS, paths_at, select
    from saccade.surgery.sites import survey

    seen = survey(host, picture)
    found = list(seen.sites.values())
    if where is not None:
        found = select(seen, where, Spec(title=model, kind="transform", evidence="reading")).sites
    at = {word: paths_at(seen.structure, word) for word in POSITIONS if word != "paper"}
    words = {site.path: [word for word, paths in at.items() if site.path in paths] for site in found}
    if as_json:
        click.echo(json.dumps([asdict(site) | {"positions": words[site.path]} for site in found], indent=2))
        return
    rows = [("site", "carrier", "channels", "size", "stage", "calls", "module", "positions")]
    for site in found:
        carrier = ("into " if site.entering else "") + ("=" if site.carrier == site.path else site.carrier)
        numbers = (str(site.channels), "×".join(map(str, site.size)), str(site.stage), str(site.calls))
        rows.append((site.path, carrier, *numbers, site.kind, ", ".join(words[site.path])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    shape = "×".join(map(str, seen.arguments[0][0].shape[1:]))
    click.echo(
        f"\n{len(found)} site{'s' * (len(found) != 1)}, seen on a picture of {shape}; "
        + ", ".join(f"{word}: {len(paths)}" for word, paths in at.items())
    )


def _size(text: str) -> tuple[int, ...]:
    try:
        size = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        size = ()
    if len(size) != 3 or min(size) < 1:
        raise UserError(f"--input is three positive integers: channels, height, width, such as 3,224,224; got {text!r}")
    return size


def _host(name: str) -> nn.Module:
    """The network that ``name`` says, with weights only where it is a folder."""
    if Path(name).is_dir():
        from saccade.saving import load

        return load(name)
    kind, colon, rest = name.partition(":")
    if colon and kind == "torchvision":
        from torchvision.models import list_models

        if rest not in list_models():
            raise UserError(f"torchvision has no network {rest!r}.{did_you_mean(rest, list_models())}")
    else:
        from timm.models import is_model, list_models

        import saccade.models  # noqa: F401 (its networks are timm's once it is imported)

        if not is_model(name.partition(".")[0]):
            near = did_you_mean(name, list_models())
            raise UserError(f"{name!r} is neither a folder nor a network of timm's.{near}")
        kind, rest = "timm", name
    from saccade.saving import rebuild

    return rebuild({kind: rest})
