"""``saccade sites``: where a mechanism can be put into a network."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from saccade.cli import _trust
from saccade.cli._network import network, size_of

__all__ = ["command"]


@click.command("sites")
@click.argument("model")
@click.option("--where", help="Only those of a position (stage, conv3x3, stage[:-1], …) or a glob of paths.")
@click.option("--input", "size", help="Channels, height and width of the picture, such as 3,224,224.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(model: str, where: str | None, size: str | None, trust: bool, as_json: bool) -> None:
    """The sites of MODEL: a name of timm's, torchvision:NAME, or a folder that saccade saved."""
    picture = size_of(size) if size else None
    host = network(model, trust)

    from saccade.facts import Spec
    from saccade.surgery.positions import POSITIONS, select, sites_at
    from saccade.surgery.sites import survey

    seen = survey(host, picture)
    at = {word: sites_at(seen, word) for word in POSITIONS if word != "paper"}
    if where is not None:
        found = select(seen, where, Spec(title=model, kind="transform", evidence="reading")).sites
    else:
        entering = {site.path: site for site in at["activated"] if seen.sites[site.path] != site}
        found = [each for path, site in seen.sites.items() for each in (entering.get(path), site) if each]
    words = {site: [word for word, sites in at.items() if site in sites] for site in found}
    if as_json:
        click.echo(json.dumps([asdict(site) | {"positions": words[site]} for site in found], indent=2))
        return
    rows = [("site", "carrier", "channels", "size", "stage", "calls", "module", "positions")]
    for site in found:
        carrier = ("into " if site.entering else "") + ("=" if site.carrier == site.path else site.carrier)
        numbers = (str(site.channels), "×".join(map(str, site.size)), str(site.stage), str(site.calls))
        rows.append((site.path, carrier, *numbers, site.kind, ", ".join(words[site])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    shape = "×".join(map(str, seen.arguments[0][0].shape[1:]))
    click.echo(
        f"\n{len(found)} site{'s' * (len(found) != 1)}, seen on a picture of {shape}; "
        + ", ".join(f"{word}: {len(sites)}" for word, sites in at.items())
    )
