"""The position ``neck``: the maps that the heads of a network read, at their producers."""

from __future__ import annotations

from saccade.graph.structure import Structure

__all__ = ["neck", "without_neck"]


def neck(structure: Structure) -> list[str]:
    """Return the producers of the maps that the heads read, in order of execution; [] where no head reads a map.

    The maps of each head of :class:`.heads.Ending` are followed back through containers, views, functions, pooling and
    resizing to the outermost module that returned each. So: the three maps of YOLO's ``Detect``, each level of a
    feature pyramid that is not a pooling of another, the output of U-Net's decoder.
    """
    keys = {key for head in structure.ending.heads for key in structure.ending.read(head)}
    return structure.in_order({path for key in keys if (path := structure.producer([key])) is not None})


def without_neck(structure: Structure) -> str:
    """Return why a network has no ``neck``, and what to ask for in its place."""
    if structure.ending.classifies:
        return "it makes one vector of each picture, and has no neck before its head: where='stage[-1]' is its last map"
    return "no head reads its maps, as in a backbone: where='stage' has its maps, where='stage[-1]' the last one"
