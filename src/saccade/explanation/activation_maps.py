r"""Activation maps: where a feature map A (C, h, w) raises the score s of a class.

    Grad-CAM    α_c = mean over the pixels of ∂s/∂A_c,   L = ReLU(Σ_c α_c A_c)
    map         M = (L − min L) / max, resized bilinearly to the image, then again (M − min M) / max

The package ``grad-cam`` computes L from A and the gradient. Saccade reads both itself, because the package changes the
network's mode and gradients, and mixes up layers that run in another order than they are named. It also adds 1e-7 to
the divisor, which darkens faint maps; here every map reaches 1, except constant maps, which are 0 everywhere.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.explanation.class_scores import scored_part, target_scores, targets_of
from saccade.explanation.feature_maps import channels_first
from saccade.explanation.forward_pass import Canvas, canvas_of, run_network
from saccade.explanation.gates import effective_gates, number_calls
from saccade.explanation.methods import Method, find_method, method_class
from saccade.explanation.target_layer import check_layers, last_maps, target_layer
from saccade.graph.states import preserve_state
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.record import record

__all__ = ["MapsAndOutput", "activation_maps", "maps_and_output"]


@dataclass(frozen=True)
class MapsAndOutput:
    """Activation maps of a batch, with the gates and the network's output from the same forward pass.

    Attributes:
        maps: Maps layer path to (B, H, W).
        gates: Maps site to effective gate (B, C | 1, h | 1, w | 1), see ``gate_maps``.
        output: logits, map or detections of the network, see ``scored_part``.
        classes: class of each image; None for a detector that found nothing.
        boxes: number of the box in each image among those of the class, if one was chosen.
    """

    maps: dict[str, Tensor]
    gates: dict[str, Tensor]
    output: Any
    classes: list[int | None]
    boxes: list[int | None]


def activation_maps(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int | None] | None = None,
    *,
    layers: Sequence[str] | None = None,
    method: str = "gradcam",
    boxes: Sequence[int | None] | None = None,
) -> dict[str, Tensor]:
    """Return where each layer's feature map, plugs included, speaks for a class of each image.

    The network's modes, gradients, buffers, ``requires_grad`` and torch's random state stay as they are.

    Args:
        model: any network.
        images: (B, C, H, W), normalised as the network expects; moved to its device.
        classes: one class per image, see ``class_scores``; None for the class the network predicts.
        layers: paths of modules; None for the last feature map, see ``target_layer``.
        method: name in ``saccade.explanation.methods.METHODS``.
        boxes: for a detector, number of the box to explain in each image, from 1, the best first, among those of the
            class if one is given; None for all boxes of the class.

    Returns:
        mapping from layer to (B, H, W), float32 on the CPU, from 0 to 1. The map of a detector that found no box of the
        class is 0 everywhere. A second call of a layer is ``layer (call 2)``.

    Raises:
        UserError: there is no such layer, class or method, or a layer returns no feature map, or the score does not
            depend on it.
    """
    return maps_and_output(model, images, classes, layers=layers, method=method, boxes=boxes).maps


def maps_and_output(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int | None] | None = None,
    *,
    layers: Sequence[str] | None = None,
    method: str = "gradcam",
    boxes: Sequence[int | None] | None = None,
) -> MapsAndOutput:
    """Return :func:`activation_maps`, for the same arguments, with what else the forward pass gives.

    Raises:
        UserError: as there.
    """
    how = find_method(method)
    cam_class = method_class(how)
    if images.ndim != 4 or len(images) == 0:
        raise UserError(f"images must be a batch (B, C, H, W), got shape {tuple(images.shape)}")
    wanted = [None] * len(images) if classes is None else list(classes)
    with torch.inference_mode(False), torch.compiler.set_stance("force_eager"), preserve_state(model):
        weight = next((p for p in model.parameters() if p.is_floating_point()), images)
        batch = images.to(weight.device, weight.dtype)
        batch = batch.clone() if batch.is_inference() else batch
        paths = [target_layer(model, batch)] if layers is None else check_layers(model, layers)
        layer_pass, size = _LayerPass(model, batch, paths, wanted, boxes, how.uses_gradients), batch.shape[2:]
        maps = {
            name: _heat_map(_cam(cam_class, how, layer_pass, path, activation, gradient), size, layer_pass.canvas)
            for path in paths
            for (name, activation), gradient in zip(
                number_calls(path, layer_pass.activations[path]), layer_pass.gradients[path], strict=True
            )
        }
    return MapsAndOutput(maps, layer_pass.gates, layer_pass.output, layer_pass.classes, layer_pass.boxes)


class _LayerPass:
    """One forward pass, with the activations of the layers and the gradients of the scores.

    Attributes:
        activations: Maps layer to one map (B, C, h, w) per call, detached.
        gradients: Maps layer to the gradient of the score for each of them; zeros for a method without gradients.
        gates: effective gates of the plugs, by site.
        output: logits, map or detections, detached.
        classes: class of each image.
        boxes: number of the box in each image among those of the class, or None.
        canvas: part of the maps that shows the images.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        paths: Sequence[str],
        classes: Sequence[int | None],
        boxes: Sequence[int | None] | None,
        uses_gradients: bool,
    ) -> None:
        self.model, self.images = model, images
        # Without a graph before the first layer. A host may run a part of itself under no_grad, which ends the graph
        # that begins inside; the second attempt records everything.
        for record_all in (False, True):
            with torch.set_grad_enabled(record_all), record(model) as recorded:
                outputs, self.output = _run(model, images, paths, uses_gradients)
            with torch.set_grad_enabled(uses_gradients):
                self.classes, self.boxes = targets_of(self.output, classes, boxes)
                scores = target_scores(self.output, self.classes, self.boxes)
            if scores.requires_grad or not uses_gradients:
                break
        self.gates = effective_gates(model, recorded)
        self.canvas = canvas_of(model, images)
        size = self.canvas.size
        self._check_are_maps(outputs, size)
        self.gradients: dict[str, list[Tensor]] = {}
        for path, tensors in outputs.items():
            gradients = self._gradients(scores, tensors, path) if uses_gradients else map(torch.zeros_like, tensors)
            self.gradients[path] = [channels_first(gradient, size) for gradient in gradients]
        self.activations = {
            path: [channels_first(tensor.detach(), size) for tensor in tensors] for path, tensors in outputs.items()
        }
        self.output = _detached(self.output)

    def _check_are_maps(self, outputs: dict[str, list[Any]], image_size: tuple[int, int]) -> None:
        for path, tensors in outputs.items():
            found = ""
            if not tensors:
                found = "did not run"
            for output in tensors:
                if not isinstance(output, Tensor):
                    found = f"returns a {type(output).__name__}"
                elif output.ndim != 4 or not output.is_floating_point():
                    found = f"returns a tensor of shape {tuple(output.shape)}"
                elif channels_first(output, image_size).shape[2:].numel() == 1:
                    found = "returns one pixel per channel for images of this size"
            if found:
                names = ", ".join(last_maps(self.model, self.images)) or "none"
                raise UserError(f"the layer {path} {found}; a feature map (B, C, H, W) is needed. The last layers with "
                                f"one: {names}")  # fmt: skip

    def _gradients(self, scores: Tensor, tensors: list[Tensor], path: str) -> list[Tensor]:
        found_nothing = not isinstance(scored_part(self.output), Tensor) and not bool(scores.detach().any())
        gradients: Sequence[Tensor | None] = [None] * len(tensors)
        if scores.requires_grad and not found_nothing:
            gradients = torch.autograd.grad(scores.sum(), tensors, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in gradients) and not found_nothing:
            names = ", ".join(last_maps(self.model, self.images)) or "none"
            raise UserError(f"the score of the class does not depend on the layer {path}, or the network cuts the "
                            f"gradient behind it. The last layers with a feature map: {names}")  # fmt: skip
        return [
            torch.zeros_like(t) if gradient is None else gradient
            for t, gradient in zip(tensors, gradients, strict=True)
        ]


