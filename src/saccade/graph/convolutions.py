"""Positions at convolutions: ``conv_stem``, ``conv3x3``, ``expanded``, ``activated``."""

from __future__ import annotations

from collections.abc import Sequence, Set

from saccade.graph.structure import Structure
from saccade.graph.trace import Trace
from saccade.graph.values import ConvolutionCall, ModuleCall, ValueKey, is_within

__all__ = ["activated", "conv_stem", "expanded", "last_spatial"]


def conv_stem(structure: Structure) -> list[str]:
    """Return the first convolution with weights, in a list."""
    convolutions = _weighted_convolutions(structure.trace)
    outputs = {(key, conv.call) for key, conv in convolutions.items()}
    return structure.in_order(_modules_returning(structure, outputs))[:1]


def last_spatial(structure: Structure, units: Sequence[str] | None = None) -> list[str]:
    """Return the sites of ``conv3x3``: the last spatial convolution on each path through each unit, in order.

    ``units`` replaces the units of the network.

    Spatial convolutions have weights, a kernel of more than one pixel and several output channels. The site is the
    output before the norm: the second 3×3 of a basic block, the 3×3 of a bottleneck, the depthwise convolution of
    MobileNetV2. In a network without units (VGG), every spatial convolution is a site.
    """
    trace = structure.trace
    spatial = {key: conv for key, conv in _weighted_convolutions(trace).items() if conv.is_spatial}
    branch_ends = _branch_ends(structure) if units is None else _ends_in(structure, units)
    last_keys = set(spatial)
    if branch_ends:
        last_keys = {
            key for end, unit_entry in branch_ends for key in _ancestors(trace, end, spatial.keys(), unit_entry)[1]
        }
    outputs = {(key, spatial[key].call) for key in last_keys}
    return structure.in_order(_modules_returning(structure, outputs))


def expanded(structure: Structure) -> list[str]:
    """Return the sites of ``expanded``, in order: the widened map of each inverted residual.

    An inverted residual is a widening 1×1, a depthwise spatial and a narrowing 1×1 convolution. The site is the last
    map, before the narrowing convolution, that no squeeze-and-excitation gate has scaled.
    """
    trace = structure.trace
    keys: set[ValueKey] = set()
    for projection in trace.convolutions.values():
        if projection.is_spatial or projection.out_channels >= projection.in_channels:
            continue
        between, depthwise = _ancestors(trace, projection.source, trace.convolutions.keys())
        if depthwise and all(_is_expanded_depthwise(trace, trace.convolutions[key]) for key in depthwise):
            keys |= _last_ungated(structure, between | depthwise)
    path_of_key: dict[ValueKey | None, str] = {}
    for path in structure.in_order(structure.maps):
        calls = structure.maps[path]
        if all(call.single_output in keys and call.single_output not in call.inputs for call in calls):
            path_of_key[calls[0].single_output] = path
    return structure.in_order(path_of_key.values())


def activated(structure: Structure) -> list[tuple[str, bool]]:
    """Return the sites of ``activated``: the input of each unit's last convolution that follows a spatial one.

    In a bottleneck the site is the input of the last 1×1, in a basic block the map between the two 3×3 convolutions, in
    an inverted residual ``expanded``.

    Returns:
        Pairs (module path, is_input), in order of execution; the input is used if no module returns the map alone.
    """
    trace = structure.trace
    convolutions = _weighted_convolutions(trace)
    conv_of_key: dict[ValueKey, ConvolutionCall] = {}
    for end, unit_entry in _branch_ends(structure):
        queue, visited = list(_ancestors(trace, end, convolutions.keys(), unit_entry)[1]), set[ValueKey]()
        while queue:
            conv = convolutions[key := queue.pop()]
            if key in visited:
                continue
            visited.add(key)
            between, earlier = _ancestors(trace, conv.source, convolutions.keys(), unit_entry)
            if any(convolutions[other].is_spatial for other in earlier):
                conv_of_key |= dict.fromkeys(_last_ungated_input(structure, conv, between | earlier), conv)
            else:
                queue += earlier
    site_of_key: dict[ValueKey | None, tuple[str, bool]] = {}
    for path in structure.in_order(structure.maps):
        calls = structure.maps[path]
        if all(call.single_output in conv_of_key and call.single_output not in call.inputs for call in calls):
            site_of_key[calls[0].single_output] = path, False
    for key, conv in conv_of_key.items():
        if key not in site_of_key and _is_only_user(structure, conv, conv_of_key.keys()):
            site_of_key[key] = conv.call.path, True
    return sorted(set(site_of_key.values()), key=lambda site: structure.maps[site[0]][0].exit_tick)


def _last_ungated_input(structure: Structure, conv: ConvolutionCall, maps: set[ValueKey]) -> set[ValueKey]:
    """Return the input of ``conv`` if ``maps`` holds it ungated, else the last ungated module output in ``maps``."""
    conv_input = conv.call.first_input
    if conv_input is not None and conv_input in maps - _gated(structure, maps):
        return {conv_input}
    return _last_ungated(structure, maps)


