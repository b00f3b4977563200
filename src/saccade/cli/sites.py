"""``saccade sites``: list the sites of a network where a mechanism can be inserted."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from saccade.cli._network import build_network, parse_input_size
from saccade.cli._trust import trust_option

__all__ = ["command"]


@click.command("sites")
@click.argument("model")
@click.option(
    "--where", help="Show only the sites of a position, such as stage[:-1] or decoder, or of a glob of paths."
)
@click.option("--input", "size", metavar="C,H,W", help="Image size, such as 3,224,224.  [default: the network's own]")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the sites as JSON.")
def command(model: str, where: str | None, size: str | None, trust: bool, as_json: bool) -> None:
    """List the sites of MODEL where a mechanism can be inserted.

    MODEL is a timm model, torchvision:NAME, a folder that saccade.save wrote, or package.module:function of your own, a
    function without arguments that builds the network.

    \b
    Positions for --where:
      stage      last feature map of each stage
      decoder    last feature map of each resolution on the way up
      skip       each concatenation of upsampled maps with maps from the way down
      neck       each feature map that a head reads
      block      output of each repeated unit
      residual   output of the residual branch of each unit
      conv3x3    output of the last spatial convolution of each unit
      activated  activation after conv3x3: input of the next convolution
      expanded   widened feature map of each inverted residual
      conv_stem  output of the first convolution
    """  # noqa: D301 (click reads the backspace)
    input_size = parse_input_size(size) if size else None
    host = build_network(model, trust)

    from saccade.graph.positions import POSITIONS, select, sites_at
    from saccade.specs import Spec
    from saccade.surgery.sites import inspect_unplugged

    inspection = inspect_unplugged(host, input_size)
    sites_by_position = {position: sites_at(inspection, position) for position in POSITIONS if position != "paper"}
    if where is not None:
        sites_found = select(inspection, where, Spec(title=model, kind="transform", evidence="reading")).sites
    else:
        input_sites = {
            site.path: site
            for position in ("activated", "skip")
            for site in sites_by_position[position]
            if inspection.sites[site.path] != site
        }
        sites_found = [
            candidate
            for path, site in inspection.sites.items()
            for candidate in (input_sites.get(path), site)
            if candidate
        ]
    positions = {
        site: [position for position, sites in sites_by_position.items() if site in sites] for site in sites_found
    }
    if as_json:
        click.echo(json.dumps([asdict(site) | {"positions": positions[site]} for site in sites_found], indent=2))
        return
    rows = [("site", "parent", "channels", "size", "stage", "calls", "module", "positions")]
    for site in sites_found:
        parent = ("into " if site.entering else "") + ("=" if site.parent == site.path else site.parent)
        numbers = (str(site.channels), "×".join(map(str, site.size)), str(site.stage), str(site.calls))
        rows.append((site.path, parent, *numbers, site.kind, ", ".join(positions[site])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    shape = "×".join(map(str, inspection.arguments[0][0].shape[1:]))
    click.echo(
        f"\n{len(sites_found)} site{'s' * (len(sites_found) != 1)}, found with an image of {shape}; "
        + ", ".join(f"{position}: {len(sites)}" for position, sites in sites_by_position.items())
    )
