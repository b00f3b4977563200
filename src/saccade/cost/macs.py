"""True multiply-adds: what the operators of one forward do."""

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

__all__ = ["true_macs"]

aten = torch.ops.aten


def true_macs(call: ForwardCall) -> int:
    """Count with PyTorch's counter; operators that state their own cost count as that.

    Raises:
        UserError: the network does not take the input.
    """
    counter = FlopCounterMode(display=False, custom_mapping={**_RULES, **_torchvision_rules()})
    stated = _StatedCosts(counter)
    with preserve_state(call.model), torch.no_grad(), _separate_layers(), counter, stated:
        call.try_out()
    return counter.get_total_flops() // 2 + stated.correction


class _StatedCosts(TorchFunctionMode):
    """Give operators that state their own cost (``saccade.ops.counted``) that cost."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter
        self.correction = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        stated: Callable[..., int] | None = getattr(func, "macs", None)
        before = self.counter.get_total_flops()
        result = func(*args, **kwargs)
        if stated is not None:
            self.correction += stated(*args, **kwargs) - (self.counter.get_total_flops() - before) // 2
        return result


@contextmanager
def _separate_layers() -> Iterator[None]:
    """Switch off PyTorch's fused transformer layer, whose one operator would count as nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# What PyTorch's counter lacks, in its own unit: two operations for each multiply-add.
def _vector(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Matrix (n, m) or vector (m,) by vector (m,)."""
    return 2 * prod(a)


def _added_vector(c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _added_batch(c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Sum over the batch of (b, n, m) by (b, m, p)."""
    return 2 * prod(a) * b[-1]


def _sampled(x: Any, grid: Any, interpolation: int = 0, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Neighbours of a point: 2 for each axis, none for nearest, 4 for each axis for bicubic."""
    axes = len(x) - 2
    return 2 * prod(out_shape) * {0: 2**axes, 1: 0, 2: 4**axes}[interpolation]


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """(B, heads, N, d) · (B, heads, M, d), then by (B, heads, M, e)."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _torchvision_deformable(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    places = out_shape[0] * out_shape[2] * out_shape[3]
    return 2 * places * (prod(weight) + 4 * x[1] * weight[2] * weight[3])


_RULES: dict[Any, Callable[..., int]] = {
    aten.mv: _vector,
    aten.dot: _vector,
    aten.vdot: _vector,
    aten.addmv: _added_vector,
    aten.addbmm: _added_batch,
    aten.grid_sampler_2d: _sampled,
    aten.grid_sampler_3d: _sampled,
    aten.cudnn_grid_sampler: _sampled,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
}


def _torchvision_rules() -> dict[Any, Callable[..., int]]:
    """Return the rules of torchvision's operators, which exist once something has imported it."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        return {}
    return {torch.ops.torchvision.deform_conv2d: _torchvision_deformable}
