"""Where a trained network looks, and what its gates let through."""

from __future__ import annotations

from saccade.explanation.gates import gate_maps, is_spatial, passing, per_channel, site_to_show, spatial

__all__ = ["gate_maps", "is_spatial", "passing", "per_channel", "site_to_show", "spatial"]