def _run(
    model: nn.Module, images: Tensor, paths: Sequence[str], uses_gradients: bool
) -> tuple[dict[str, list[Any]], Any]:
    """Run the network once; return what the layers returned, by path, and the output."""
    outputs: dict[str, list[Any]] = {path: [] for path in paths}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                outputs[path].append(output)
                return None
            if not uses_gradients:
                outputs[path].append(output.detach().clone())
                return None
            torch.set_grad_enabled(True)
            tensor = output.clone() if output.is_inference() else output
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            outputs[path].append(tensor)
            return tensor.clone()  # the host may change its own copy in place

        return only_in_this_thread(hook)

    before = torch.is_grad_enabled()
    try:
        with temporary_hooks() as handles:
            for path in paths:
                handles.append(model.get_submodule(path).register_forward_hook(keep(path)))
            output = run_network(model, images)
            scored_part(output)
    finally:
        torch.set_grad_enabled(before)
    return outputs, output


class _Scored(nn.Module):
    """The network with the score of one class as its output: (N, C, H, W) -> (N,)."""

    def __init__(self, model: nn.Module, label: int | None, box: int | None) -> None:
        super().__init__()
        self.model, self.label, self.box = model, label, box
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)  # the package asks for a parameter's device

    def forward(self, images: Tensor) -> Tensor:
        count = len(images)
        return target_scores(self.model(images), [self.label] * count, [self.box] * count)


