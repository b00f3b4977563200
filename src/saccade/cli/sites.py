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
@click.option("--where", help="Only those of a position, as stage[:-1] or neck, or of a glob of paths.")
@click.option("--input", "size", help="Channels, height and width of the picture, such as 3,224,224.")
@_trust.option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(model: str, where: str | None, size: str | None, trust: bool, as_json: bool) -> None:
    """The sites of MODEL: a name of timm's, torchvision:NAME, a folder that saccade saved, or package.module:function,
    a function of yours without arguments that builds the network.

    \b
    The positions for --where:
      stage      the map that ends each stage
      neck       each map that a head reads
      block      what each repeated unit returns
      residual   what leaves the residual branch of each unit
      conv3x3    what leaves the last spatial convolution of each unit
      activated  what enters the convolution behind it
      expanded   the widened map of each inverted residual
      conv_stem  what leaves the first convolution
    """  # noqa: D301 (click reads the backspace)
    picture = size_of(size) if size else None
    host = network(model, trust)

    from saccade.graph.positions import POSITIONS, select, sites_at
    from saccade.specs import Spec
    from saccade.surgery.sites import inspect_unplugged

    seen = inspect_unplugged(host, picture)
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
    rows = [("site", "parent", "channels", "size", "stage", "calls", "module", "positions")]
    for site in found:
        parent = ("into " if site.entering else "") + ("=" if site.parent == site.path else site.parent)
        numbers = (str(site.channels), "×".join(map(str, site.size)), str(site.stage), str(site.calls))
        rows.append((site.path, parent, *numbers, site.kind, ", ".join(words[site])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    shape = "×".join(map(str, seen.arguments[0][0].shape[1:]))
    click.echo(
        f"\n{len(found)} site{'s' * (len(found) != 1)}, seen on a picture of {shape}; "
        + ", ".join(f"{word}: {len(sites)}" for word, sites in at.items())
    )
