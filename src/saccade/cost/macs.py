"""Multiply-adds (MACs) of one forward pass, counted per operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from saccade.cost.call import ForwardCall
from saccade.graph.states import preserve_state

__all__ = ["operator_macs"]

aten = torch.ops.aten


def operator_macs(call: ForwardCall) -> int:
    """Return PyTorch's MAC count; an operator with an attribute ``macs`` (``saccade.ops.macs``) is counted by it.

    Raises:
        UserError: the network fails on the input.
    """
    counter = FlopCounterMode(display=False, custom_mapping={**_RULES, **_torchvision_rules()})
    custom_macs = _CustomMacs(counter)
    with preserve_state(call.model), torch.no_grad(), _without_mha_fastpath(), counter, custom_macs:
        call.run_checked()
    return counter.get_total_flops() // 2 + custom_macs.correction


class _CustomMacs(TorchFunctionMode):
    """A mode that replaces the counter's MACs by those of an operator's attribute ``macs``."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter
        self.correction = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        count_operator_macs: Callable[..., int] | None = getattr(func, "macs", None)
        counted_before = self.counter.get_total_flops()
        result = func(*args, **kwargs)
        if count_operator_macs is not None:
            self.correction += (
                count_operator_macs(*args, **kwargs) - (self.counter.get_total_flops() - counted_before) // 2
            )
        return result


@contextmanager
def _without_mha_fastpath() -> Iterator[None]:
    """Switch off PyTorch's fused transformer layer, which the counter ignores."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


# FLOPs (two per MAC) of operators that FlopCounterMode lacks; arguments are shapes.
def _matrix_vector(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of a matrix (n, m) or vector (m,) times a vector (m,)."""
    return 2 * prod(a)


def _addmv(c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _addbmm(c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of the sum over the batch of (b, n, m) @ (b, m, p)."""
    return 2 * prod(a) * b[-1]


def _grid_sample(x: Any, grid: Any, interpolation: int = 0, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Return two FLOPs per output value and neighbour (bilinear 2**axes, bicubic 4**axes, nearest 0)."""
    axes = len(x) - 2
    return 2 * prod(out_shape) * {0: 2**axes, 1: 0, 2: 4**axes}[interpolation]


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of (q·kᵀ)·v for q (B, heads, N, d), k (B, heads, M, d) and v (B, heads, M, e)."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _torchvision_deformable(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    n_output_pixels = out_shape[0] * out_shape[2] * out_shape[3]
    return 2 * n_output_pixels * (prod(weight) + 4 * x[1] * weight[2] * weight[3])


_RULES: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _addmv,
    aten.addbmm: _addbmm,
    aten.grid_sampler_2d: _grid_sample,
    aten.grid_sampler_3d: _grid_sample,
    aten.cudnn_grid_sampler: _grid_sample,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
}


def _torchvision_rules() -> dict[Any, Callable[..., int]]:
    """Return the rules of torchvision's operators, if torchvision is imported."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        return {}
    return {torch.ops.torchvision.deform_conv2d: _torchvision_deformable}
