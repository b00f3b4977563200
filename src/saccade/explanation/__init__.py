"""Gate maps of a trained network, and the fraction of the feature map that its plugs pass."""

from __future__ import annotations

from saccade.explanation.gates import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show, spatial_map

__all__ = ["channel_means", "gate_maps", "is_spatial", "passed_fractions", "site_to_show", "spatial_map"]
