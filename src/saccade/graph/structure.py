"""How a host is built, read off one forward: maps, repeated units, residual branches, stages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from saccade.graph.heads import Ending
from saccade.graph.proportions import following, pictures
from saccade.graph.trace import Trace
from saccade.graph.values import Addition, Key, ModuleCall, Value, within
from saccade.parent_class import base_class

__all__ = ["Structure", "declared"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CHILDREN = {"children", "named_children", "_modules"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def declared(host: nn.Module) -> list[tuple[str, bool]]:
    """Return the modules of timm's ``feature_info`` in order, and of each whether its map is what enters it."""
    info: Any = getattr(host, "feature_info", None)
    rows = getattr(info, "info", info)
    if not isinstance(rows, (list, tuple)):
        return []
    named = [(row.get("module", ""), row.get("hook_type") == "forward_pre") for row in rows if isinstance(row, dict)]
    modules = {name for name, _ in host.named_modules()}
    # features_only flattens the names of what it takes out of a Sequential.
    return [(n if n in modules else n.replace(".", "_"), enters) for n, enters in named if n]


@dataclass
class Structure:
    """What one traced forward says about the network."""

    trace: Trace

    @cached_property
    def maps(self) -> dict[str, list[ModuleCall]]:
        """The calls of each module that always returned one map that follows the picture, with one channel count."""
        return {
            path: calls
            for path, calls in self.trace.by_path().items()
            if path and all(self._is_map(c) for c in calls) and len({self._channels(c.returned) for c in calls}) == 1
        }

    @cached_property
    def ends(self) -> list[tuple[str, str]]:
        """Each unit and the module at the end of its residual branch, in order of execution.

        A unit is the innermost module that adds a branch to what by-passes it. Units of the same kind that add nothing
        end in what they return.
        """
        branches: dict[str, tuple[str, set[Key | None]]] = {}
        for call, addition, branch in self.branches:
            found = self._maker(branch, addition, call)
            if found is not None:
                branches.setdefault(found.path, (call.path, set()))[1].add(branch)
        ends = [
            (unit, path)
            for path, (unit, keys) in branches.items()
            if {call.returned for call in self.maps[path]} <= keys  # a module also called elsewhere is no end
        ]
        for kin in self._kin({call.path for call, _, _ in self.branches}):
            returned = [call.returned for call in self.maps[kin]]
            inside = [
                calls[-1]
                for path, calls in self.maps.items()
                if path.startswith(kin + ".")
                and [call.returned for call in calls] == returned
                and not self._passes(calls[-1])
            ]
            ends.append((kin, max(inside, key=lambda call: call.left, default=self.maps[kin][-1]).path))
        return sorted(ends, key=lambda end: self.maps[end[1]][0].left)

    @cached_property
    def unreached(self) -> list[str]:
        """Units whose residual branch ends in no module's output."""
        reached = {unit for unit, _ in self.ends}
        return list(dict.fromkeys(unit.path for unit, _, _ in self.branches if unit.path not in reached))

    @cached_property
    def branches(self) -> list[tuple[ModuleCall, Addition, Key]]:
        """The units that add a branch to what by-passes it, the addition, and the branch."""
        found = []
        for addition in self.trace.additions:
            unit = self._owner(addition.call)
            branch = self._branch(addition, unit)
            if branch is not None:
                found.append((unit, addition, branch))
        return found

    @cached_property
    def units(self) -> list[str]:
        """The repeated units, in order of execution.

        Those with a residual branch and their kin, else the smallest modules of one class, met more than once, that
        hold two convolutions of maps, else one.
        """
        adding = {call.path for call, _, _ in self.branches}
        found = {path for path in (*adding, *self._kin(adding)) if path in self.maps} or self._repeated()
        return self.in_order(found)

    @cached_property
    def stages(self) -> list[str]:
        """The map that ends each stage, in order: as the host declares, else the last map before each halving.

        What comes before the first unit is the stem; where there are units, a stage holds one. The network's answer,
        and a map inside a head that keeps its size, end no stage.
        """
        first = min((self.maps[unit][0].left for unit in self.units), default=0)
        named = [self._entering(path) if enters else self._last(path) for path, enters in declared(self.trace.host)]
        if named and None not in named:
            return [path for path in named if path is not None and self.maps[path][0].left >= first]
        last: dict[int, str] = {}
        for path in self.in_order(self.maps):
            if self._ends_stage(path) and not self.ending.answer.issuperset(self._returned(path)):
                last[self._level(path)] = path
        return self.in_order(last.values())

    @cached_property
    def ending(self) -> Ending:
        """The heads of the network."""
        adding = {unit.path for unit, _, _ in self.branches}
        units = [path for path in (*adding, *self._kin(adding)) if path in self.maps]
        return Ending(self.trace, self.maps, [call for path in units for call in self.maps[path]])

    def producer(self, keys: Collection[Key | None]) -> str | None:
        """Return the outermost module whose every call made one of ``keys``, or None."""
        found = [
            path
            for path, calls in self.maps.items()
            if all(call.returned in keys and not self._passes(call) for call in calls)
        ]
        return max(found, key=lambda path: self.maps[path][0].left, default=None)

    def in_order(self, paths: Iterable[str]) -> list[str]:
        """Sort modules that return maps by execution."""
        return sorted(paths, key=lambda path: self.maps[path][0].left)

    def value(self, path: str) -> Value:
        """Return the map of the first call of the module at ``path``."""
        returned = self.maps[path][0].returned
        assert returned is not None, "a map is a tensor"
        return self.trace.values[returned]

    def weights(self, path: str, parent: str) -> torch.dtype:
        """Return the dtype of weights for the map of ``path`` where ``parent`` is called: float32 under autocast."""
        narrow = any(call.autocast for call in self.trace.by_path()[parent])
        return torch.float32 if narrow else self.value(path).dtype

    def stage(self, path: str) -> int:
        """Return the stage of the module at ``path``, counted from 0."""
        moment = self.maps[path][0].left
        before = sum(self.maps[stage][0].left < moment for stage in self.stages)
        return min(before, max(len(self.stages) - 1, 0))

    def parent_of(self, path: str) -> tuple[str, bool] | None:
        """Return the module that can hold a plug for the map of ``path``, and whether the map enters that module.

        A module that runs its own children would run the plug as one of them: the last module inside that returns the
        same tensor takes its place, else the first module that receives it, if no other does.
        """
        calls = self.maps[path]
        if not _runs_children(calls[0].module):
            return path, False
        wanted = [call.returned for call in calls]
        inside = [
            others[-1]
            for name, others in self.maps.items()
            if name.startswith(path + ".")
            and not _runs_children(others[0].module)
            and [c.returned for c in others] == wanted
        ]
        if inside:
            return max(inside, key=lambda c: c.left).path, False
        if not isinstance(calls[0].module, _CONTAINERS):
            return path, False
        for name, others in sorted(self.trace.by_path().items(), key=lambda item: item[1][0].entered):
            if (
                name
                and not _runs_children(others[0].module)
                and [c.first for c in others] == wanted
                and others[0].entered > calls[0].left
                and all(within(user, name) for key in wanted if key for user in self.trace.values[key].users)
            ):
                return name, True
        return None

    def _is_map(self, call: ModuleCall) -> bool:
        value = self.trace.values.get(call.returned) if call.returned is not None else None
        if value is None or call.returned is None or value.fixed or value.matrix or not value.dtype.is_floating_point:
            return False
        return len(value.shape) == 4 and (not self._pictures or call.returned in self._following)

    @cached_property
    def _pictures(self) -> set[tuple[int, int]]:
        return pictures(self.trace)

    @cached_property
    def _following(self) -> set[Key]:
        return following(self.trace, self._pictures)

    def _passes(self, call: ModuleCall) -> bool:
        """Return whether the module returned what it received, as an Identity does."""
        return call.returned in call.received

    def _owner(self, call: ModuleCall) -> ModuleCall:
        """Return the innermost module that holds parameters in its children: a module that only adds owns no branch."""
        while call.parent is not None and not any(True for c in self._children(call.module) for _ in c.parameters()):
            call = call.parent
        return call

    def _children(self, module: nn.Module) -> list[nn.Module]:
        return [child for child in module.children() if not self.trace.hidden(child)]

    def _convolutions(self, module: nn.Module) -> int:
        return isinstance(module, _CONVOLUTIONS) + sum(map(self._convolutions, self._children(module)))

    def _made_of(self, key: Key, since: int) -> set[Key]:
        """Return ``key`` and its ancestors born after the tick ``since``, and their parents."""
        found, waiting = {key}, [key]
        while waiting:
            value = self.trace.values[waiting.pop()]
            if value.born > since:
                new = set(value.parents) - found
                found |= new
                waiting += new
        return found

    def _branch(self, addition: Addition, unit: ModuleCall) -> Key | None:
        """Return which summand left a branch that the other by-passes, or None."""
        if unit.path in self.maps and self.value(unit.path).shape[1] != self._channels(addition.left):
            return None  # a sum of parts of the map, as in Res2Net
        left, right = (self._made_of(key, unit.entered) for key in (addition.left, addition.right))
        if addition.right in left:
            return addition.left
        if addition.left in right:
            return addition.right
        if not left & right:
            return None
        weights = [len(self._layers(part - other) - {unit}) for part, other in ((left, right), (right, left))]
        if weights[0] == weights[1]:
            return None  # two branches of one depth: neither by-passes the other
        return addition.left if weights[0] > weights[1] else addition.right

    def _channels(self, key: Key | None) -> int:
        return self.trace.values[key].shape[1] if key is not None else 0

    def _layers(self, keys: Iterable[Key]) -> set[ModuleCall]:
        """Return the calls of modules with parameters of their own that made ``keys``."""
        calls = {self.trace.values[key].call for key in keys}
        return {call for call in calls if call is not None and any(True for _ in call.module.parameters(recurse=False))}

    def _maker(self, key: Key, addition: Addition, unit: ModuleCall) -> ModuleCall | None:
        """Return the call inside ``unit`` that returned the branch: the outermost that computed it, else passed it."""
        inside = [
            call
            for path, calls in self.maps.items()
            for call in calls
            if call.returned == key and unit.entered < call.left <= addition.tick and call is not unit
            and within(call, unit.path)
        ]  # fmt: skip
        computed = [call for call in inside if not self._passes(call)]
        return max(computed or inside, key=lambda call: call.left, default=None)

    def _kin(self, units: set[str]) -> list[str]:
        """Return modules that add nothing: of the class of ``units``, or with two convolutions in their row."""
        modules = {path: calls[0].module for path, calls in self.maps.items()}
        adding = {self._owner(addition.call).path for addition in self.trace.additions}
        known = {path for path in units if path in modules}
        classes = {base_class(modules[path]) for path in known}
        rows = {_row(path) for path in known}
        return [
            path
            for path, module in modules.items()
            if path not in known | adding
            and not isinstance(module, _CONTAINERS)
            and not any(path.startswith(unit + ".") for unit in known)
            and (base_class(module) in classes or (_row(path) in rows and self._convolutions(module) >= 2))
        ]

    def _repeated(self) -> set[str]:
        modules = {
            path: calls[0].module
            for path, calls in self.maps.items()
            if type(calls[0].module) not in _CONTAINERS and self._children(calls[0].module)
        }
        counts = Counter(map(base_class, modules.values()))
        for least in (2, 1):
            fit = {p for p, m in modules.items() if counts[base_class(m)] > 1 and self._mapping(p) >= least}
            inner = {p for p in fit if not any(other.startswith(p + ".") for other in fit)}
            if inner:
                return inner
        return set()

    def _mapping(self, path: str) -> int:
        """Count the convolutions inside that return maps; those of an SE return vectors."""
        return sum(
            p.startswith(path + ".") and isinstance(calls[0].module, _CONVOLUTIONS) for p, calls in self.maps.items()
        )

    def _last(self, path: str) -> str | None:
        """Return ``path`` if it is a map, else the last map inside, for a stage may return several."""
        inside = (p for p in self.maps if p.startswith(path + "."))
        return path if path in self.maps else max(inside, key=lambda p: self.maps[p][0].left, default=None)

    def _entering(self, path: str) -> str | None:
        """Return the module that made the map that enters the module at ``path``."""
        return self.producer([call.first for call in self.trace.by_path().get(path, [])])

    def _returned(self, path: str) -> set[Key | None]:
        return {call.returned for call in self.maps[path]}

    def _level(self, path: str) -> int:
        """Return how often the picture has been halved, rounded."""
        height = max(self.value(p).shape[2] for p in self.maps)
        height = max([height, *(size[0] for size in self._pictures)])
        return round(math.log2(height / self.value(path).shape[2]))

    def _ends_stage(self, path: str) -> bool:
        level = self._level(path)
        if self.units:
            held = [unit for unit in self.units if unit == path or unit.startswith(path + ".")]
            return bool(held) and all(self._level(unit) == level for unit in held)
        if isinstance(self.maps[path][0].module, _CONTAINERS):
            return False
        convolutions = (p for p, calls in self.maps.items() if isinstance(calls[0].module, _CONVOLUTIONS))
        return any(self._level(p) == level for p in convolutions)


def _runs_children(module: nn.Module) -> bool:
    """Return whether it is a container, or its forward iterates over its children like one."""
    code = getattr(base_class(module).forward, "__code__", None)
    return isinstance(module, _CONTAINERS) or (code is not None and not _CHILDREN.isdisjoint(code.co_names))


def _row(path: str) -> str:
    """Hide the numbers of a path: the modules of one row of blocks share the rest."""
    return re.sub(r"\d+", "#", path)