def _is_only_user(structure: Structure, conv: ConvolutionCall, keys: Set[ValueKey]) -> bool:
    """Return True if all inputs of the module of ``conv`` are in ``keys`` and have no other user."""
    path = conv.call.path
    if path not in structure.maps:
        return False
    inputs = [call.first_input for call in structure.trace.calls_by_path()[path]]
    used_keys = [key for key in inputs if key is not None and key in keys]
    users = [user for key in used_keys for user in structure.trace.values[key].users]
    return len(used_keys) == len(inputs) and all(is_within(user, path) for user in users)


def _weighted_convolutions(trace: Trace) -> dict[ValueKey, ConvolutionCall]:
    """Return the convolutions with parameters and several output channels; spatial gates have one channel."""
    return {
        key: conv
        for key, conv in trace.convolutions.items()
        if conv.out_channels > 1 and any(True for _ in conv.call.module.parameters())
    }


def _modules_returning(structure: Structure, outputs: Set[tuple[ValueKey, ModuleCall]]) -> list[str]:
    return [
        path for path, calls in structure.maps.items() if all((call.single_output, call) in outputs for call in calls)
    ]


def _branch_ends(structure: Structure) -> list[tuple[ValueKey, int]]:
    """Return the last value of each path through a unit, with the unit's entry tick."""
    ends = [(branch, unit.entry_tick) for unit, _, branch in structure.residual_branches]
    return ends + _ends_without_addition(structure, structure.units)


def _ends_in(structure: Structure, units: Sequence[str]) -> list[tuple[ValueKey, int]]:
    """Return what ``_branch_ends`` does, of ``units`` alone."""
    ends = [
        (branch, unit.entry_tick)
        for unit, _, branch in structure.residual_branches
        if any(is_within(unit, path) for path in units)
    ]
    return ends + _ends_without_addition(structure, units)


def _ends_without_addition(structure: Structure, units: Sequence[str]) -> list[tuple[ValueKey, int]]:
    units_with_addition = {unit for unit, _, _ in structure.residual_branches}
    return [
        (call.single_output, call.entry_tick)
        for unit in units
        for call in structure.maps[unit]
        if call not in units_with_addition and call.single_output
    ]


def _is_expanded_depthwise(trace: Trace, conv: ConvolutionCall) -> bool:
    """Return True for a depthwise spatial convolution that reads only widening 1×1 convolutions."""
    if not (conv.is_depthwise and conv.is_spatial):
        return False
    earlier = [trace.convolutions[key] for key in _ancestors(trace, conv.source, trace.convolutions.keys())[1]]
    return bool(earlier) and all(
        not (c.is_spatial or c.is_depthwise) and c.out_channels > c.in_channels for c in earlier
    )


def _ancestors(
    trace: Trace, key: ValueKey, stops: Set[ValueKey], entry_tick: int = -1
) -> tuple[set[ValueKey], set[ValueKey]]:
    """Return ``key`` and its ancestors back to ``stops``, and the stops that were reached.

    Values of fixed size and values created at or before ``entry_tick`` are left out.
    """
    ancestors: set[ValueKey] = set()
    reached_stops: set[ValueKey] = set()
    queue = [key]
    while queue:
        ancestor = queue.pop()
        value = trace.values[ancestor]
        if value.tick <= entry_tick:
            continue
        if ancestor in stops:
            reached_stops.add(ancestor)
        elif ancestor not in ancestors and not value.is_fixed_size:
            ancestors.add(ancestor)
            queue += value.parents
    return ancestors, reached_stops


def _last_ungated(structure: Structure, maps: set[ValueKey]) -> set[ValueKey]:
    """Return the last ungated module output in ``maps`` as a set, or an empty set."""
    module_outputs = {call.single_output for calls in structure.maps.values() for call in calls}
    remaining = (maps - _gated(structure, maps)) & module_outputs
    return {max(remaining, key=lambda key: structure.trace.values[key].tick)} if remaining else set()


def _gated(structure: Structure, maps: set[ValueKey]) -> set[ValueKey]:
    """Return the maps computed from a pooled value, directly or through others in ``maps``."""
    values = structure.trace.values
    gated: set[ValueKey] = set()
    for key in sorted(maps - structure.trace.convolutions.keys(), key=lambda key: values[key].tick):
        if any(parent in gated or _is_pooled(structure.trace, parent) for parent in values[key].parents):
            gated.add(key)
    return gated


def _is_pooled(trace: Trace, key: ValueKey) -> bool:
    """Return True if the value was pooled from a map; False for constants."""
    value = trace.values[key]
    return value.is_fixed_size and any(not trace.values[p].is_fixed_size or _is_pooled(trace, p) for p in value.parents)
