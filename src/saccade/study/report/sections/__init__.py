"""Registry of the report's sections: each public module of this package defines one."""

from __future__ import annotations

from saccade.registry import Registry
from saccade.study.report.sections.base import Section

__all__ = ["names", "ordered"]

_REGISTRY: Registry[Section] = Registry(__name__, "section")
names = _REGISTRY.names


def ordered() -> dict[str, Section]:
    """Return all sections by name, in the order of the page."""
    sections = {name: _REGISTRY.get(name, Section)() for name in names()}  # type: ignore[type-abstract]
    return dict(sorted(sections.items(), key=lambda item: item[1].order))
