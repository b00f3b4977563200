"""The positions ``decoder`` and ``skip``: the way up of a network, and the maps that join it from the way down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from math import log, prod, sqrt

from saccade.graph.structure import Structure, is_container
from saccade.graph.values import Value, ValueKey, is_within

__all__ = [
    "SkipConnection", "after_encoder", "decoder", "decoder_units", "is_same_level", "no_decoder_reason",
    "no_skip_reason", "skips",
]  # fmt: skip

_FINER = sqrt(2)
"""Ratio of sides from which a map is of a finer level; convolutions without padding trim less."""


@dataclass(frozen=True)
class SkipConnection:
    """A map that concatenates upsampled maps with maps from the way down."""

    path: str
    """Path of the module that returns or reads the map."""
    is_input: bool
    """True if the map is the module's input."""
    channels: tuple[int, int]
    """First channel from the way down, and the one behind the last."""


def decoder(structure: Structure) -> list[str]:
    """Return the last map at each resolution above the coarsest stage's, computed from it, in order; or [].

    Once a finer map is made, coarser ones do not count: they belong to another way down. Prediction maps do not count.
    """
    coarsest = _encoder_end(structure)
    if coarsest is None:
        return []
    from_coarsest = structure.descendants({call.single_output for call in structure.maps[coarsest]})
    levels: list[tuple[Value, str]] = []
    finest = structure.value(coarsest)
    upsampling = _upsampling_modules(structure, from_coarsest)
    for path in after_encoder(structure):
        value = structure.value(path)
        # A module that upsamples may first compute maps of the resolution that it reads.
        if any(path.startswith(module + ".") and is_same_level(read.shape, value.shape) for module, read in upsampling):
            continue
        if structure.maps[path][0].single_output not in from_coarsest or _ratio(value, finest) < 1 / _FINER:
            continue
        if _ratio(value, finest) >= _FINER:
            levels.append((value, path))
            finest = value
        elif levels:
            levels[-1] = value, path
    return [path for _, path in levels]


def after_encoder(structure: Structure) -> list[str]:
    """Return the modules that run after the coarsest stage, in order, without those of prediction maps."""
    coarsest = _encoder_end(structure)
    if coarsest is None:
        return []
    trace, end = structure.trace, structure.maps[coarsest][0].exit_tick
    results = next((call.outputs for call in trace.calls if not call.path), ())
    predictions = structure.heads.predictions.union(key for key in results if key in trace.convolutions)
    return structure.in_order(
        path
        for path, calls in structure.maps.items()
        if calls[0].entry_tick > end and not predictions.issuperset(call.single_output for call in calls)
    )


def decoder_units(structure: Structure) -> list[str]:
    """Return the repeated units of the way up, in order: those of the network, else modules of a repeated class."""
    paths = after_encoder(structure)
    units = [path for path in structure.units if path in paths]
    return units or structure.in_order(structure.repeated_modules(paths))


def no_decoder_reason(structure: Structure) -> str:
    """Return the reason why a network has no way up."""
    coarsest = _encoder_end(structure)
    if coarsest is None:
        return "it has no stages"
    size = "×".join(map(str, structure.value(coarsest).shape[2:]))
    return f"it has no way up: no map computed from its coarsest stage, {coarsest} of {size}, is larger"


def skips(structure: Structure) -> list[SkipConnection]:
    """Return the skip connections that concatenate, in order of execution.

    Such a map is made after the coarsest stage; its parts are maps computed from coarser ones only, and adjacent maps
    with an origin on the way down, which include the nested maps of U-Net++.
    """
    return [skip for _, skip in _joins(structure) if skip is not None]


def no_skip_reason(structure: Structure) -> str:
    """Return the reason why a network has no ``skip``."""
    reason = no_decoder_reason(structure) if not decoder(structure) else (
        "it concatenates no upsampled map with one from the way down; networks that add the two, such as FPN and "
        "LinkNet, have no channels of their own for a skip"
    )  # fmt: skip
    callers = [caller for caller, skip in _joins(structure) if skip is None]
    if callers:
        reason = (
            f"no module alone returns or reads what {', '.join(dict.fromkeys(callers))} concatenates: pass it through "
            "an nn.Identity"
        )
    return reason


def _encoder_end(structure: Structure) -> str | None:
    """Return the module of the coarsest map: the coarsest stage, or a coarser map behind an encoder without units.

    The latter is pooled and ends no stage.
    """
    stage = min(structure.stages, key=lambda path: _area(structure.value(path)), default=None)
    if stage is None or structure.stage_units or not structure.units:
        return stage
    first_entry = min(structure.maps[unit][0].entry_tick for unit in structure.units)
    coarser = [
        path
        for path, calls in structure.maps.items()
        if calls[0].exit_tick < first_entry and _ratio(structure.value(stage), structure.value(path)) >= _FINER
    ]
    return min(structure.in_order(coarser)[::-1], key=lambda path: _area(structure.value(path)), default=stage)


