"""Conditions under which optimised implementations run, and the pieces in which they process a map.

Under graph capture (``torch.compile``, ``torch.export``, ONNX), ``torch.func`` and forward mode, and for higher-order
gradients, operators use their definitions, except where their docstrings differ. Operators guarded by
``can_use_pieces`` also use their definitions off the CPU and for maps that are not contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = [
    "can_use_pieces",
    "has_hooks",
    "is_captured",
    "is_plain_layer",
    "is_transformed",
    "needs_composite_backward",
    "piece_of",
    "pieces",
]  # fmt: skip

PIECE_NUMEL = 1 << 19
"""Number of elements of a piece: 2 MiB of float32, which fits the caches."""


def can_use_pieces(*tensors: Tensor) -> bool:
    """Return True for contiguous floating-point CPU tensors (any shape) outside graph capture and ``torch.func``."""
    return (
        all(isinstance(t, Tensor) for t in tensors)
        and all(t.device.type == "cpu" and t.is_contiguous() and t.is_floating_point() for t in tensors)
        and not (is_captured() or is_transformed())
    )


def is_transformed() -> bool:
    """Return True under ``torch.func`` (``vmap``, ``grad``, …) or forward-mode differentiation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_captured() -> bool:
    """Return True under graph capture: ``torch.compile``, ``torch.export``, ONNX or ``torch.jit.trace``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def needs_composite_backward() -> bool:
    """Return True if the running backward pass must consist of PyTorch's own operators.

    It must if its gradients will be differentiated (``create_graph=True``) or ``torch.func`` transforms it.
    """
    return torch.is_grad_enabled() or is_transformed()


def pieces(x: Tensor, *uncut: int) -> list[tuple[slice, ...]]:
    """Return the indices of pieces of x (B, C, H, W), of about ``PIECE_NUMEL`` elements, uncut along ``uncut``."""
    image_numel = max(1, x[:1].numel())
    images_per_piece = max(1, PIECE_NUMEL // image_numel)
    image_slices = [slice(start, start + images_per_piece) for start in range(0, len(x), images_per_piece)]
    axis = next((axis for axis in (1, 2) if axis not in uncut), None)
    if axis is None or images_per_piece > 1:
        return [(image,) for image in image_slices]
    step = max(1, PIECE_NUMEL * x.shape[axis] // image_numel)
    axis_slices = [slice(start, start + step) for start in range(0, x.shape[axis], step)]
    return [(image, *[slice(None)] * (axis - 1), axis_slice) for image in image_slices for axis_slice in axis_slices]


def piece_of(operand: Tensor, piece: tuple[slice, ...]) -> Tensor:
    """Return ``operand[piece]`` for an operand (B, C | 1, H | 1, W | 1) that broadcasts along axes of size 1."""
    return operand[tuple(slice(None) if operand.shape[i] == 1 else index for i, index in enumerate(piece))]


def is_plain_layer(layer: nn.Module) -> bool:
    """Return True if calling ``layer`` only applies its own weight and bias.

    Hooks, wrappers, parametrisations, a ``forward`` of the instance and weights of tensor subclasses change a call.
    """
    layer_type = type(layer)
    has_torch_forward = layer_type.forward is nn.Linear.forward or (
        layer_type.forward is nn.Conv2d.forward
        and layer_type._conv_forward is nn.Conv2d._conv_forward  # type: ignore[attr-defined]
        and layer.padding_mode == "zeros"
    )
    weight = layer._parameters.get("weight")
    is_plain_tensor = type(weight) in (Tensor, nn.Parameter) or (weight is not None and is_captured())
    return has_torch_forward and is_plain_tensor and "forward" not in vars(layer) and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Return True if a hook of the module, or a global one, would run at a call."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or nn.modules.module._has_any_global_hook()
