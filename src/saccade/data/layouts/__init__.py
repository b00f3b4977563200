"""Registry of data layouts: each public module of this package defines one."""

from __future__ import annotations

from saccade.data.layouts._other_programs import suggest_conversion
from saccade.data.layouts.base import Layout
from saccade.data.survey import find_folder, no_source_error
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.recipe import Data
from saccade.registry import Registry

_REGISTRY: Registry[Layout] = Registry(__name__, "layout")
_MAX_LISTED = 8
"""Number of file names in the message on a folder that no layout reads."""

__all__ = ["Layout", "explain_rejection", "find_layout", "get", "names"]


def names() -> list[str]:
    """Return the names of all layouts in the order in which they are tried."""
    return [layout.name for layout in _layouts()]


def get(name: str) -> Layout:
    """Return the layout called ``name``.

    Raises:
        UserError: there is no such layout; the message suggests similar names.
    """
    layouts = {layout.name: layout for layout in _layouts()}
    if name not in layouts:
        raise UserError(
            f"data.layout: there is no layout {name!r}.{did_you_mean(name, layouts)} There are {', '.join(layouts)}."
        )
    return layouts[name]


def find_layout(spec: Data, target: str = "none") -> Layout:
    """Return the layout named in ``spec``, else the first one that reads its source.

    Args:
        spec: the ``[data]`` section of a recipe.
        target: kind of target needed. If the first layout lacks it, one of its ``alternatives`` is returned if one
            reads the source and has the target, else the first layout.

    Raises:
        UserError: the layout or source does not exist, or no layout reads the source; the message names a converter
            or gives the reason of each layout.
    """
    if spec.layout != "auto":
        return get(spec.layout)
    reasons = {}
    for layout in _layouts():
        reason = layout.check_source(spec.source)
        if reason is None:
            others = (other for other in map(get, layout.alternatives) if target in other.targets)
            readers = (other for other in others if other.check_source(spec.source) is None)
            return layout if target in layout.targets else next(readers, layout)
        reasons[layout.name] = reason
    root = find_folder(spec.source)
    if root is None:
        raise no_source_error(spec.source, [source for layout in _layouts() for source in layout.sources])
    hint = suggest_conversion(root)
    if hint:
        raise UserError(f"no layout reads {brief(root)}: {hint}")
    listing = ", ".join(brief(path.name, 40) for path in sorted(root.iterdir())[:_MAX_LISTED]) or "nothing"
    raise UserError(f"no layout reads {brief(root)}, which holds {listing}: {_joined(reasons)}")


def explain_rejection(source: str, target: str) -> str:
    """Return why no layout with targets of the kind ``target`` reads ``source``; "" if one does."""
    reasons = {layout.name: layout.check_source(source) for layout in _layouts() if target in layout.targets}
    rejections = {name: reason for name, reason in reasons.items() if reason is not None}
    return _joined(rejections) if len(rejections) == len(reasons) else ""


def _joined(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _layouts() -> list[Layout]:
    """Return one instance of each layout, ordered by ``rank``."""
    kinds = [_REGISTRY.get(name, Layout) for name in _REGISTRY.names()]  # type: ignore[type-abstract]
    return sorted((kind() for kind in kinds), key=lambda layout: layout.rank)
