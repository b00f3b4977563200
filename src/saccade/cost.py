"""What a network costs: parameters, multiply-adds, latency.

Counted as multiply-adds (MACs): convolutions (grouped, strided, dilated, transposed), linear layers, every product of
matrices and vectors, scaled-dot-product attention by any kernel, deformable convolutions (ours and torchvision's) and
``grid_sample``: one for each product of the kernel, four for each value that is sampled bilinearly. Not counted:
norms, activations, pooling, resizing, softmax and other elementwise work. Counters differ in what they leave out:
ResNet-50 at 224×224 is 4.089 G here and 4.11 G where batch norm counts too.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from saccade.errors import UserError
from saccade.probe import example_input, undisturbed

__all__ = ["Cost", "Spread", "count_macs", "measure"]

WARM_UP, FEWEST, MOST = 2, 10, 1000
aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How long a forward takes, in milliseconds, over ``runs`` runs."""

    median: float
    low: float
    """5 % of the runs were faster."""
    high: float
    """5 % of the runs were slower."""
    runs: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What :func:`measure` found; the latency is that of this machine with these threads."""

    parameters: int
    trainable: int
    macs: int
    """Multiply-adds of one picture; where the input was given as several arguments, of that call."""
    latency_ms: Spread
    """Of a forward of ``batch`` pictures."""
    batch: int
    threads: int
    device: str


def measure(
    model: nn.Module, input: Any = None, *, batch: int = 1, runs: int | None = None, seconds: float = 1.0
) -> Cost:
    """Parameters, multiply-adds and latency of ``model`` in eval mode; the model is left as it was.

    Args:
        model: any network.
        input: what a forward takes, as for :func:`saccade.sites`: a size (C, H, W), a tensor, or other arguments;
            None for the size the network states, else 3×224×224.
        batch: pictures a forward, where ``input`` is a size or None.
        runs: forwards to time; None goes on for ``seconds``, at least 10 runs and at most 1000.
        seconds: how long to time where ``runs`` is None.

    Raises:
        UserError: the size, ``batch`` or ``runs`` is not positive, or the network does not take the input.
    """
    if runs is not None and runs < 1:
        raise UserError(f"runs must be at least 1, got {runs}")
    args = example_input(model, input, batch=batch)
    macs = count_macs(model, args)
    with undisturbed(model), torch.inference_mode():
        times = _times(model, args, runs, seconds)
    twentieths = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times
    parameters = list(model.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=macs,
        latency_ms=Spread(median=statistics.median(times), low=twentieths[0], high=twentieths[-1], runs=len(times)),
        batch=len(args[0]) if _is_picture(args) else batch,
        threads=torch.get_num_threads(),
        device=_device(model).type,
    )


def count_macs(model: nn.Module, input: Any = None) -> int:
    """The multiply-adds of one picture through ``model`` in eval mode; see the head of this module for what counts.

    Args:
        model: any network; it is left as it was.
        input: as for :func:`measure`; of a batch (B, C, H, W) the first picture is taken.

    Raises:
        UserError: the network does not take the input.
    """
    args = example_input(model, input)
    if _is_picture(args):
        args = (args[0][:1],)
    counter = FlopCounterMode(display=False, custom_mapping={**_RULES, **_torchvision_rules()})
    stated = _StatedCosts(counter)
    with undisturbed(model), torch.inference_mode(), _separate_layers(), counter, stated:
        _forward(model, args)
    return counter.get_total_flops() // 2 + stated.correction


def _is_picture(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim() == 4


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _forward(model: nn.Module, args: tuple[Any, ...]) -> None:
    try:
        model(*args)
    except Exception as error:
        found = ", ".join("×".join(map(str, a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in args)
        raise UserError(
            f"{type(model).__name__} does not take the input {found}: {type(error).__name__}: {error}. "
            "Give input=, a size (C, H, W) or what its forward takes."
        ) from error


def _times(model: nn.Module, args: tuple[Any, ...], runs: int | None, seconds: float) -> list[float]:
    """Milliseconds of each timed forward, after those that warm up."""
    device = _device(model)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(WARM_UP):
        _forward(model, args)
    wait()
    times: list[float] = []
    spent = 0.0
    while len(times) < runs if runs is not None else len(times) < FEWEST or (spent < seconds and len(times) < MOST):
        start = time.perf_counter()
        model(*args)
        wait()
        elapsed = time.perf_counter() - start
        spent += elapsed
        times.append(1000 * elapsed)
    return times


class _StatedCosts(TorchFunctionMode):
    """Gives operators that state their own cost (``saccade.ops.counted``) that cost, whatever they are made of."""

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
    """Without PyTorch's fused transformer layer, whose one operator would count as nothing."""
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


def _flash(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
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
    aten._scaled_dot_product_flash_attention_for_cpu: _flash,
}


def _torchvision_rules() -> dict[Any, Callable[..., int]]:
    """Torchvision's operators exist only where a network has imported it."""
    if "torchvision" not in sys.modules:
        return {}
    return {torch.ops.torchvision.deform_conv2d: _torchvision_deformable}
