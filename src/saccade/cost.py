"""What a network costs: parameters, multiply-adds, latency.

Counted as multiply-adds (MACs): convolutions (grouped, strided, dilated, transposed), linear layers, every product of
matrices and vectors, scaled-dot-product attention by any kernel, deformable convolutions (ours and torchvision's) and
``grid_sample``: one for each product of the kernel, four for each value that is sampled bilinearly. Not counted:
norms, activations, pooling, resizing, softmax and other elementwise work. Counters differ in what they leave out:
ResNet-50 at 224×224 is 4.089 G here and 4.11 G where batch norm counts too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from saccade.errors import UserError
from saccade.probe import example_input, undisturbed

__all__ = ["Cost", "Spread", "count_macs", "measure", "measure_all"]

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
        input: what a forward takes, as for :func:`saccade.sites`: a size (C, H, W), a tensor, a tuple or mapping of
            arguments, or one argument of any other kind; None for the size the network states, else 3×224×224.
        batch: pictures a forward, where ``input`` is a size or None.
        runs: forwards to time; None goes on for ``seconds``, at least 10 runs and at most 1000.
        seconds: how long to time where ``runs`` is None.

    Raises:
        UserError: the size, ``batch`` or ``runs`` is not positive, or the network does not take the input.
    """
    (cost,) = measure_all([model], input, batch=batch, runs=runs, seconds=seconds)
    return cost


def measure_all(
    models: Sequence[nn.Module],
    input: Any = None,
    *,
    batch: int = 1,
    runs: int | None = None,
    seconds: float = 1.0,
) -> list[Cost]:
    """The costs of several networks whose latencies are to be compared.

    Their forwards alternate, one of each in turn: whatever else the machine does meets all of them alike. Arguments
    and errors are those of :func:`measure`; ``runs`` and ``seconds`` are those of each network.
    """
    if runs is not None and runs < 1:
        raise UserError(f"runs must be at least 1, got {runs}")
    calls = [_Call.of(model, input, batch) for model in models]
    macs = [call.first().macs() for call in calls]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(undisturbed(model))
        times = _times(calls, runs, seconds)
    return [
        Cost(
            parameters=sum(p.numel() for p in call.model.parameters()),
            trainable=sum(p.numel() for p in call.model.parameters() if p.requires_grad),
            macs=each,
            latency_ms=_spread(row),
            batch=len(call.args[0]) if call.is_picture else batch,
            threads=torch.get_num_threads(),
            device=call.device.type,
        )
        for call, each, row in zip(calls, macs, times, strict=True)
    ]


def count_macs(model: nn.Module, input: Any = None) -> int:
    """The multiply-adds of one picture through ``model`` in eval mode; see the head of this module for what counts.

    Args:
        model: any network; it is left as it was.
        input: as for :func:`measure`; of a batch (B, C, H, W) the first picture is taken.

    Raises:
        UserError: the network does not take the input.
    """
    return _Call.of(model, input, 1).first().macs()


@dataclass(frozen=True)
class _Call:
    """A network and what one forward of it takes."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, input: Any, batch: int) -> _Call:
        if isinstance(input, Mapping):
            return cls(model, (), dict(input))
        return cls(model, example_input(model, input, batch=batch), {})

    @property
    def is_picture(self) -> bool:
        return len(self.args) == 1 and isinstance(self.args[0], Tensor) and self.args[0].dim() == 4

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def first(self) -> _Call:
        """The call on the first picture alone, where it is on pictures."""
        return _Call(self.model, (self.args[0][:1],), {}) if self.is_picture else self

    def run(self) -> None:
        self.model(*self.args, **self.kwargs)

    def try_out(self) -> None:
        """One forward whose failure is the caller's to mend."""
        try:
            self.run()
        except Exception as error:
            given = [*self.args, *self.kwargs.values()]
            found = ", ".join("×".join(map(str, g.shape)) if isinstance(g, Tensor) else type(g).__name__ for g in given)
            raise UserError(
                f"{type(self.model).__name__} does not run on the input {found}: {type(error).__name__}: {error}. "
                "Say what it takes by input=: a size (C, H, W), a tensor, or a tuple or dict of its arguments."
            ) from error

    def macs(self) -> int:
        """What the counter finds in one forward, with operators that state their own cost at that cost."""
        counter = FlopCounterMode(display=False, custom_mapping={**_RULES, **_torchvision_rules()})
        stated = _StatedCosts(counter)
        with undisturbed(self.model), torch.no_grad(), _separate_layers(), counter, stated:
            self.try_out()
        return counter.get_total_flops() // 2 + stated.correction


def _times(calls: Sequence[_Call], runs: int | None, seconds: float) -> list[list[float]]:
    """Milliseconds of each timed forward of each call, in turn, after those that warm up."""
    times: list[list[float]] = [[] for _ in calls]
    spent, rounds = 0.0, 0
    # Not inference mode: what a network caches in a forward, such as anchors, must still serve it in training.
    with torch.no_grad():
        for call in [*calls] * WARM_UP:
            call.try_out()
        while (
            rounds < runs if runs is not None else rounds < FEWEST or (spent < seconds * len(calls) and rounds < MOST)
        ):
            for call, row in zip(calls, times, strict=True):
                _wait(call.device)
                start = time.perf_counter()
                call.run()
                _wait(call.device)
                elapsed = time.perf_counter() - start
                spent += elapsed
                row.append(1000 * elapsed)
            rounds += 1
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _spread(times: list[float]) -> Spread:
    twentieths = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times
    return Spread(median=statistics.median(times), low=twentieths[0], high=twentieths[-1], runs=len(times))


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
    """Torchvision's operators exist only where something has imported it."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        return {}
    return {torch.ops.torchvision.deform_conv2d: _torchvision_deformable}
