"""Positions beside convolutions, read off one forward: the network's first one, the last spatial one of each unit, what
enters the one behind it, the expanded map.
"""

from __future__ import annotations

from collections.abc import Set

from saccade.graph.structure import Structure
from saccade.graph.trace import Trace
from saccade.graph.values import ConvolutionCall, Key, ModuleCall

__all__ = ["activated", "expanded", "last_spatial", "stem"]


def stem(structure: Structure) -> list[str]:
    """The position ``conv_stem``: the first convolution of a map that runs, whatever its kernel; [] if there is none.

    It learns its kernel and makes more than one channel; what a stem of several convolutions does behind the first is
    not part of it. The map is the convolution's own output, before the norm.
    """
    learned = _learned(structure.trace)
    own = {(key, conv.call) for key, conv in learned.items()}
    return structure.in_order(_returning(structure, own))[:1]


def last_spatial(structure: Structure) -> list[str]:
    """The position ``conv3x3``: the last spatial convolution on every way through each unit, in order of execution.

    A spatial convolution has a kernel of more than one pixel, whatever its size, groups and dilation, and learns it;
    one that makes a single channel is part of a gate. The ways lead from where the residual branch ends, in a unit
    that adds none from what it returns, back to what entered the unit; a shortcut is none of them. So it is the second
    3×3 of a ResNet's basic block, the 3×3 of its bottleneck, the depthwise convolution of MobileNetV2, the 7×7 of
    ConvNeXt, the 3×3 of a DenseNet's layer, the last of each arm of an Inception block, and each of those a
    Res2Net splits the map into. In a network without units it is every spatial convolution: all of VGG's.

    The map is the convolution's own output, before the norm, also where norm and activation are one module.
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
    """The position ``expanded``: the widened map of each inverted residual, in order of execution.

    An inverted residual is a 1×1 convolution that widens, a depthwise spatial convolution, and a 1×1 convolution that
    narrows, with no other convolution of the map between them, whatever the modules are called. The position is the
    last map before the narrowing one that nothing pooled from the picture has touched: what leaves the norm and the
    activation that follow the depthwise convolution. Where the host has an SE of its own there, that is what
    enters the SE. A block that does not widen (t = 1) has none.
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
    """The position ``activated``: what enters the last convolution of each unit that a spatial one precedes.

    It is the map of a spatial convolution after the norm and the activation that follow it, whatever they are: in a
    bottleneck what enters the last 1×1, in a ResNet's basic block, which ends in a spatial convolution, what passes
    between the two, in an inverted residual without an SE of its own the position ``expanded``, and where the block
    does not widen the same place. What the host has pooled from the picture does not touch it: where there is an SE, it
    is what enters the SE. Ways and learned convolutions are those of :func:`last_spatial`; a convolution of any kernel
    may be the last. A unit with one convolution on every way, and a network without units, have no such map.

    Returns:
        in order of execution, a module, and whether the map is what enters it: no module of its own returns the map
        where one activation serves a unit at several places, or a function makes it.
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
    """The last of ``maps``, of which ``conv`` was made, that nothing pooled has touched; a module's, or its input."""
    own = conv.call.first
    if own is not None and own in maps - _touched(structure, maps):
        return {own}
    return _last_untouched(structure, maps)


def _alone(structure: Structure, conv: ConvolutionCall, wanted: Set[Key]) -> bool:
    """Does the module of ``conv`` receive nothing but maps of ``wanted``, and they nothing else?"""
    path = conv.call.path
    if path not in structure.maps:
        return False
    received = [call.first for call in structure.trace.by_path()[path]]
    keys = [key for key in received if key is not None and key in wanted]
    users = [user for key in keys for user in structure.trace.values[key].users]
    return len(keys) == len(received) and all(_within(user, path) for user in users)


def _within(call: ModuleCall | None, path: str) -> bool:
    return call is not None and (call.path == path or _within(call.parent, path))


def _learned(trace: Trace) -> dict[Key, ConvolutionCall]:
    """The convolutions with something to learn that make more than one channel, and so are no part of a gate."""
    return {
        key: conv
        for key, conv in trace.convolutions.items()
        if conv.outputs > 1 and any(True for _ in conv.call.module.parameters())
    }


def _returning(structure: Structure, own: Set[tuple[Key, ModuleCall]]) -> list[str]:
    """The modules of which each call returned one of the maps that it is paired with."""
    return [path for path, calls in structure.maps.items() if all((call.returned, call) in own for call in calls)]


def _ways(structure: Structure) -> list[tuple[Key, int]]:
    """From where the residual branch of each unit ends, or from what a unit that adds none returns, to its entry."""
    ways = [(branch, unit.entered) for unit, _, branch in structure.branches]
    adding = {unit for unit, _, _ in structure.branches}
    for unit in structure.units:
        ways += [(call.returned, call.entered) for call in structure.maps[unit] if call not in adding and call.returned]
    return ways


def _expands(trace: Trace, conv: ConvolutionCall) -> bool:
    """Is it depthwise and spatial, and is its map made by nothing but 1×1 convolutions that widen?"""
    if not (conv.depthwise and conv.spatial):
        return False
    before = [trace.convolutions[key] for key in _behind(trace, conv.source, trace.convolutions.keys())[1]]
    return bool(before) and all(not (c.spatial or c.depthwise) and c.outputs > c.inputs for c in before)


def _behind(trace: Trace, key: Key, stops: Set[Key], since: int = -1) -> tuple[set[Key], set[Key]]:
    """The maps that ``key`` was made of, itself among them, back to ``stops`` and no further, and the stops met.

    What is no younger than the tick ``since`` is left out, and so is what does not follow the picture any more.
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
    """The last of ``maps`` that a module returned and that was not made, among them, of something pooled."""
    returned = {call.returned for calls in structure.maps.values() for call in calls}
    left = (maps - _touched(structure, maps)) & returned
    return {max(left, key=lambda key: structure.trace.values[key].born)} if left else set()


def _touched(structure: Structure, maps: set[Key]) -> set[Key]:
    """Those of ``maps`` that were made, among them, of something pooled."""
    values = structure.trace.values
    touched: set[Key] = set()
    for key in sorted(maps - structure.trace.convolutions.keys(), key=lambda key: values[key].born):
        if any(parent in touched or _pooled(structure.trace, parent) for parent in values[key].parents):
            touched.add(key)
    return touched


def _pooled(trace: Trace, key: Key) -> bool:
    """Was it made of a map, and follows the picture no more? A constant, as a frozen norm's scale, was not."""
    value = trace.values[key]
    return value.fixed and any(not trace.values[p].fixed or _pooled(trace, p) for p in value.parents)
