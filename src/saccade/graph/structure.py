"""The structure of a host: its feature maps, repeated units, residual branches and stages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from saccade.graph.heads import Heads
from saccade.graph.hosts import declared_features
from saccade.graph.proportions import image_shaped_values, image_sizes
from saccade.graph.trace import Trace
from saccade.graph.values import Addition, ModuleCall, Value, ValueKey, is_within
from saccade.parent_class import base_class

__all__ = ["Structure", "is_container"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CHILD_ACCESSORS = {"children", "named_children", "_modules"}
_LAYER_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass
class Structure:
    """The structure of a traced network."""

    trace: Trace

    @cached_property
    def maps(self) -> dict[str, list[ModuleCall]]:
        """Maps path to calls, for modules that always return one image-shaped map of one channel count."""
        return {
            path: calls
            for path, calls in self.trace.calls_by_path().items()
            if path
            and all(self._is_map(c) for c in calls)
            and len({self._channels(c.single_output) for c in calls}) == 1
        }

    @cached_property
    def residual_ends(self) -> list[tuple[str, str]]:
        """Pairs of a unit and the module at the end of its residual branch, in order of execution.

        A unit is the innermost module that adds a residual branch to its shortcut; similar modules without an addition
        end in the last inner module with their output.
        """
        branches_by_end: dict[str, tuple[str, set[ValueKey | None]]] = {}
        for call, addition, branch in self.residual_branches:
            end_call = self._branch_call(branch, addition, call)
            if end_call is not None:
                branches_by_end.setdefault(end_call.path, (call.path, set()))[1].add(branch)
        ends = [
            (unit, path)
            for path, (unit, keys) in branches_by_end.items()
            # A module that also computes other values is not an end.
            if {call.single_output for call in self.maps[path]} <= keys
        ]
        for module_path in self._modules_like({call.path for call, _, _ in self.residual_branches}):
            module_outputs = [call.single_output for call in self.maps[module_path]]
            inner_calls = [
                calls[-1]
                for path, calls in self.maps.items()
                if path.startswith(module_path + ".")
                and [call.single_output for call in calls] == module_outputs
                and not self._returns_input(calls[-1])
            ]
            ends.append(
                (
                    module_path,
                    max(inner_calls, key=lambda call: call.exit_tick, default=self.maps[module_path][-1]).path,
                )
            )
        return sorted(ends, key=lambda end: self.maps[end[1]][0].exit_tick)

    @cached_property
    def units_without_end(self) -> list[str]:
        """Units whose residual branch does not end in a module's output."""
        units_with_end = {unit for unit, _ in self.residual_ends}
        return list(
            dict.fromkeys(unit.path for unit, _, _ in self.residual_branches if unit.path not in units_with_end)
        )

    @cached_property
    def residual_branches(self) -> list[tuple[ModuleCall, Addition, ValueKey]]:
        """Triples of a unit's call, its addition and the key of its residual branch."""
        branches = []
        for addition in self.trace.additions:
            unit = self._parameter_owner(addition.call)
            branch = self._branch(addition, unit)
            if branch is not None:
                branches.append((unit, addition, branch))
        return branches

    @cached_property
    def units(self) -> list[str]:
        """The repeated units, in order of execution.

        They are the modules with a residual branch and modules like them, else the innermost modules of a repeated
        class with two convolutions, else with one.
        """
        units_with_addition = {call.path for call, _, _ in self.residual_branches}
        units = {
            path for path in (*units_with_addition, *self._modules_like(units_with_addition)) if path in self.maps
        } or self.repeated_modules(self.maps)
        return self.in_order(units)

    @cached_property
    def stages(self) -> list[str]:
        """Modules that end the stages, in order: as the host declares, else the last module before each halving.

        Modules before the first unit are the stem; if there are units, every stage holds one of them. Prediction maps
        and finer maps computed from the coarsest stage, as in a decoder, do not end a stage.
        """
        first_unit_exit = min((self.maps[unit][0].exit_tick for unit in self.stage_units), default=0)
        declared_ends = [
            self._input_producer(path) if enters else self._last_map(path)
            for path, enters in declared_features(self.trace.host)
        ]
        if declared_ends and None not in declared_ends:
            return [
                path for path in declared_ends if path is not None and self.maps[path][0].exit_tick >= first_unit_exit
            ]
        ends = [
            path for path in self.in_order(self.maps)
            if self._ends_stage(path) and not self.heads.predictions.issuperset(self._outputs(path))
        ]  # fmt: skip
        if self.units and not self.stage_units:
            first_entry = min(self.maps[unit][0].entry_tick for unit in self.units)
            ends = [path for path in ends if self.maps[path][0].exit_tick < first_entry]
        way_up = self._way_up(ends)
        after_way_up = self.descendants({key for path in way_up for key in self._outputs(path)})
        last_by_level = {self._level(path): path for path in ends if not after_way_up & self._outputs(path)}
        return self.in_order(last_by_level.values())

    @cached_property
    def stage_units(self) -> list[str]:
        """The units, or [] if all run after a coarser map: those of a decoder, behind an encoder without units."""
        first_entry = min((self.maps[unit][0].entry_tick for unit in self.units), default=0)
        coarsest = max((self._level(unit) for unit in self.units), default=0)
        earlier = (path for path, calls in self.maps.items() if calls[0].exit_tick < first_entry)
        return [] if any(self._level(path) > coarsest for path in earlier) else self.units

    @cached_property
    def heads(self) -> Heads:
        """Heads of the network."""
        units_with_addition = {unit.path for unit, _, _ in self.residual_branches}
        units = [path for path in (*units_with_addition, *self._modules_like(units_with_addition)) if path in self.maps]
        return Heads(self.trace, self.maps, [call for path in units for call in self.maps[path]])

    def repeated_modules(self, paths: Iterable[str]) -> set[str]:
        """Return the innermost modules of ``paths`` of a repeated class, with two layers that return maps, else one."""
        modules = {
            path: self.maps[path][0].module
            for path in paths
            if type(self.maps[path][0].module) not in _CONTAINERS and self._children(self.maps[path][0].module)
        }
        counts = Counter(map(base_class, modules.values()))
        for min_layers in (2, 1):
            candidates = {
                p for p, m in modules.items() if counts[base_class(m)] > 1 and self._count_map_layers(p) >= min_layers
            }
            innermost = {p for p in candidates if not any(other.startswith(p + ".") for other in candidates)}
            if innermost:
                return innermost
        return set()

    def producer(self, keys: Collection[ValueKey | None]) -> str | None:
        """Return the last module whose calls all computed one of ``keys``, or None."""
        producers = [
            path
            for path, calls in self.maps.items()
            if all(call.single_output in keys and not self._returns_input(call) for call in calls)
        ]
        return max(producers, key=lambda path: self.maps[path][0].exit_tick, default=None)

    def descendants(self, keys: Collection[ValueKey | None]) -> set[ValueKey | None]:
        """Return ``keys`` and all values computed from them."""
        descendants = set(keys)
        for key, value in self.trace.values.items():
            if not descendants.isdisjoint(value.parents):
                descendants.add(key)
        return descendants

    def in_order(self, paths: Iterable[str]) -> list[str]:
        """Sort module paths by order of execution."""
        return sorted(paths, key=lambda path: self.maps[path][0].exit_tick)

    def value(self, path: str) -> Value:
        """Return the value that the first call of the module at ``path`` returned."""
        single_output = self.maps[path][0].single_output
        assert single_output is not None, "a map is a tensor"
        return self.trace.values[single_output]

    def weight_dtype(self, path: str, parent: str) -> torch.dtype:
        """Return the dtype of a plug's parameters at ``path``: float32 if ``parent`` runs under autocast."""
        runs_under_autocast = any(call.runs_under_autocast for call in self.trace.calls_by_path()[parent])
        return torch.float32 if runs_under_autocast else self.value(path).dtype

    def stage(self, path: str) -> int:
        """Return the stage of the module at ``path``, from 0."""
        tick = self.maps[path][0].exit_tick
        earlier_stages = sum(self.maps[stage][0].exit_tick < tick for stage in self.stages)
        return min(earlier_stages, max(len(self.stages) - 1, 0))

    def plug_parent(self, path: str) -> tuple[str, bool] | None:
        """Return the path of the module that can hold a plug for the map of ``path``, and True for its input; or None.

        A container would run the plug as a child, so its plug goes to the last inner module that returns the map, else
        to the map's only reader.
        """
        calls = self.maps[path]
        if not is_container(calls[0].module):
            return path, False
        outputs = [call.single_output for call in calls]
        inner_calls = [
            path_calls[-1]
            for inner_path, path_calls in self.maps.items()
            if inner_path.startswith(path + ".")
            and not is_container(path_calls[0].module)
            and [c.single_output for c in path_calls] == outputs
        ]
        if inner_calls:
            return max(inner_calls, key=lambda c: c.exit_tick).path, False
        if not isinstance(calls[0].module, _CONTAINERS):
            return path, False
        for reader_path, reader_calls in sorted(
            self.trace.calls_by_path().items(), key=lambda item: item[1][0].entry_tick
        ):
            if (
                reader_path
                and not is_container(reader_calls[0].module)
                and [c.first_input for c in reader_calls] == outputs
                and reader_calls[0].entry_tick > calls[0].exit_tick
                and all(is_within(user, reader_path) for key in outputs if key for user in self.trace.values[key].users)
            ):
                return reader_path, True
        return None

    def _is_map(self, call: ModuleCall) -> bool:
        value = self.trace.values.get(call.single_output) if call.single_output is not None else None
        if (
            value is None
            or call.single_output is None
            or value.is_fixed_size
            or value.is_matrix
            or not value.dtype.is_floating_point
        ):
            return False
        return len(value.shape) == 4 and (not self._image_sizes or call.single_output in self._image_shaped_values)

    @cached_property
    def _image_sizes(self) -> set[tuple[int, int]]:
        return image_sizes(self.trace)

    @cached_property
    def _image_shaped_values(self) -> set[ValueKey]:
        return image_shaped_values(self.trace, self._image_sizes)

    def _returns_input(self, call: ModuleCall) -> bool:
        return call.single_output in call.inputs

    def _parameter_owner(self, call: ModuleCall) -> ModuleCall:
        """Return ``call``, or its innermost ancestor, whose module has children with parameters."""
        while call.parent is not None and not any(True for c in self._children(call.module) for _ in c.parameters()):
            call = call.parent
        return call

    def _children(self, module: nn.Module) -> list[nn.Module]:
        return [child for child in module.children() if not self.trace.is_hidden(child)]

    def _count_layers(self, module: nn.Module) -> int:
        return isinstance(module, _LAYER_TYPES) + sum(map(self._count_layers, self._children(module)))

    def _ancestors(self, key: ValueKey, entry_tick: int) -> set[ValueKey]:
        """Return ``key``, its ancestors created after ``entry_tick``, and the parents of these."""
        ancestors, queue = {key}, [key]
        while queue:
            value = self.trace.values[queue.pop()]
            if value.tick > entry_tick:
                new_parents = set(value.parents) - ancestors
                ancestors |= new_parents
                queue += new_parents
        return ancestors

    def _branch(self, addition: Addition, unit: ModuleCall) -> ValueKey | None:
        """Return the summand that is the residual branch and not the shortcut; None if neither is."""
        if unit.path in self.maps and self.value(unit.path).shape[1] != self._channels(addition.left):
            return None  # the addition sums slices of the map, as in Res2Net
        left, right = (self._ancestors(key, unit.entry_tick) for key in (addition.left, addition.right))
        if addition.right in left:
            return addition.left
        if addition.left in right:
            return addition.right
        if not left & right:
            return None
        n_layers = [len(self._layers(summand - other) - {unit}) for summand, other in ((left, right), (right, left))]
        if n_layers[0] == n_layers[1]:
            return None  # as many layers in both: neither is a shortcut
        return addition.left if n_layers[0] > n_layers[1] else addition.right

    def _channels(self, key: ValueKey | None) -> int:
        return self.trace.values[key].shape[1] if key is not None else 0

    def _layers(self, keys: Iterable[ValueKey]) -> set[ModuleCall]:
        """Return the calls that computed ``keys``, of modules with parameters of their own."""
        calls = {self.trace.values[key].call for key in keys}
        return {call for call in calls if call is not None and any(True for _ in call.module.parameters(recurse=False))}

    def _branch_call(self, key: ValueKey, addition: Addition, unit: ModuleCall) -> ModuleCall | None:
        """Return the outermost call inside ``unit`` that returned the branch, preferably not its input."""
        returning_calls = [
            call
            for path, calls in self.maps.items()
            for call in calls
            if call.single_output == key and unit.entry_tick < call.exit_tick <= addition.tick and call is not unit
            and is_within(call, unit.path)
        ]  # fmt: skip
        computing_calls = [call for call in returning_calls if not self._returns_input(call)]
        return max(computing_calls or returning_calls, key=lambda call: call.exit_tick, default=None)

    def _modules_like(self, units: set[str]) -> list[str]:
        """Return modules without addition that have a class of ``units``, or a path pattern and two layers."""
        modules = {path: calls[0].module for path, calls in self.maps.items()}
        units_with_addition = {self._parameter_owner(addition.call).path for addition in self.trace.additions}
        unit_paths = {path for path in units if path in modules}
        classes = {base_class(modules[path]) for path in unit_paths}
        patterns = {_path_pattern(path) for path in unit_paths}
        return [
            path
            for path, module in modules.items()
            if path not in unit_paths | units_with_addition
            and not isinstance(module, _CONTAINERS)
            and not any(path.startswith(unit + ".") for unit in unit_paths)
            and (base_class(module) in classes or (_path_pattern(path) in patterns and self._count_layers(module) >= 2))
        ]

    def _count_map_layers(self, path: str) -> int:
        """Return the number of inner layers that return maps; those of channel gates do not."""
        return sum(
            p.startswith(path + ".") and isinstance(calls[0].module, _LAYER_TYPES) for p, calls in self.maps.items()
        )

    def _last_map(self, path: str) -> str | None:
        inner_paths = (p for p in self.maps if p.startswith(path + "."))
        return path if path in self.maps else max(inner_paths, key=lambda p: self.maps[p][0].exit_tick, default=None)

    def _input_producer(self, path: str) -> str | None:
        return self.producer([call.first_input for call in self.trace.calls_by_path().get(path, [])])

    def _outputs(self, path: str) -> set[ValueKey | None]:
        return {call.single_output for call in self.maps[path]}

    def _level(self, path: str) -> int:
        """Return the number of halvings from the image to the module's map, rounded."""
        height = max(self.value(p).shape[2] for p in self.maps)
        height = max([height, *(size[0] for size in self._image_sizes)])
        return round(math.log2(height / self.value(path).shape[2]))

    def _way_up(self, ends: Sequence[str]) -> list[str]:
        """Return those of ``ends``, in order, that a decoder computes from the coarsest: coarser levels first.

        Networks such as HRNet, which exchange maps between parallel resolutions, begin with the finest.
        """
        levels = {path: self._level(path) for path in ends}
        coarsest = next((path for path in ends if levels[path] == max(levels.values())), None)
        if coarsest is None:
            return []
        from_coarsest = self.descendants(self._outputs(coarsest))
        found = [path for path in ends if levels[path] < levels[coarsest] and from_coarsest & self._outputs(path)]
        return found if found and levels[found[0]] == max(levels[path] for path in found) else []

    def _ends_stage(self, path: str) -> bool:
        level = self._level(path)
        if self.stage_units:
            inner_units = [unit for unit in self.stage_units if unit == path or unit.startswith(path + ".")]
            return bool(inner_units) and all(self._level(unit) == level for unit in inner_units)
        if isinstance(self.maps[path][0].module, _CONTAINERS):
            return False
        convolutions = (p for p, calls in self.maps.items() if isinstance(calls[0].module, _LAYER_TYPES))
        return any(self._level(p) == level for p in convolutions)


def is_container(module: nn.Module) -> bool:
    """Return True for containers: modules that run all their children in turn."""
    code = getattr(base_class(module).forward, "__code__", None)
    return isinstance(module, _CONTAINERS) or (code is not None and not _CHILD_ACCESSORS.isdisjoint(code.co_names))


def _path_pattern(path: str) -> str:
    """Replace the numbers of a path, so that ``layer1.0`` and ``layer1.1`` share a pattern."""
    return re.sub(r"\d+", "#", path)
