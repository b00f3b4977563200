"""Find the layer whose map an explanation shows: the last feature map before the head.

For a classifier it is the last map of several pixels that a module with weights returns and that the output depends on,
found by one forward pass of one image; maps with few channels, such as attention maps, do not count. A segmenter's last
map repeats its logits, and a detector reads several maps, so for both it is the last map of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.explanation.class_scores import scored_part
from saccade.explanation.feature_maps import as_feature_map, is_image_shaped
from saccade.explanation.forward_pass import canvas_of, run_network
from saccade.graph.hosts import check_network
from saccade.graph.states import preserve_state
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.plug_module import Plug
from saccade.surgery.sites import inspect_unplugged

__all__ = ["check_layers", "last_maps", "target_layer"]

_REMEMBERED = 16
"""Number of feature maps, counted from the last, among which the layer is searched."""
_MAX_EXPANSION = 8
"""Largest factor by which blocks widen their maps inside; inverted residuals and MLPs use 4 to 6."""
_MAX_LAYERS_AFTER = 8
"""Number of layers with weights after the last map, from which a network counts as one of tokens if they are most."""
_SHOWN = 4
"""Number of layers that a message names."""


@dataclass
class _Map:
    """A feature map (B, C, h, w), and the paths of the modules that returned this tensor, the innermost first.

    ``layers_before`` counts the calls of modules with weights of their own until then.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    paths: list[str]
    layers_before: int


@dataclass
class _Probe:
    """Last maps that the output depends on, in order of execution, the output, and the number of layers that ran."""

    maps: list[_Map]
    output: Any
    layers: int


def target_layer(model: nn.Module, images: Tensor) -> str:
    """Return the path of the layer to explain; ``images`` (B, C, H, W) are normalised, and only the first is used.

    Raises:
        UserError: no module returns a feature map of several pixels, or the network does not run on the image.
    """
    check_network(model)
    probe = _probe(model, images)
    part = scored_part(probe.output)
    if isinstance(part, Tensor) and part.ndim <= 2:
        path = _last_wide(model, probe)
    else:
        path = _last_of_encoder(model, images[:1])
    if path is None:
        size = "×".join(map(str, images.shape[2:]))
        raise UserError(
            f"no module of {type(model).__name__} returns a feature map (B, C, H, W) of several pixels for an image of "
            f"{size}; use larger images, or name a layer"
        )
    return path


def last_maps(model: nn.Module, images: Tensor) -> list[str]:
    """Return the last layers with a feature map for ``images`` (B, C, H, W), in order of execution."""
    return [_innermost(model, found.paths) for found in _probe(model, images).maps][-_SHOWN:]


def check_layers(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Return ``layers`` without repetitions.

    Raises:
        UserError: none is given, or the network has no module of that path.
    """
    known = [path for path, _ in _visible_modules(model)]
    layers = [layers] if isinstance(layers, str) else layers
    for layer in layers:
        if layer not in known:
            raise UserError(f"{type(model).__name__} has no layer {layer!r}.{did_you_mean(layer, known)}")
    if not layers:
        raise UserError("name at least one layer, or none at all for the last feature map")
    return list(dict.fromkeys(layers))


def _visible_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module for each module inside ``model``, without its plugs and what they hold."""
    hidden: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, Plug):
            hidden.append(f"{path}.")
        elif path and not any(path.startswith(prefix) for prefix in hidden):
            yield path, module


def _probe(model: nn.Module, images: Tensor) -> _Probe:
    """Run the first image with gradients, and look at the outputs of the modules with parameters."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), images)
    image = images[:1].detach().to(weight.device, weight.dtype).clone().requires_grad_()
    probe = _Probe([], None, 0)

    def remember(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            probe.layers += next(module.parameters(recurse=False), None) is not None
            feature_map = as_feature_map(output, size)
            if feature_map is None:
                return
            if not (probe.maps and probe.maps[-1].tensor is output):
                probe.maps.append(_Map(output, tuple(feature_map.shape), [], probe.layers))
                del probe.maps[:-_REMEMBERED]
            probe.maps[-1].paths.append(path)

        return only_in_this_thread(hook)

    with preserve_state(model), torch.enable_grad(), temporary_hooks() as handles:
        size = canvas_of(model, image).size
        for path, module in _visible_modules(model):
            if next(module.parameters(), None) is not None:
                handles.append(module.register_forward_hook(remember(path)))
        with torch.compiler.set_stance("force_eager"):
            probe.output = run_network(model, image)
        probe.maps = _used(probe)
    return probe


def _used(probe: _Probe) -> list[_Map]:
    """Return the maps that the output depends on, as far as gradients show it."""
    part = scored_part(probe.output)
    tensors = [found.tensor for found in probe.maps if found.tensor.requires_grad]
    if not (isinstance(part, Tensor) and part.requires_grad and tensors):
        return probe.maps
    gradients = torch.autograd.grad(part.sum(), tensors, allow_unused=True)
    unused = {id(tensor) for tensor, gradient in zip(tensors, gradients, strict=True) if gradient is None}
    return [found for found in probe.maps if id(found.tensor) not in unused]


def _last_wide(model: nn.Module, probe: _Probe) -> str | None:
    """Return the layer of the last map with enough channels compared with the others, or None.

    Raises:
        UserError: most of the network runs after the map, on tokens.
    """
    most = max((found.shape[1] for found in probe.maps), default=0)
    for found in reversed(probe.maps):
        if _MAX_EXPANSION * found.shape[1] >= most:
            path, after = _innermost(model, found.paths), probe.layers - found.layers_before
            if after > max(_MAX_LAYERS_AFTER, found.layers_before):
                raise UserError(f"{after} of the {probe.layers} layers of {type(model).__name__} run after its last "
                                f"feature map, {path}, on tokens; an activation map needs feature maps. To explain "
                                f"that layer, name it")  # fmt: skip
            return path
    return None


def _innermost(model: nn.Module, paths: Sequence[str]) -> str:
    """Return the outermost of ``paths``, or its last child if that is a plain container that returns the child's map.

    ``layer4`` becomes ``layer4.1``, as is the custom.
    """
    path = paths[-1]
    while type(model.get_submodule(path)) is nn.Sequential:
        inner = [other for other in paths if other.rpartition(".")[0] == path]
        if not inner:
            break
        path = inner[-1]
    return path


def _last_of_encoder(model: nn.Module, image: Tensor) -> str | None:
    """Return the end of the last stage whose map has several pixels, or None."""
    structure = inspect_unplugged(model, image).structure
    with preserve_state(model):
        size = canvas_of(model, image).size
    shapes = {path: structure.value(path).shape for path in structure.stages}
    ends = [path for path, shape in shapes.items() if is_image_shaped((shape[2], shape[3]), size)]
    return ends[-1] if ends else None
