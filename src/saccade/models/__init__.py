"""The architectures of this package, one a file, which an import registers with timm; hosts by name."""

from __future__ import annotations

from importlib import import_module

from saccade.models._checkpoint import head_of, is_of_attention, saved_network
from saccade.models._host import create_host, host_as_saved, is_dense
from saccade.models._origin import origin
from saccade.registry import Registry

__all__ = [
    "create_host", "head_of", "host_as_saved", "is_dense", "is_of_attention", "names", "origin", "saved_network",
]  # fmt: skip

names = Registry[object](__name__, "architecture").names

for _name in names():
    import_module(f"{__name__}.{_name}")
