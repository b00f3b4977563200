"""When the fast forms of operators run, and the pieces in which they go over a map.

Those that ask ``is_eager`` are for contiguous maps on the CPU: other devices and layouts, graphs (``torch.compile``,
``torch.export``, ONNX), ``torch.func`` and forward-mode derivatives take the definitions; the others say themselves
what they take. In all of them so does a gradient that is to be differentiated again (``create_graph=True``) or is one
of many that ``torch.vmap`` works out at once: they ask ``is_composed``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["is_bare", "is_captured", "is_composed", "is_eager", "is_transformed", "is_watched", "part", "pieces"]

PIECE = 1 << 19
"""Values of one piece: 2 MiB of float32, which stays in the caches; of smaller ones the calls would cost more."""


def is_eager(*tensors: Tensor) -> bool:
    """Whether a fast form of the CPU may run: contiguous operands, no graph being made, no ``torch.func``.

    A stand-in for a tensor, such as what ``torch.fx`` traces with, has no fast form.
    """
    return (
        all(isinstance(t, Tensor) for t in tensors)
        and all(t.device.type == "cpu" and t.is_contiguous() and t.is_floating_point() for t in tensors)
        and not (is_captured() or is_transformed())
    )


def is_transformed() -> bool:
    """Whether ``torch.func`` (``vmap``, ``grad``, ``jvp`` ...) or forward mode is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_captured() -> bool:
    """Whether a graph is being made of the call: ``torch.compile``, ``torch.export``, ONNX, ``torch.jit.trace``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_composed() -> bool:
    """Whether a backward is to be composed of PyTorch's own operators.

    Either its gradients will be differentiated (``create_graph=True``), or ``torch.func`` works on it, such as
    ``torch.vmap`` over the gradients of many results.
    """
    return torch.is_grad_enabled() or is_transformed()


def pieces(x: Tensor, *whole: int) -> list[tuple[slice, ...]]:
    """Where the pieces of x (B, C, H, W) lie: of about ``PIECE`` values, one image or some, uncut along ``whole``."""
    each = max(1, x[:1].numel())
    images = max(1, PIECE // each)
    several = [slice(start, start + images) for start in range(0, len(x), images)]
    axis = next((axis for axis in (1, 2) if axis not in whole), None)
    if axis is None or images > 1:
        return [(some,) for some in several]
    step = max(1, PIECE * x.shape[axis] // each)
    parts = [slice(start, start + step) for start in range(0, x.shape[axis], step)]
    return [(image, *[slice(None)] * (axis - 1), part) for image in several for part in parts]


def part(operand: Tensor, at: tuple[slice, ...]) -> Tensor:
    """A piece of what may broadcast along the axes within it."""
    return operand[tuple(slice(None) if operand.shape[i] == 1 else part for i, part in enumerate(at))]


def is_bare(layer: nn.Module) -> bool:
    """Whether a call of the layer is the product with its own weight and bias, and nothing else acts on the call.

    A hook, a wrapper, a parametrization, a ``forward`` of its own or a weight of a tensor subclass (quantised, sharded)
    acts on it: then the layer must be called. Otherwise an algebraic form may read its weight instead.
    """
    kind = type(layer)
    plain = kind.forward is nn.Linear.forward or (
        kind.forward is nn.Conv2d.forward
        and kind._conv_forward is nn.Conv2d._conv_forward  # type: ignore[attr-defined]
        and layer.padding_mode == "zeros"
    )
    weight = layer._parameters.get("weight")
    own = type(weight) in (Tensor, nn.Parameter) or (weight is not None and is_captured())
    return plain and own and "forward" not in vars(layer) and not is_watched(layer)


def is_watched(module: nn.Module) -> bool:
    """Whether a hook would see a call of the module."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or nn.modules.module._has_any_global_hook()
