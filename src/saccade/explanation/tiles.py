"""The tiles of a sheet of explanations: the maps and gates of one network on one picture, with captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.explanation.gates import channel_means, is_spatial, site_to_show, spatial_map

if TYPE_CHECKING:
    from saccade.explanation.explanation import Explained

__all__ = ["LEGEND", "Tile", "tiles_of"]

LEGEND = (
    "{method}: where the feature map of the layer speaks for the class, each map scaled to its own largest value. It "
    "does not show what the network would do without that place."
)
"""Sentence under a sheet."""
_MIN_MAP_SIDE = 7
"""Gates with a smaller side are drawn as a map only if there is no larger one."""
_MIN_SPAN = 0.05
"""Smallest range of a colour scale, so that noise does not appear as a pattern."""
_STRIP_WIDTH = 64
"""Number of values in a strip of channels."""


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        values: the map (h, w) from 0 to 1.
        over_picture: False for strips of channels, which have no place in the picture.
        title: first line of the caption.
        lines: further lines.
        ends: values at 0 and 1 if these are not 0 and 1.
    """

    values: Tensor
    over_picture: bool
    title: str
    lines: tuple[str, ...]
    ends: tuple[float, float] | None = None


def tiles_of(cell: Explained) -> list[Tile]:
    """Return a tile per layer, and one of the gates if there are any."""
    title = cell.class_name or "no class"
    if cell.value is not None:
        title += f" · {_percent(cell.value)}"
    best = cell.predictions[0] if cell.predictions else None
    is_other = best is not None and best.index != cell.class_index
    others = [f"predicts {best.name} · {_percent(best.value)}"] if best is not None and is_other else []
    tiles = [
        Tile(values, True, title, (layer, *others, *cell.notes, *_region_lines(cell, layer)))
        for layer, values in cell.heat_maps.items()
    ]
    return [*tiles, *([_gate_tile(cell.gates)] if cell.gates else [])]


def _region_lines(cell: Explained, layer: str) -> list[str]:
    """Return the scores in the region, and the sfd of the controls; [] without a region."""
    if cell.region is None:
        return []
    score = cell.region.maps[layer]
    controls = ", ".join(f"{name} {each.sfd:.2f}" for name, each in cell.region.controls[layer].items())
    return [f"sfd {score.sfd:.2f}; {controls}", f"pointing {score.pointing:.0f}, IoU {score.iou:.2f}"]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _gate_tile(gates: dict[str, Tensor]) -> Tile:
    """Return the gate with the finest map, else the channels of all gates as strips, one row per site."""
    batched = {site: gate[None] for site, gate in gates.items()}
    site = site_to_show(batched, min_size=_MIN_MAP_SIDE)
    if site is not None:
        values, lines = spatial_map(batched[site])[0], (site,)
    else:
        values = torch.cat([_strip(gate) for gate in batched.values() if not is_spatial(gate)])
        lines = (f"channels at {len(gates)} sites" if len(gates) > 1 else next(iter(gates)),)
    low, high = float(values.min()), float(values.max())
    padding = max(0.0, _MIN_SPAN - (high - low)) / 2
    low, high = low - padding, high + padding
    return Tile((values - low) / (high - low), site is not None, "gate", lines, (low, high))


def _strip(gate: Tensor) -> Tensor:
    """Return the channels of a gate (1, C, 1, 1) as (1, ``_STRIP_WIDTH``): averaged in groups, or repeated."""
    channels = channel_means(gate)[:, None]
    if channels.shape[-1] > _STRIP_WIDTH:
        return F.adaptive_avg_pool1d(channels, _STRIP_WIDTH)[:, 0]
    return F.interpolate(channels, _STRIP_WIDTH, mode="nearest")[:, 0]
