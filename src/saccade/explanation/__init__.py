"""Attention of a network on images: activation maps, gates, token maps, and gates by class of a trained run."""

from __future__ import annotations

from saccade.explanation.activation_maps import activation_maps
from saccade.explanation.class_gates import ClassGates, GateSpread, StageSpread, class_gates
from saccade.explanation.class_scores import class_scores
from saccade.explanation.explain import explain
from saccade.explanation.explanation import Explained, Explanation, Prediction
from saccade.explanation.faithfulness import Faithfulness, deletion, faithfulness, insertion, road
from saccade.explanation.gates import channel_means, gate_maps, is_spatial, passed_fractions, site_to_show, spatial_map
from saccade.explanation.overlay import overlay
from saccade.explanation.prepared_network import PreparedNetwork, prepare
from saccade.explanation.prompted_regions import PromptedRegions
from saccade.explanation.random_maps import random_maps
from saccade.explanation.target_layer import target_layer
from saccade.explanation.token_maps import (
    attention_entropy,
    draw_token_map,
    foreground_attention,
    has_token_maps,
    strongest_tokens,
    token_maps,
)

__all__ = [
    "ClassGates", "Explained", "Explanation", "Faithfulness", "GateSpread", "Prediction", "PreparedNetwork",
    "PromptedRegions", "StageSpread", "activation_maps", "attention_entropy", "channel_means", "class_gates",
    "class_scores", "deletion", "draw_token_map", "explain", "faithfulness", "foreground_attention", "gate_maps",
    "has_token_maps", "insertion", "is_spatial", "overlay", "passed_fractions", "prepare", "random_maps", "road",
    "site_to_show", "spatial_map", "strongest_tokens", "target_layer", "token_maps",
]  # fmt: skip