def _cam(
    cam_class: Any, method: Method, layer_pass: _LayerPass, path: str, activation: Tensor, gradient: Tensor
) -> np.ndarray[Any, Any]:
    """Return L (B, h, w), before the ReLU, for activations and gradients (B, C, h, w)."""
    model, layer = layer_pass.model, layer_pass.model.get_submodule(path)
    dtype = torch.float32 if method.reruns else torch.float64  # the network runs on what the package makes of them
    arrays = activation.to("cpu", dtype).numpy(), gradient.to("cpu", dtype).numpy()
    if not method.reruns:
        cam = cam_class(_Scored(model, None, None), [])
        return cast("np.ndarray[Any, Any]", cam.get_cam_image(layer_pass.images, layer, None, *arrays, False))
    if len(layer_pass.activations[path]) > 1:
        raise UserError(f"{method.title} needs a layer that runs once; {path} runs {len(layer_pass.activations[path])} "
                        "times")  # fmt: skip
    rows = []
    for i, (label, box) in enumerate(zip(layer_pass.classes, layer_pass.boxes, strict=True)):
        scored = _Scored(model, label, box).to(layer_pass.images.device)
        options = {"ablation_layer": _ablation_layer()} if method.class_name == "AblationCAM" else {}
        cam = cam_class(scored, [], **options)
        one = slice(i, i + 1)
        try:
            with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # the package draws bars of progress
                args = layer_pass.images[one], layer, [lambda score: score], *(array[one] for array in arrays)
                rows.append(cam.get_cam_image(*args, False))
        finally:
            _put_back(model, path, layer)
    return np.concatenate(rows)


def _ablation_layer() -> nn.Module:
    from pytorch_grad_cam.ablation_layer import AblationLayer

    return AblationLayer()


def _put_back(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Undo the package's replacement of ``layer``, which an error leaves in place."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = layer


def _heat_map(cam: np.ndarray[Any, Any], size: Sequence[int], canvas: Canvas) -> Tensor:
    """Return L (B, h, w) rectified, resized so that the image has ``size``, and scaled to [0, 1]: (B, H, W)."""
    values = torch.from_numpy(np.maximum(cam, 0)).double()
    if not bool(values.isfinite().all()):
        raise UserError("the network's feature maps or gradients are not finite")
    height, width = size
    whole = [round(size[i] * canvas.size[i] / canvas.image[i]) for i in range(2)]
    resized = F.interpolate(_unit_range(values)[:, None], whole, mode="bilinear", align_corners=False)[:, 0]
    return _unit_range(resized[:, :height, :width]).float()


def _unit_range(values: Tensor) -> Tensor:
    """Scale each map (B, H, W) to [0, 1]; constant maps become 0."""
    shifted = values - values.amin((1, 2), keepdim=True)
    largest = shifted.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, shifted / largest.where(largest > 0, 1.0), 0.0)


def _detached(output: Any) -> Any:
    part = scored_part(output)
    if isinstance(part, Tensor):
        return part.detach()
    return [{key: value.detach() for key, value in found.items()} for found in part]
