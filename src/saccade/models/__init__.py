"""Architectures, one per file, registered with timm on import; and functions that create hosts by name."""

from __future__ import annotations

from importlib import import_module

from saccade.models._checkpoint import head_paths, is_attention_key, saved_network_config
from saccade.models._dense import encoder_of, is_dense
from saccade.models._detectors import DEFAULT_DETECTOR, is_detector
from saccade.models._host import create_host, host_as_saved
from saccade.models._weight_settings import find_weight_settings
from saccade.registry import Registry

__all__ = [
    "DEFAULT_DETECTOR", "create_host", "encoder_of", "find_weight_settings", "head_paths", "host_as_saved",
    "is_attention_key", "is_dense", "is_detector", "names", "saved_network_config",
]  # fmt: skip

names = Registry[object](__name__, "architecture").names

for _name in names():
    import_module(f"{__name__}.{_name}")
