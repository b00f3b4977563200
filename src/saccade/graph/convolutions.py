"""Positions beside convolutions: ``conv_stem``, ``conv3x3``, ``expanded``, ``activated``."""

from __future__ import annotations

from collections.abc import Set

from saccade.graph.structure import Structure
from saccade.graph.trace import Trace
from saccade.graph.values import ConvolutionCall, Key, ModuleCall, within

__all__ = ["activated", "expanded", "last_spatial", "stem"]


def stem(structure: Structure) -> list[str]:
    """Return ``conv_stem``: the first convolution of a map that learns a kernel, before its norm; [] without one."""
    learned = _learned(structure.trace)
    own = {(key, conv.call) for key, conv in learned.items()}
    return structure.in_order(_returning(structure, own))[:1]


def last_spatial(structure: Structure) -> list[str]:
    """Return ``conv3x3``: the last spatial convolution on every path through each unit, in order of execution.

    A spatial convolution learns a kernel of more than one pixel and makes more than one channel. Paths lead back from
    the end of the residual branch, or from what a unit without one returns, to the unit's input; a shortcut is no path.
    So: the second 3×3 of a basic block, the 3×3 of a bottleneck, the depthwise convolution of MobileNetV2, the 7×7 of
    ConvNeXt, the last of each arm of an Inception block. A network without units has all its spatial convolutions
    (VGG).

    The map is the convolution's own output, before the norm.
    """
    trace = structure.trace
    learned = {key: conv for key, conv in _learned(trace).items() if conv.spatial}
    ways = _ways(structure)
    found = set(learned)
    if ways:
        found = {key for end, since in ways for key in _behind(trace, end, learned.keys(), since)[1]}
    own = {(key, learned[key].call) for key in found}
    return structure.in_order(_returning(structure, own))


def expanded(structure: Structure) -> list[str]:
    """Return ``expanded``: the widened map of each inverted residual, in order of execution.

    An inverted residual is a 1×1 convolution that widens, a depthwise spatial one, and a 1×1 that narrows, with no
    other convolution between them. The position is the last map before the narrowing one that is not scaled by anything
    pooled: what leaves norm and activation, or enters the host's own SE. A block that does not widen has no such map.
    """
    trace = structure.trace
    found: set[Key] = set()
    for narrowing in trace.convolutions.values():
        if narrowing.spatial or narrowing.outputs >= narrowing.inputs:
            continue
        between, depthwise = _behind(trace, narrowing.source, trace.convolutions.keys())
        if depthwise and all(_expands(trace, trace.convolutions[key]) for key in depthwise):
            found |= _last_untouched(structure, between | depthwise)
    outermost: dict[Key | None, str] = {}
    for path in structure.in_order(structure.maps):
        calls = structure.maps[path]
        if all(call.returned in found and call.returned not in call.received for call in calls):
            outermost[calls[0].returned] = path
    return structure.in_order(outermost.values())


def activated(structure: Structure) -> list[tuple[str, bool]]:
    """Return ``activated``: what enters the last convolution of each unit that a spatial one precedes.

    It has passed norm and activation: in a bottleneck it enters the last 1×1, in a basic block it lies between the two
    3×3, in an inverted residual it is ``expanded``; where the host has an SE, it enters the SE. Paths and convolutions
    are those of :func:`last_spatial`, but the last convolution may have any kernel. Units with one convolution a path,
    and networks without units, have none.

    Returns:
        in order of execution, a module, and whether the map enters it: no module returns the map where a function makes
        it or one activation serves several places.
    """
    trace = structure.trace
    learned = _learned(trace)
    found: dict[Key, ConvolutionCall] = {}
    for end, since in _ways(structure):
        waiting, seen = list(_behind(trace, end, learned.keys(), since)[1]), set[Key]()
        while waiting:
            conv = learned[key := waiting.pop()]
            if key in seen:
                continue
            seen.add(key)
            between, before = _behind(trace, conv.source, learned.keys(), since)
            if any(learned[other].spatial for other in before):
                found |= dict.fromkeys(_entering(structure, conv, between | before), conv)
            else:
                waiting += before
    places: dict[Key | None, tuple[str, bool]] = {}
    for path in structure.in_order(structure.maps):
        calls = structure.maps[path]
        if all(call.returned in found and call.returned not in call.received for call in calls):
            places[calls[0].returned] = path, False
    for key, conv in found.items():
        if key not in places and _alone(structure, conv, found.keys()):
            places[key] = conv.call.path, True
    return sorted(set(places.values()), key=lambda place: structure.maps[place[0]][0].left)