def _upsampling_modules(structure: Structure, from_coarsest: Set[ValueKey | None]) -> list[tuple[str, Value]]:
    """Return the modules that return a map finer than one of ``from_coarsest`` that they read, and what they read."""
    values = structure.trace.values
    return [
        (path, values[key])
        for path in after_encoder(structure)
        for key in structure.maps[path][0].inputs
        if key in from_coarsest and len(values[key].shape) == 4 and _ratio(structure.value(path), values[key]) >= _FINER
    ]


def is_same_level(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Return True if the last two sizes of two shapes differ by less than the step to the next level."""
    return abs(log(prod(shape[-2:]) / prod(other[-2:]))) < 2 * log(_FINER)


def _area(value: Value) -> int:
    return value.shape[2] * value.shape[3]


def _ratio(value: Value, other: Value) -> float:
    """Return the mean ratio of the sides of two maps (B, C, H, W)."""
    return sqrt(_area(value) / _area(other))


def _joins(structure: Structure) -> Iterator[tuple[str, SkipConnection | None]]:
    """Yield the module that concatenates, and its skip connection, or None if no module can hold a plug for it."""
    trace, coarsest = structure.trace, _encoder_end(structure)
    if coarsest is None:
        return
    start_tick = structure.maps[coarsest][0].exit_tick
    channels_of_key: dict[ValueKey, tuple[int, int]] = {}
    for key in trace.concatenations:
        channels = _skip_channels(structure, key) if trace.values[key].tick > start_tick else None
        if channels is not None:
            channels_of_key[key] = channels
    nested = {part for key in channels_of_key for part in trace.concatenations[key]}
    found: dict[tuple[str, bool], None] = {}
    for key, channels in channels_of_key.items():
        if key in nested:
            continue
        same_split = {other for other, split in channels_of_key.items() if split == channels}
        place = _place(structure, key, same_split)
        call = trace.values[key].call
        if place not in found:
            yield (call.path if call else ""), None if place is None else SkipConnection(*place, channels)
        if place is not None:
            found[place] = None


def _skip_channels(structure: Structure, key: ValueKey) -> tuple[int, int] | None:
    """Return the range of the channels from the way down in a concatenation, or None without upsampled ones."""
    values = structure.trace.values
    edges, is_skip, start = list[tuple[int, int]](), list[bool](), 0
    for part in _parts(structure, key):
        if len(values[part].shape) != 4 or values[part].is_fixed_size:
            return None
        edges.append((start, start + values[part].shape[1]))
        is_skip.append(_comes_from_finer(structure, part))
        start = edges[-1][1]
    if start != values[key].shape[1] or all(is_skip) or not any(is_skip):
        return None
    first, last = is_skip.index(True), len(is_skip) - 1 - is_skip[::-1].index(True)
    return (edges[first][0], edges[last][1]) if all(is_skip[first : last + 1]) else None


def _parts(structure: Structure, key: ValueKey) -> Iterator[ValueKey]:
    """Yield the parts of a concatenation, with those of a nested one in its place."""
    for part in structure.trace.concatenations[key]:
        if part in structure.trace.concatenations:
            yield from _parts(structure, part)
        else:
            yield part


def _comes_from_finer(structure: Structure, key: ValueKey) -> bool:
    """Return True if the map is computed, at its own resolution, from a finer map or the image."""
    values = structure.trace.values
    size, visited, queue = values[key], {key}, [key]
    while queue:
        parents = [parent for parent in values[queue.pop()].parents if not values[parent].is_fixed_size]
        for parent in parents:
            if parent in visited:
                continue
            visited.add(parent)
            is_map = len(values[parent].shape) == 4
            ratio = _ratio(values[parent], size) if is_map else 1.0
            if ratio >= _FINER or (is_map and ratio > 1 / _FINER and not values[parent].parents):
                return True
            if ratio > 1 / _FINER:
                queue.append(parent)
    return False


def _place(structure: Structure, key: ValueKey, same_split: set[ValueKey]) -> tuple[str, bool] | None:
    """Return the module for the concatenation ``key``, and True for its input: returning it, else its only reader.

    Failing these, take a module that passes it on unchanged.
    """
    values = structure.trace.values
    calls_by_path = {path: calls for path, calls in structure.maps.items() if structure.plug_parent(path) is not None}
    returning = [
        path
        for path, calls in calls_by_path.items()
        if any(call.single_output == key for call in calls) and same_split.issuperset(c.single_output for c in calls)
    ]
    computing = [path for path in returning if not any(c.single_output in c.inputs for c in calls_by_path[path])]
    if computing:
        return _first(structure, computing), False
    reading = [
        path
        for path, calls in calls_by_path.items()
        if not is_container(calls[0].module)
        and any(call.first_input == key for call in calls)
        and same_split.issuperset(call.first_input for call in calls)
        and all(is_within(user, path) for call in calls if call.first_input for user in values[call.first_input].users)
    ]
    if reading:
        return min(reading, key=lambda path: calls_by_path[path][0].entry_tick), True
    return (_first(structure, returning), False) if returning else None


def _first(structure: Structure, paths: Sequence[str]) -> str:
    return structure.in_order(paths)[0]
