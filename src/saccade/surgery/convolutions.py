"""Positions beside convolutions, read off one forward: the last spatial one of each unit, the expanded map."""

from __future__ import annotations

from collections.abc import Set

from saccade.surgery.structure import Structure
from saccade.surgery.trace import Convolution, Key, Trace

__all__ = ["expanded", "last_spatial"]


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
    learned = {
        key: conv
        for key, conv in trace.convolutions.items()
        if conv.spatial and conv.outputs > 1 and any(True for _ in conv.call.module.parameters())
    }
    ways = [(branch, unit.entered) for unit, _, branch in structure.branches]
    adding = {unit for unit, _, _ in structure.branches}
    for unit in structure.units:
        ways += [(call.returned, call.entered) for call in structure.maps[unit] if call not in adding and call.returned]
    found = set(learned)
    if ways:
        found = {key for end, since in ways for key in _behind(trace, end, learned.keys(), since)[1]}
    own = {(key, learned[key].call) for key in found}
    return structure.in_order(
        path for path, calls in structure.maps.items() if all((call.returned, call) in own for call in calls)
    )


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


def _expands(trace: Trace, conv: Convolution) -> bool:
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
    values = structure.trace.values
    touched: set[Key] = set()
    for key in sorted(maps - structure.trace.convolutions.keys(), key=lambda key: values[key].born):
        if any(parent in touched or _pooled(structure.trace, parent) for parent in values[key].parents):
            touched.add(key)
    returned = {call.returned for calls in structure.maps.values() for call in calls}
    left = (maps - touched) & returned
    return {max(left, key=lambda key: values[key].born)} if left else set()


def _pooled(trace: Trace, key: Key) -> bool:
    """Was it made of a map, and follows the picture no more? A constant, as a frozen norm's scale, was not."""
    value = trace.values[key]
    return value.fixed and any(not trace.values[p].fixed or _pooled(trace, p) for p in value.parents)
