"""The architectures of this package, one a file, which an import registers with timm; hosts by name."""

from __future__ import annotations

from importlib import import_module

from saccade.models._host import create_host, host_as_saved, is_dense
from saccade.tables import Table

__all__ = ["create_host", "host_as_saved", "is_dense", "names"]

names = Table[object](__name__, "architecture").names

for _name in names():
    import_module(f"{__name__}.{_name}")
