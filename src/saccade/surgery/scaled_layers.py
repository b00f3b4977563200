"""Find the layer that can take a constant channel gate g into its weights.

g (W x + b) = (g W) x + g b        a convolution or affine norm before the plug
g relu(y) = relu(g y)              g ≥ 0, so the layer may be before a ReLU
W (g x) = (W g) x                  the convolution that alone reads the gated map
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saccade.graph.structure import Structure
from saccade.graph.values import ModuleCall, ValueKey, is_within
from saccade.parent_class import base_class
from saccade.surgery.guard import REPLACEMENT_INFO
from saccade.surgery.plug_module import Plug, plugs_in

__all__ = ["LayerFinder", "ScaledLayer"]

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, _BatchNorm, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""Activations that commute with a scale of at least 0."""


@dataclass(frozen=True)
class ScaledLayer:
    """A layer whose output channels, or input channels, can be scaled."""

    path: str
    module: nn.Module
    is_input: bool
    """True for the input channels."""

    @property
    def tensors(self) -> list[Tensor]:
        """Return the weight, and the bias if it is scaled too."""
        tensors = [*self.module._parameters.items(), *self.module._buffers.items()]
        names = ("weight",) if self.is_input else ("weight", "bias")
        return [tensor for name, tensor in tensors if name in names and tensor is not None]

    def scale(self, factor: Tensor) -> None:
        """Multiply the channels by ``factor`` (C,), in float64."""
        with torch.inference_mode(False), torch.no_grad():
            for tensor in self.tensors:
                values = tensor.detach().cpu().double()
                if tensor.ndim == 4 and (self.is_input or isinstance(self.module, nn.ConvTranspose2d)):
                    groups = int(getattr(self.module, "groups", 1))
                    scaled = values.reshape(groups, -1, *values.shape[1:]) * factor.view(groups, 1, -1, 1, 1)
                else:
                    scaled = values * factor.view(-1, *[1] * (values.ndim - 1))
                tensor.copy_(scaled.reshape(values.shape))


