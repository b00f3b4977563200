"""The position ``neck``: the modules whose maps the heads of a network read."""

from __future__ import annotations

from saccade.graph.structure import Structure

__all__ = ["neck", "no_neck_reason"]


def neck(structure: Structure) -> list[str]:
    """Return the modules whose maps the heads read, in order of execution; [] if no head reads a map.

    Sites are the three maps of YOLO's ``Detect``, each level of a feature pyramid that was not pooled from another, the
    output of U-Net's decoder.
    """
    keys = {key for head in structure.heads.calls for key in structure.heads.maps_read(head)}
    return structure.in_order({path for key in keys if (path := structure.producer([key])) is not None})


def no_neck_reason(structure: Structure) -> str:
    """Return the reason why a network has no ``neck``, and the position to use instead."""
    if structure.heads.returns_vectors:
        return "it returns one vector per image and has no neck: where='stage[-1]' is its last map"
    return "no head reads its maps, as in a backbone: where='stage' takes its maps, where='stage[-1]' the last one"
