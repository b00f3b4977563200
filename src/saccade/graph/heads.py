"""The end of a network: the modules that read its last maps, and the maps that are its answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from math import prod

from torch import nn

from saccade.graph.trace import Trace
from saccade.graph.values import Key, ModuleCall, Value, within
from saccade.parent_class import base_class

__all__ = ["Ending"]


class Ending:
    """The heads of a traced network, and the maps that are its answer.

    Args:
        trace: the record of one forward.
        maps: the calls of the modules that return one map that follows the picture, by path.
        units: the calls of the repeated units.
    """

    def __init__(self, trace: Trace, maps: Mapping[str, list[ModuleCall]], units: Iterable[ModuleCall]) -> None:
        self.trace = trace
        self._maps = maps
        self._returned = self._returned_by(call for calls in maps.values() for call in calls)
        self._units = list(units)
        self._learned = dict.fromkeys(call for call in trace.calls if self._has_weights(call.module))
        self._results = next((call.outputs for call in trace.calls if not call.path), ())

    @cached_property
    def heads(self) -> list[ModuleCall]:
        """The calls of the modules that read maps and whose outputs reach the result through no other reader of maps.

        They are sought among the children that the network calls; where none reads a map, among the children of the
        last of them. A detector may have one for each level. A classifier's head and the last stage of a backbone are
        left out.
        """
        level = next((call for call in self.trace.calls if not call.path), None)
        while level is not None:
            last = [call for call in self._learned if call.parent is level and self._is_last(call)]
            reading = [call for call in last if self.read(call)]
            bodies = [call for call in reading if self._is_body(call)]
            found = [call for call in reading if call not in bodies and not self._gives_vectors(call)]
            if found:
                return [call for call in found if not (self._in_results(self.read(call)) and self._is_stage(call))]
            holding = [call for call in last if call not in reading and self._holds_maps(call)]
            inner = holding or [call for call in bodies if call not in self._units]
            if (reading and not bodies) or not inner:
                return []
            level = max(inner, key=lambda call: call.left)
        return []

    @cached_property
    def logits(self) -> set[Key]:
        """The maps of convolutions that change the number of channels, followed by no layer or activation."""
        values = self.trace.values
        read_until = self._last_moments(values)
        rectified = set(self.trace.rectified)
        for key in reversed(values):
            if key in rectified:
                rectified.update(values[key].parents)
        found: set[Key] = set()
        for key, value in values.items():
            conv = self.trace.convolutions.get(key)
            if conv is not None:
                learns = self._has_weights(conv.call.module)
                if learns and conv.inputs != conv.outputs and read_until[key] < value.born and key not in rectified:
                    found.add(key)
                continue
            live = [parent for parent in value.parents if not values[parent].fixed]
            if live and found.issuperset(live):
                found.add(key)
        return found | self._narrow_results()

    def _narrow_results(self) -> set[Key]:
        """The results of units that have fewer channels than any other unit's, and neither norm nor activation."""
        values = self.trace.values
        returned = self._returned_by(self._units)
        normed = self._layers.difference(self.trace.convolutions)
        found = set()
        for key in returned.intersection(self._results).difference(normed):
            others = [values[other].shape[1] for other in returned if other != key]
            raw = self.trace.rectified.isdisjoint(values[key].parents)
            if raw and others and values[key].shape[1] < min(others):
                found.add(key)
        return found

    @cached_property
    def answer(self) -> set[Key]:
        """The maps that are no features: the logits, what heads return, and what heads make of maps at their sizes.

        A head that keeps the number of channels may make features, as a feature pyramid does: of it, logits alone
        count.
        """
        values = self.trace.values
        found = set(self.logits)
        for head in self.heads:
            maps = self.read(head)
            widths = {values[key].shape[1] for key in maps}
            if head.returned in self._returned and all(values[key].shape[1] in widths for key in head.outputs):
                continue
            found.update(set(head.outputs).difference(head.received))
            inside = self._returned_by(
                call for calls in self._maps.values() for call in calls if within(call, head.path)
            )
            if {values[key].shape[2:] for key in inside} <= {values[key].shape[2:] for key in maps}:
                found |= inside
        return found

    @cached_property
    def classifies(self) -> bool:
        """Whether the result consists of vectors, one a picture."""
        values = [self.trace.values[key] for key in self._results if key in self.trace.values]
        return bool(values) and all(len(value.shape) == 2 for value in values)

    def read(self, call: ModuleCall) -> set[Key]:
        """Return the maps, as their producers returned them, that ``call`` received."""
        return self._behind(call.received)

    def _behind(self, keys: Iterable[Key]) -> set[Key]:
        return {source for key in keys for source in self._sources.get(key, ())}

    @cached_property
    def _sources(self) -> dict[Key, frozenset[Key]]:
        """The maps that each value was made of by functions, views and modules that only pool or resize.

        Tokens made by a layer with weights stand for no map; tokens that are a view of a map stand for it.
        """
        values = self.trace.values
        resized = self._resized()
        found: dict[Key, frozenset[Key]] = {}
        for key, value in values.items():
            if key in self._returned and key not in resized:
                found[key] = frozenset((key,))
            elif value.fixed or key in self._layers:
                found[key] = frozenset()
            else:
                found[key] = frozenset().union(*(found.get(p, frozenset()) for p in self._carried(value)))
        return found

    @cached_property
    def _layers(self) -> set[Key]:
        """What layers with weights returned."""
        return {key for call in self._learned if not self._children(call.module) for key in call.outputs}

    def _carried(self, value: Value) -> list[Key]:
        """Return the parents whose pixels ``value`` holds; of a map and its gate, the map."""
        values = self.trace.values
        live = [key for key in value.parents if not values[key].fixed]
        if len(value.shape) != 4:
            return live if prod(value.shape) == sum(prod(values[key].shape) for key in live) else []
        same = [key for key in live if values[key].shape[1:2] == value.shape[1:2]]
        return same or live

    def _resized(self) -> set[Key]:
        """Return the maps that a module without weights pooled or resized."""
        found = set()
        for call in self.trace.calls:
            if call.returned in self._returned and call not in self._learned and call.first is not None:
                before = self.trace.values.get(call.first)
                if before is not None and before.shape[2:] != self.trace.values[call.returned].shape[2:]:
                    found.add(call.returned)
        return found

    @cached_property
    def _read_until(self) -> dict[Key, int]:
        """When each value, or one made of it, was last read as a map by a module with weights; -1: never."""
        return self._last_moments({key for key, sources in self._sources.items() if sources})

    def _last_moments(self, keys: Collection[Key]) -> dict[Key, int]:
        """Return when each value, or one made of it, last entered a layer as one of ``keys``; -1: never."""
        moments = dict.fromkeys(self.trace.values, -1)
        for call in self._learned:
            for key in call.received:
                if key in keys:
                    moments[key] = max(moments[key], call.entered)
        for key in reversed(self.trace.values):
            for parent in self.trace.values[key].parents:
                moments[parent] = max(moments[parent], moments[key])
        return moments

    @staticmethod
    def _returned_by(calls: Iterable[ModuleCall]) -> set[Key]:
        return {call.returned for call in calls if call.returned is not None}

    def _is_last(self, call: ModuleCall) -> bool:
        """Return whether its output reaches the result and no other module with weights reads it as a map."""
        unread = all(self._read_until.get(key, -1) < call.left for key in call.outputs)
        return unread and not (self._behind_result and self._behind_result.isdisjoint(call.outputs))

    @cached_property
    def _behind_result(self) -> set[Key]:
        """What the result was made of; empty where no map in it is known, as after a detour through NumPy."""
        found = set(self._results)
        for key in reversed(self.trace.values):
            if key in found:
                found.update(self.trace.values[key].parents)
        return found if not found.isdisjoint(self._returned) else set()

    def _holds_maps(self, call: ModuleCall) -> bool:
        return any(within(other, call.path) for calls in self._maps.values() for other in calls)

    def _is_body(self, call: ModuleCall) -> bool:
        """Return whether it is a part of a backbone rather than a head.

        It holds units of a class that units outside it have; or the result holds maps from inside it that it does not
        return; or it is one layer that does not narrow and is no convolution or is activated. What returns logits is a
        head.
        """
        if call.returned in self.logits:
            return False
        if call.returned in self._returned and not self._children(call.module):
            made = self.trace.values[call.returned].shape[1]
            ends = call.returned in self.trace.convolutions and call.returned not in self.trace.rectified
            return not ends and all(made >= self.trace.values[key].shape[1] for key in self.read(call))
        inside = {base_class(unit.module) for unit in self._units if within(unit, call.path)}
        if any(base_class(unit.module) in inside for unit in self._units if not within(unit, call.path)):
            return True
        collected = set(self._results).intersection(self._returned).difference(call.outputs)
        return any(within(self.trace.values[key].call, call.path) for key in collected)

    def _is_stage(self, call: ModuleCall) -> bool:
        """Return whether it makes one map that is not logits."""
        return call.returned in self._returned and call.returned not in self.logits

    def _has_weights(self, module: nn.Module) -> bool:
        """Return whether it has parameters other than those of plugs."""
        own = any(True for _ in module.parameters(recurse=False))
        return own or any(self._has_weights(child) for child in self._children(module))

    def _children(self, module: nn.Module) -> list[nn.Module]:
        return [child for child in module.children() if not self.trace.hidden(child)]

    def _in_results(self, keys: Collection[Key]) -> bool:
        return not set(self._results).isdisjoint(keys)

    def _gives_vectors(self, call: ModuleCall) -> bool:
        """Return whether what it makes of its maps reaches the result only as one vector a picture."""
        values = self.trace.values
        given = {key for key in call.received if self._sources.get(key)}
        pictures = {values[key].shape[0] for key in self._behind(given)}
        reached, dense = set(given), set(given)
        for key, value in values.items():
            if value.born <= call.entered:
                continue
            # Others may read the maps that the head was given too.
            parents = set(value.parents).difference(() if within(value.call, call.path) else given)
            if not parents.isdisjoint(reached):
                reached.add(key)
            if not parents.isdisjoint(dense) and not _is_vector(value, pictures):
                dense.add(key)
        return self._in_results(reached) and not self._in_results(dense)


def _is_vector(value: Value, pictures: Collection[int]) -> bool:
    """Return whether it is one vector for each picture: (B, N), or pooled to (B, N, 1, 1)."""
    pooled = len(value.shape) == 4 and value.fixed
    return pooled or (len(value.shape) == 2 and value.shape[0] in pictures)