class LayerFinder:
    """Finds the layer that takes the gate of a plug.

    Args:
        model: network with plugs.
        structure: structure of ``model`` without its plugs.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._values, self._additions = structure.trace.values, structure.trace.additions
        self._calls = structure.trace.calls_by_path()
        self._results = {key for call in self._calls.get("", []) for key in call.outputs}
        tensors = [tensor for module in model.modules() for tensor in module._parameters.values() if tensor is not None]
        self._uses = Counter(map(id, tensors))
        self._on_input = {path: plug.site.entering for path, _, plug in plugs_in(model)}
        self._plugs_by_key = Counter(map(self._key, self._on_input))

    def find(self, path: str, channels: int, smallest: float) -> ScaledLayer | str:
        """Return the layer for the plug of the module at ``path``, or the reason why no layer can take the gate.

        Args:
            path: path of the plug's parent.
            channels: number of channels C of the map.
            smallest: smallest value of the gate.
        """
        n_calls = len(self._calls.get(path, []))
        if n_calls != 1:
            return f"{path} runs {n_calls} times in a forward pass"
        call = self._calls[path][0]
        if self._on_input[path]:
            key = call.first_input
            if base_class(call.module) is nn.Conv2d and key is not None:
                return self._checked(call, channels, is_input=True)
            if key is None or not all(is_within(user, path) for user in self._values[key].users):
                return f"{path} is not the only reader of its map"
            return self._before(path, key, channels, smallest)
        key = call.single_output
        if key is None:
            return f"{path} does not return one map"
        if key in call.inputs:
            before: ScaledLayer | str = f"{path} returns its input, which others may read without the gate"
        else:
            before = self._before(path, key, channels, smallest)
        if isinstance(before, ScaledLayer):
            return before
        after = self._after(key, channels)
        return after if isinstance(after, ScaledLayer) else f"{before}, and {after}"

    def _key(self, path: str) -> ValueKey | None:
        """Return the key of the map of the plug at ``path``."""
        if path not in self._calls:
            return None
        call = self._calls[path][0]
        return call.first_input if self._on_input[path] else call.single_output

    def _before(self, path: str, key: ValueKey, channels: int, smallest: float) -> ScaledLayer | str:
        """Return the layer that computed the map ``key``, possibly before ReLUs, or the reason why none can."""
        while True:
            call = self._values[key].call
            if call is None:
                return "its map is an input of the network"
            is_direct = call.path == path and not self._on_input[path]
            if not is_direct and (call.path in self._on_input or self._plugs_by_key[key] > 1):
                return f"another plug is between it and {call.path}"
            if len(self._calls[call.path]) != 1:
                return f"{call.path} runs {len(self._calls[call.path])} times in a forward pass"
            if isinstance(call.module, _LAYERS) or "running_var" in call.module._buffers:
                return self._checked(call, channels, is_input=False)
            name = base_class(call.module).__name__
            if not isinstance(call.module, _HOMOGENEOUS) or call.first_input is None:
                return self._description(key, call, name)
            if smallest < 0:
                return f"{call.path} ({name}) is before it, and its gate is negative, {smallest:.3g}"
            key = call.first_input
            if key in self._results or any(user is not call for user in self._values[key].users):
                return f"{call.path} ({name}) is before it, and others read what enters that"

    def _description(self, key: ValueKey, call: ModuleCall, name: str) -> str:
        """Return the reason why the map ``key``, computed in ``call``, cannot be scaled earlier."""
        parents = set(self._values[key].parents)
        if any({addition.left, addition.right} == parents for addition in self._additions):
            return f"its map is a sum, made in {call.path} ({name})"
        if any(not isinstance(child, Plug) for child in call.module.children()):
            return f"its map is computed in {call.path} ({name}), between layers"
        return f"{call.path} ({name}) is before it, which a scale does not pass"

    def _after(self, key: ValueKey, channels: int) -> ScaledLayer | str:
        """Return the convolution that alone reads the map ``key``, or the reason why no layer does."""
        users = self._values[key].users
        if key in self._results or len(users) != 1:
            return f"its map has {len(users) + (key in self._results)} readers"
        call = users[0]
        if call is None or base_class(call.module) is not nn.Conv2d or call.first_input != key:
            reader = "the network" if call is None else f"{call.path} ({base_class(call.module).__name__})"
            return f"its map is read by {reader}, not by a convolution"
        if len(self._calls[call.path]) != 1:
            return f"{call.path} runs {len(self._calls[call.path])} times in a forward pass"
        if self._on_input.get(call.path) or self._plugs_by_key[key] > 1:
            return f"another plug is between it and {call.path}"
        return self._checked(call, channels, is_input=True)

    def _checked(self, call: ModuleCall, channels: int, is_input: bool) -> ScaledLayer | str:
        """Return the layer of ``call``, or the reason why its weights cannot be scaled."""
        module, name = call.module, f"{call.path} ({base_class(call.module).__name__})"
        layer = ScaledLayer(call.path, module, is_input)
        if REPLACEMENT_INFO in vars(module):
            return f"{call.path} is a convolution that {vars(module)[REPLACEMENT_INFO].name} replaces"
        own = itertools.chain(module._parameters.items(), module._buffers.items())
        weight = next((tensor for key, tensor in own if key == "weight"), None)
        if weight is None:
            computed = isinstance(getattr(module, "weight", None), Tensor)
            return f"the weight of {name} is computed from other tensors" if computed else f"{name} has no weight"
        if any(self._uses[id(tensor)] > 1 for tensor in layer.tensors):
            return f"{name} shares its weights with another module"
        is_transposed = is_input or isinstance(module, nn.ConvTranspose2d)
        found = weight.shape[1] * int(getattr(module, "groups", 1)) if is_transposed else weight.shape[0]
        if found != channels or weight.ndim not in (1, 4):
            return f"the weight of {name} has the shape {tuple(weight.shape)}, for {channels} channels"
        return layer
