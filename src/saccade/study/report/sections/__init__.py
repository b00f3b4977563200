"""The sections of the report: one section, one file; the folder is the table of contents."""

from __future__ import annotations

from saccade.registry import Registry
from saccade.study.report.sections.base import Section

__all__ = ["names", "ordered"]

_TABLE: Registry[Section] = Registry(__name__, "section")
names = _TABLE.names


def ordered() -> dict[str, Section]:
    """Every section by name, in the order of the page."""
    found = {name: _TABLE.get(name, Section)() for name in names()}  # type: ignore[type-abstract]
    return dict(sorted(found.items(), key=lambda item: item[1].order))
