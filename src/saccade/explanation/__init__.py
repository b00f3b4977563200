"""Attention of a network on images: gates, token maps, and gates by class of a trained run."""

from __future__ import annotations

from saccade.explanation.class_gates import ClassGates, GateSpread, StageSpread, class_gates
from saccade.explanation.gates import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show, spatial_map
from saccade.explanation.token_maps import (
    attention_entropy,
    draw_token_map,
    foreground_attention,
    has_token_maps,
    strongest_tokens,
    token_maps,
)

__all__ = [
    "ClassGates", "GateSpread", "StageSpread", "attention_entropy", "channel_means", "class_gates", "draw_token_map",
    "foreground_attention", "gate_maps", "has_token_maps", "is_spatial", "passed_fractions", "site_to_show",
    "spatial_map", "strongest_tokens", "token_maps",
]  # fmt: skip
