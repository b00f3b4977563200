"""All costs of a network, or of several that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.cost.call import ForwardCall
from saccade.cost.latency import Spread, spread, times
from saccade.cost.macs import true_macs
from saccade.cost.memory import forward_memory, step_memory
from saccade.cost.thop import thop_counts
from saccade.errors import UserError, did_you_mean
from saccade.graph.states import preserve_state

__all__ = ["COUNTERS", "Cost", "count_macs", "measure", "measure_all"]

COUNTERS = ("true", "thop")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What :func:`measure` found; the latency is that of this machine with these threads."""

    parameters: int
    trainable: int
    macs: int
    """Multiply-adds of one picture; where the input was given as several arguments, of that call."""
    counter: str
    """Whose rules gave ``parameters`` and ``macs``: ``true`` or ``thop``."""
    latency_ms: Spread
    """Of a forward of ``batch`` pictures."""
    memory: int
    """Bytes live at once at most in a forward of ``batch`` pictures: parameters, buffers, input, activations. Except on
    CUDA, what a kernel takes and gives back while it runs is not among them."""
    step_memory: int | None
    """The same of a training step: a forward that keeps what the backward needs, the backward, and the gradients of
    all parameters, without the state of an optimiser. None where nothing can be trained."""
    batch: int
    threads: int
    device: str


def measure(
    model: nn.Module,
    input: Any = None,
    *,
    batch: int = 1,
    runs: int | None = None,
    seconds: float = 1.0,
    counter: str = "true",
) -> Cost:
    """Parameters, multiply-adds, latency and peak memory of ``model`` in eval mode; the model is left as it was.

    Args:
        model: any network.
        input: what a forward takes, as for :func:`saccade.sites`: a size (C, H, W), a tensor, a tuple or mapping of
            arguments, or one argument of any other kind; None for the size the network states, else 3×224×224.
        batch: pictures a forward, where ``input`` is a size or None.
        runs: forwards to time; None goes on for ``seconds``, at least 10 runs and at most 1000.
        seconds: how long to time where ``runs`` is None.
        counter: ``true`` for every parameter and the multiply-adds that are done; ``thop`` for the figures that
            ``thop.profile`` gives and most papers print, with all that it leaves out.

    Raises:
        UserError: the size, ``batch`` or ``runs`` is not positive, there is no such counter, or the network does not
            take the input, or has not the memory for it.
    """
    (cost,) = measure_all([model], input, batch=batch, runs=runs, seconds=seconds, counter=counter)
    return cost


def measure_all(
    models: Sequence[nn.Module],
    input: Any = None,
    *,
    batch: int = 1,
    runs: int | None = None,
    seconds: float = 1.0,
    counter: str = "true",
) -> list[Cost]:
    """The costs of several networks whose latencies are to be compared.

    Their forwards alternate, one of each in turn: whatever else the machine does meets all of them alike. Arguments
    and errors are those of :func:`measure`; ``runs`` and ``seconds`` are those of each network.
    """
    if runs is not None and runs < 1:
        raise UserError(f"runs must be at least 1, got {runs}")
    if counter not in COUNTERS:
        raise UserError(
            f"no counter is called {counter!r}; there are {' and '.join(COUNTERS)}.{did_you_mean(counter, COUNTERS)}"
        )
    calls = [ForwardCall.of(model, input, batch) for model in models]
    counts = [_counts(call, counter) for call in calls]
    peaks = [(forward_memory(call), step_memory(call)) for call in calls]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(preserve_state(model))
        rows = times(calls, runs, seconds)
    return [
        Cost(
            parameters=parameters,
            trainable=sum(p.numel() for p in call.model.parameters() if p.requires_grad),
            macs=macs,
            counter=counter,
            latency_ms=spread(row),
            memory=forward,
            step_memory=step,
            batch=len(call.args[0]) if call.is_picture else batch,
            threads=torch.get_num_threads(),
            device=call.device.type,
        )
        for call, (parameters, macs), (forward, step), row in zip(calls, counts, peaks, rows, strict=True)
    ]


def _counts(call: ForwardCall, counter: str) -> tuple[int, int]:
    """Parameters, and multiply-adds of one picture."""
    if counter == "thop":
        return thop_counts(call.first())
    return sum(p.numel() for p in call.model.parameters()), true_macs(call.first())


def count_macs(model: nn.Module, input: Any = None) -> int:
    """The multiply-adds of one picture through ``model`` in eval mode; see :mod:`saccade.cost` for what counts.

    Args:
        model: any network; it is left as it was.
        input: as for :func:`measure`; of a batch (B, C, H, W) the first picture is taken.

    Raises:
        UserError: the network does not take the input.
    """
    return true_macs(ForwardCall.of(model, input, 1).first())
