"""Where a trained network looks, and what its gates let through."""

from __future__ import annotations

from saccade.explanation.gates import effective, gate_maps, is_spatial, passing, per_channel, site_to_show, spatial

__all__ = ["effective", "gate_maps", "is_spatial", "passing", "per_channel", "site_to_show", "spatial"]
