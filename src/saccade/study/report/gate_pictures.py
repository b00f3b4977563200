"""Pictures of a network's gates on images: the fraction of the feature map that passes, or strips of channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor, nn

from saccade.explanation import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show
from saccade.heat_maps import draw_heat_map
from saccade.study.report.shown_images import draw_overlay
from saccade.study.report.typeset import format_number

__all__ = ["GatePictures", "gate_pictures"]

_MIN_MAP_SIDE = 7
"""Maps with a smaller side are shown only if there is no larger one."""
_STRIP_WIDTH = 64
"""Number of values in a strip of channels; more channels are averaged in groups."""
_MIN_COLOUR_SPAN = 0.05
"""Smallest range of a colour scale, so that noise does not appear as a pattern."""


@dataclass(frozen=True)
class GatePictures:
    """Gates of one network on some images.

    Attributes:
        overlays: picture of each image; None without a plug.
        label: site or number of sites; None without a plug.
        scale_ends: values of the darkest and the brightest colour; None without a plug.
    """

    overlays: list[Markup | None]
    label: str | None
    scale_ends: tuple[str, str] | None


def gate_pictures(model: nn.Module, images: Tensor, name: str, prefix: str = "picture") -> GatePictures:
    """Draw the gates of ``model`` on ``images`` (B, C, H, W).

    Args:
        model: a network.
        images: normalised images; their pictures have the ids ``prefix-0``, ``prefix-1``, …
        name: name of the arm, for the descriptions.
        prefix: see ``images``.
    """
    heat_maps, site, label = _heat_maps(model, images)
    if heat_maps is None:
        return GatePictures([None] * len(images), None, None)
    low, high = float(heat_maps.min()), float(heat_maps.max())
    padding = max(0.0, _MIN_COLOUR_SPAN - (high - low)) / 2
    low, high = low - padding, high + padding
    overlays: list[Markup | None] = []
    for k, heat_map in enumerate(heat_maps):
        range_text = f"{format_number(float(heat_map.min()))} to {format_number(float(heat_map.max()))} passes"
        colours = draw_heat_map((heat_map - low) / (high - low))
        text = f"{name}, image {k + 1}: {range_text}"
        overlays.append(draw_overlay(None if site is None else k, colours, text, prefix))
    return GatePictures(overlays, label, (format_number(low), format_number(high)))


def _heat_maps(model: nn.Module, images: Tensor) -> tuple[Tensor | None, str | None, str | None]:
    """Return heat maps (B, h, w) of the fraction of the feature map that passes, their site, and a label.

    The site is None for strips of channels; all are None without plugs.
    """
    gates, passed = gate_maps(model, images), passed_fractions(model, images)
    # The magnitude after a channel gate varies over positions too, but the gate does not cause that.
    magnitudes = {site: x[:, None] for site, x in passed.items() if site not in gates or is_spatial(gates[site])}
    site = site_to_show(magnitudes, min_size=_MIN_MAP_SIDE)
    if site is not None:
        return passed[site], site, site
    if gates:
        strips = torch.stack([_channel_strip(gate) for gate in gates.values()], 1)  # (B, sites, _STRIP_WIDTH)
        return strips, None, f"{len(gates)} sites" if len(gates) > 1 else next(iter(gates))
    return None, None, None


def _channel_strip(gate: Tensor) -> Tensor:
    """Return the channels of a gate (B, C, 1, 1) as (B, _STRIP_WIDTH): averaged in groups, or repeated."""
    channels = channel_means(gate)[:, None]
    if channels.shape[-1] > _STRIP_WIDTH:
        return F.adaptive_avg_pool1d(channels, _STRIP_WIDTH)[:, 0]
    return F.interpolate(channels, _STRIP_WIDTH, mode="nearest")[:, 0]
