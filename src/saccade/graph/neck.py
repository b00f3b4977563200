"""The position ``neck``: the modules whose maps the heads of a network read."""

from __future__ import annotations

from saccade.graph.structure import Structure

__all__ = ["neck", "no_neck_reason"]


def neck(structure: Structure) -> list[str]:
    """Return the modules whose maps the heads read, in order of execution; [] if no head reads a map.

    Examples: the maps that YOLO's ``Detect`` reads, the unpooled levels of a feature pyramid, the output of U-Net's
    decoder.
    """
    keys = {key for head in structure.heads.calls for key in structure.heads.maps_read(head)}
    return structure.in_order({path for key in keys if (path := structure.producer([key])) is not None})


def no_neck_reason(structure: Structure) -> str:
    """Return the reason why a network has no ``neck``, and the position to use instead."""
    if structure.heads.returns_vectors:
        return "it returns one vector per image and has no neck: use where='stage[-1]' for its last map"
    return "no head reads its maps, as in a backbone: use where='stage', or where='stage[-1]' for the last map"
