"""The heads of a network: the modules that read its last feature maps, and the maps they predict."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from math import prod

from torch import nn

from saccade.graph.trace import Trace
from saccade.graph.values import ModuleCall, Value, ValueKey, is_within
from saccade.parent_class import base_class

__all__ = ["Heads"]


class Heads:
    """The heads of a traced network, and its prediction maps.

    Args:
        trace: the record of one forward pass.
        maps: calls, by path, of modules that return one feature map.
        units: calls of the repeated units.
    """

    def __init__(self, trace: Trace, maps: Mapping[str, list[ModuleCall]], units: Iterable[ModuleCall]) -> None:
        self.trace = trace
        self._maps = maps
        self._map_keys = self._outputs_of(call for calls in maps.values() for call in calls)
        self._units = list(units)
        self._weighted_calls = dict.fromkeys(call for call in trace.calls if self._has_weights(call.module))
        self._network_output_keys = next((call.outputs for call in trace.calls if not call.path), ())

    @cached_property
    def calls(self) -> list[ModuleCall]:
        """Calls of the heads: modules that read feature maps, with no later such module on the way to the result.

        Search the network's children, else those of its last child with feature maps. A classifier's head and a
        backbone's last stage are left out.
        """
        scope = next((call for call in self.trace.calls if not call.path), None)
        while scope is not None:
            last_calls = [call for call in self._weighted_calls if call.parent is scope and self._is_last(call)]
            readers = [call for call in last_calls if self.maps_read(call)]
            backbones = [call for call in readers if self._is_backbone(call)]
            calls = [
                call for call in readers if call not in backbones and not self._reaches_outputs_only_as_vectors(call)
            ]
            if calls:
                return [
                    call
                    for call in calls
                    if not (self._in_network_outputs(self.maps_read(call)) and self._returns_feature_map(call))
                ]
            map_holders = [call for call in last_calls if call not in readers and self._holds_maps(call)]
            nested = map_holders or [call for call in backbones if call not in self._units]
            if (readers and not backbones) or not nested:
                return []
            scope = max(nested, key=lambda call: call.exit_tick)
        return []

    @cached_property
    def final_conv_maps(self) -> set[ValueKey]:
        """Outputs of weighted convolutions that change the channel count and reach no layer or activation.

        Maps computed from these alone are included, and the maps of ``_narrow_output_maps``.
        """
        values = self.trace.values
        last_entries = self._last_entry_ticks(values)
        activated = set(self.trace.activation_inputs)
        for key in reversed(values):
            if key in activated:
                activated.update(values[key].parents)
        final_conv_maps: set[ValueKey] = set()
        for key, value in values.items():
            conv = self.trace.convolutions.get(key)
            if conv is not None:
                has_weights = self._has_weights(conv.call.module)
                if (
                    has_weights
                    and conv.in_channels != conv.out_channels
                    and last_entries[key] < value.tick
                    and key not in activated
                ):
                    final_conv_maps.add(key)
                continue
            variable_size_parents = [parent for parent in value.parents if not values[parent].is_fixed_size]
            if variable_size_parents and final_conv_maps.issuperset(variable_size_parents):
                final_conv_maps.add(key)
        return final_conv_maps | self._narrow_output_maps()

    def _narrow_output_maps(self) -> set[ValueKey]:
        """Return unit outputs that the network returns, narrower than other units', not from a norm or activation."""
        values = self.trace.values
        unit_outputs = self._outputs_of(self._units)
        non_conv_outputs = self._layer_outputs.difference(self.trace.convolutions)
        narrow_maps = set()
        for key in unit_outputs.intersection(self._network_output_keys).difference(non_conv_outputs):
            other_channel_counts = [values[other].shape[1] for other in unit_outputs if other != key]
            is_not_activated = self.trace.activation_inputs.isdisjoint(values[key].parents)
            if is_not_activated and other_channel_counts and values[key].shape[1] < min(other_channel_counts):
                narrow_maps.add(key)
        return narrow_maps

    @cached_property
    def predictions(self) -> set[ValueKey]:
        """Prediction maps: ``final_conv_maps``, outputs of heads, and maps inside a head that keep its inputs' sizes.

        If a head keeps the number of channels, it may return features, so only its ``final_conv_maps`` count.
        """
        values = self.trace.values
        predictions = set(self.final_conv_maps)
        for head in self.calls:
            maps = self.maps_read(head)
            input_channel_counts = {values[key].shape[1] for key in maps}
            if head.single_output in self._map_keys and all(
                values[key].shape[1] in input_channel_counts for key in head.outputs
            ):
                continue
            predictions.update(set(head.outputs).difference(head.inputs))
            inner_maps = self._outputs_of(
                call for calls in self._maps.values() for call in calls if is_within(call, head.path)
            )
            if {values[key].shape[2:] for key in inner_maps} <= {values[key].shape[2:] for key in maps}:
                predictions |= inner_maps
        return predictions

    @cached_property
    def returns_vectors(self) -> bool:
        """True if the result is one vector per image."""
        values = [self.trace.values[key] for key in self._network_output_keys if key in self.trace.values]
        return bool(values) and all(len(value.shape) == 2 for value in values)

    def maps_read(self, call: ModuleCall) -> set[ValueKey]:
        """Return the feature maps that the inputs of ``call`` derive from."""
        return self._source_maps(call.inputs)

    def _source_maps(self, keys: Iterable[ValueKey]) -> set[ValueKey]:
        return {source for key in keys for source in self._sources.get(key, ())}

    @cached_property
    def _sources(self) -> dict[ValueKey, frozenset[ValueKey]]:
        """Maps each value to the feature maps that it derives from by functions, views, pooling and resizing.

        Other outputs of layers, such as tokens, have no source.
        """
        values = self.trace.values
        resized = self._resized()
        sources: dict[ValueKey, frozenset[ValueKey]] = {}
        for key, value in values.items():
            if key in self._map_keys and key not in resized:
                sources[key] = frozenset((key,))
            elif value.is_fixed_size or key in self._layer_outputs:
                sources[key] = frozenset()
            else:
                sources[key] = frozenset().union(*(sources.get(p, frozenset()) for p in self._content_parents(value)))
        return sources

    @cached_property
    def _layer_outputs(self) -> set[ValueKey]:
        """Outputs of layers: modules with weights and without children."""
        return {key for call in self._weighted_calls if not self._children(call.module) for key in call.outputs}

    def _content_parents(self, value: Value) -> list[ValueKey]:
        """Return the parents that ``value`` is derived from, leaving out gates."""
        values = self.trace.values
        variable_size_parents = [key for key in value.parents if not values[key].is_fixed_size]
        if len(value.shape) != 4:
            return (
                variable_size_parents
                if prod(value.shape) == sum(prod(values[key].shape) for key in variable_size_parents)
                else []
            )
        same_channel_count = [key for key in variable_size_parents if values[key].shape[1:2] == value.shape[1:2]]
        return same_channel_count or variable_size_parents

    def _resized(self) -> set[ValueKey]:
        resized = set()
        for call in self.trace.calls:
            if (
                call.single_output in self._map_keys
                and call not in self._weighted_calls
                and call.first_input is not None
            ):
                input_map = self.trace.values.get(call.first_input)
                if input_map is not None and input_map.shape[2:] != self.trace.values[call.single_output].shape[2:]:
                    resized.add(call.single_output)
        return resized

    @cached_property
    def _last_reads(self) -> dict[ValueKey, int]:
        """Maps each value to the last tick at which a module with weights read it or a map derived from it, or -1."""
        return self._last_entry_ticks({key for key, sources in self._sources.items() if sources})

    def _last_entry_ticks(self, keys: Collection[ValueKey]) -> dict[ValueKey, int]:
        """Return the last tick at which each value, or descendant in ``keys``, entered a module with weights, or -1."""
        ticks = dict.fromkeys(self.trace.values, -1)
        for call in self._weighted_calls:
            for key in call.inputs:
                if key in keys:
                    ticks[key] = max(ticks[key], call.entry_tick)
        for key in reversed(self.trace.values):
            for parent in self.trace.values[key].parents:
                ticks[parent] = max(ticks[parent], ticks[key])
        return ticks

    @staticmethod
    def _outputs_of(calls: Iterable[ModuleCall]) -> set[ValueKey]:
        return {call.single_output for call in calls if call.single_output is not None}

    def _is_last(self, call: ModuleCall) -> bool:
        """Return True if the outputs of ``call`` reach the result without another module with weights."""
        is_not_read_later = all(self._last_reads.get(key, -1) < call.exit_tick for key in call.outputs)
        return is_not_read_later and not (
            self._network_output_ancestors and self._network_output_ancestors.isdisjoint(call.outputs)
        )

    @cached_property
    def _network_output_ancestors(self) -> set[ValueKey]:
        """Ancestors of the result; empty if no traced map is among them, as after a computation in NumPy."""
        ancestors = set(self._network_output_keys)
        for key in reversed(self.trace.values):
            if key in ancestors:
                ancestors.update(self.trace.values[key].parents)
        return ancestors if not ancestors.isdisjoint(self._map_keys) else set()

    def _holds_maps(self, call: ModuleCall) -> bool:
        return any(is_within(other, call.path) for calls in self._maps.values() for other in calls)

    def _is_backbone(self, call: ModuleCall) -> bool:
        """Return True if units outside ``call`` share a class with units inside, or the result holds maps from inside.

        A single layer qualifies if it keeps the number of channels and is not a final convolution.
        """
        if call.single_output in self.final_conv_maps:
            return False
        if call.single_output in self._map_keys and not self._children(call.module):
            n_channels = self.trace.values[call.single_output].shape[1]
            is_final_conv = (
                call.single_output in self.trace.convolutions and call.single_output not in self.trace.activation_inputs
            )
            return not is_final_conv and all(
                n_channels >= self.trace.values[key].shape[1] for key in self.maps_read(call)
            )
        inner_classes = {base_class(unit.module) for unit in self._units if is_within(unit, call.path)}
        if any(base_class(unit.module) in inner_classes for unit in self._units if not is_within(unit, call.path)):
            return True
        result_maps = set(self._network_output_keys).intersection(self._map_keys).difference(call.outputs)
        return any(is_within(self.trace.values[key].call, call.path) for key in result_maps)

    def _returns_feature_map(self, call: ModuleCall) -> bool:
        return call.single_output in self._map_keys and call.single_output not in self.final_conv_maps

    def _has_weights(self, module: nn.Module) -> bool:
        has_own = any(True for _ in module.parameters(recurse=False))
        return has_own or any(self._has_weights(child) for child in self._children(module))

    def _children(self, module: nn.Module) -> list[nn.Module]:
        return [child for child in module.children() if not self.trace.is_hidden(child)]

    def _in_network_outputs(self, keys: Collection[ValueKey]) -> bool:
        return not set(self._network_output_keys).isdisjoint(keys)

    def _reaches_outputs_only_as_vectors(self, call: ModuleCall) -> bool:
        """Return True if the maps that ``call`` reads reach the result only as one vector per image."""
        values = self.trace.values
        inputs = {key for key in call.inputs if self._sources.get(key)}
        batch_sizes = {values[key].shape[0] for key in self._source_maps(inputs)}
        derived, not_vectors = set(inputs), set(inputs)
        for key, value in values.items():
            if value.tick <= call.entry_tick:
                continue
            # Modules outside the head may also read its inputs.
            parents = set(value.parents).difference(() if is_within(value.call, call.path) else inputs)
            if not parents.isdisjoint(derived):
                derived.add(key)
            if not parents.isdisjoint(not_vectors) and not _is_vector(value, batch_sizes):
                not_vectors.add(key)
        return self._in_network_outputs(derived) and not self._in_network_outputs(not_vectors)


def _is_vector(value: Value, batch_sizes: Collection[int]) -> bool:
    """Return True for one vector per image: (B, N), or pooled to (B, N, 1, 1)."""
    is_pooled = len(value.shape) == 4 and value.is_fixed_size
    return is_pooled or (len(value.shape) == 2 and value.shape[0] in batch_sizes)
