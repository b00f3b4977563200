"""Data layouts, one a file; this folder is the table. ``saccade data SOURCE`` says which one reads a source."""

from __future__ import annotations

from saccade.data.layouts._foreign import foreign
from saccade.data.layouts.base import Layout
from saccade.data.survey import find_folder, no_source_error
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.recipe import Data
from saccade.tables import Table

_TABLE: Table[Layout] = Table(__name__, "layout")
_SHOWN = 8

__all__ = ["Layout", "get", "layout_of", "names", "why_not"]


def names() -> list[str]:
    """The layouts there are, the one that requires most first."""
    return [layout.name for layout in _layouts()]


def get(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        UserError: there is no such layout; names its neighbours.
    """
    found = {layout.name: layout for layout in _layouts()}
    if name not in found:
        raise UserError(
            f"data.layout: there is no layout {name!r}.{did_you_mean(name, found)} There are {', '.join(found)}."
        )
    return found[name]


def layout_of(spec: Data, target: str = "none") -> Layout:
    """The layout that ``spec`` names, or the first that recognises its source.

    Args:
        spec: what to open.
        target: the kind of target that is needed; where a layout does not give it, one that it names in ``also`` may.

    Raises:
        UserError: there is no such layout or source, or nothing recognises it; names the converter for files of another
            program, or says for each layout why not.
    """
    if spec.layout != "auto":
        return get(spec.layout)
    reasons = {}
    for layout in _layouts():
        reason = layout.recognise(spec.source)
        if reason is None:
            others = (other for other in map(get, layout.also) if target in other.targets)
            fitting = (other for other in others if other.recognise(spec.source) is None)
            return layout if target in layout.targets else next(fitting, layout)
        reasons[layout.name] = reason
    root = find_folder(spec.source)
    if root is None:
        raise no_source_error(spec.source, [source for layout in _layouts() for source in layout.sources])
    said = foreign(root)
    if said:
        raise UserError(f"no layout reads {brief(root)}: {said}")
    lie = ", ".join(brief(path.name, 40) for path in sorted(root.iterdir())[:_SHOWN]) or "nothing"
    why = "; ".join(f"not {name}, for {reason}" for name, reason in reasons.items())
    raise UserError(f"no layout reads {brief(root)}, which holds {lie}: {why}")


def why_not(source: str, target: str) -> str:
    """Why no layout that gives targets of the kind ``target`` reads ``source``, as clauses; empty where one does."""
    asked = {layout.name: layout.recognise(source) for layout in _layouts() if target in layout.targets}
    return "" if None in asked.values() else "; ".join(f"not {name}, for {reason}" for name, reason in asked.items())


def _layouts() -> list[Layout]:
    """One of each, in the order of ``rank``."""
    kinds = [_TABLE.get(name, Layout) for name in _TABLE.names()]  # type: ignore[type-abstract]
    return sorted((kind() for kind in kinds), key=lambda layout: layout.rank)
