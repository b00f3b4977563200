"""The position ``neck``: the maps that the heads of a network read, at their producers."""

from __future__ import annotations

from saccade.graph.structure import Structure

__all__ = ["neck", "without_neck"]


def neck(structure: Structure) -> list[str]:
    """The producers of the maps that the heads read, in order of execution; [] where no head reads a map.

    A head is found by :class:`.heads.Ending`. Its maps are followed back through lists, tuples, mappings, views,
    functions, and modules without weights that pool or resize, to the outermost module that returned each: behind it
    stands the plug, so that whoever else reads the map sees it too. So it is each of the three maps that go into
    YOLO's ``Detect``, one level of a feature pyramid for each that is not a pooling of another, and for U-Net what its
    decoder returns.
    """
    keys = {key for head in structure.ending.heads for key in structure.ending.read(head)}
    return structure.in_order({path for key in keys if (path := structure.producer([key])) is not None})


def without_neck(structure: Structure) -> str:
    """Why a network in which nothing is at the position ``neck`` has none, and what to ask for in its place."""
    if structure.ending.classifies:
        return "it makes one vector of each picture, and has no neck before its head: where='stage[-1]' is its last map"
    return "no head reads its maps, as in a backbone: where='stage' has its maps, where='stage[-1]' the last one"