def _entering(structure: Structure, conv: ConvolutionCall, maps: set[Key]) -> set[Key]:
    """Return the last of ``maps`` before ``conv`` that nothing pooled has touched: a module's output, or its input."""
    own = conv.call.first
    if own is not None and own in maps - _touched(structure, maps):
        return {own}
    return _last_untouched(structure, maps)


def _alone(structure: Structure, conv: ConvolutionCall, wanted: Set[Key]) -> bool:
    """Return whether the module of ``conv`` receives only maps of ``wanted``, and no other module does."""
    path = conv.call.path
    if path not in structure.maps:
        return False
    received = [call.first for call in structure.trace.by_path()[path]]
    keys = [key for key in received if key is not None and key in wanted]
    users = [user for key in keys for user in structure.trace.values[key].users]
    return len(keys) == len(received) and all(within(user, path) for user in users)


def _learned(trace: Trace) -> dict[Key, ConvolutionCall]:
    """Return the convolutions that learn and make more than one channel; those of one channel are part of a gate."""
    return {
        key: conv
        for key, conv in trace.convolutions.items()
        if conv.outputs > 1 and any(True for _ in conv.call.module.parameters())
    }


def _returning(structure: Structure, own: Set[tuple[Key, ModuleCall]]) -> list[str]:
    """Return the modules of which each call returned the map that it is paired with."""
    return [path for path, calls in structure.maps.items() if all((call.returned, call) in own for call in calls)]


def _ways(structure: Structure) -> list[tuple[Key, int]]:
    """Return the end of each path through a unit, and the tick at which the unit was entered."""
    ways = [(branch, unit.entered) for unit, _, branch in structure.branches]
    adding = {unit for unit, _, _ in structure.branches}
    for unit in structure.units:
        ways += [(call.returned, call.entered) for call in structure.maps[unit] if call not in adding and call.returned]
    return ways


def _expands(trace: Trace, conv: ConvolutionCall) -> bool:
    """Return whether it is depthwise and spatial, and reads only from 1×1 convolutions that widen."""
    if not (conv.depthwise and conv.spatial):
        return False
    before = [trace.convolutions[key] for key in _behind(trace, conv.source, trace.convolutions.keys())[1]]
    return bool(before) and all(not (c.spatial or c.depthwise) and c.outputs > c.inputs for c in before)


def _behind(trace: Trace, key: Key, stops: Set[Key], since: int = -1) -> tuple[set[Key], set[Key]]:
    """Return the maps that ``key`` was made of, itself included, back to ``stops``, and the stops that were met.

    Values born at the tick ``since`` or before, and those that do not follow the picture, are left out.
    """
    seen: set[Key] = set()
    met: set[Key] = set()
    waiting = [key]
    while waiting:
        here = waiting.pop()
        value = trace.values[here]
        if value.born <= since:
            continue
        if here in stops:
            met.add(here)
        elif here not in seen and not value.fixed:
            seen.add(here)
            waiting += value.parents
    return seen, met


def _last_untouched(structure: Structure, maps: set[Key]) -> set[Key]:
    """Return the last of ``maps`` that a module returned and that nothing pooled has touched."""
    returned = {call.returned for calls in structure.maps.values() for call in calls}
    left = (maps - _touched(structure, maps)) & returned
    return {max(left, key=lambda key: structure.trace.values[key].born)} if left else set()


def _touched(structure: Structure, maps: set[Key]) -> set[Key]:
    """Return those of ``maps`` that were made, among them, of something pooled."""
    values = structure.trace.values
    touched: set[Key] = set()
    for key in sorted(maps - structure.trace.convolutions.keys(), key=lambda key: values[key].born):
        if any(parent in touched or _pooled(structure.trace, parent) for parent in values[key].parents):
            touched.add(key)
    return touched


def _pooled(trace: Trace, key: Key) -> bool:
    """Return whether it was made of a map and no longer follows the picture; a constant was not made of one."""
    value = trace.values[key]
    return value.fixed and any(not trace.values[p].fixed or _pooled(trace, p) for p in value.parents)
