"""All costs of one network, or of several."""

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
    """What :func:`measure` found, on this machine with these threads."""

    parameters: int
    trainable: int
    macs: int
    """Multiply-adds of one picture, or of one call with several arguments."""
    counter: str
    """Whose rules gave ``parameters`` and ``macs``: ``true`` or ``thop``."""
    latency_ms: Spread
    """Of a forward of ``batch`` pictures."""
    memory: int
    """Most bytes live at once in a forward of ``batch`` pictures: parameters, buffers, input, activations.

    On CUDA also kernel workspace.
    """
    step_memory: int | None
    """The same of a training step with the gradients of all parameters; None where nothing can be trained.

    The state of an optimiser is not counted.
    """
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
    """Measure parameters, multiply-adds, latency and peak memory of ``model`` in eval mode, which stays as it is.

    Args:
        model: any network.
        input: see :func:`saccade.sites`.
        batch: pictures a forward, where ``input`` is a size or None.
        runs: forwards to time; None goes on for ``seconds``, at least 10 runs and at most 1000.
        seconds: how long to time where ``runs`` is None.
        counter: ``true``, or ``thop`` for the figures that ``thop.profile`` gives and most papers print.

    Raises:
        UserError: the size, ``batch`` or ``runs`` is not positive, there is no such counter, the network does not take
            the input, or there is not enough memory.
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
    """Measure several networks, whose forwards alternate so that other load on the machine meets all alike.

    Arguments and errors are those of :func:`measure`; ``runs`` and ``seconds`` are for each network.
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
    """Return parameters, and multiply-adds of one picture."""
    if counter == "thop":
        return thop_counts(call.first())
    return sum(p.numel() for p in call.model.parameters()), true_macs(call.first())


def count_macs(model: nn.Module, input: Any = None) -> int:
    """Return the multiply-adds of one picture through ``model`` in eval mode; see :mod:`saccade.cost`.

    Args:
        model: any network.
        input: as for :func:`measure`; of a batch (B, C, H, W) the first picture is taken.

    Raises:
        UserError: the network does not take the input.
    """
    return true_macs(ForwardCall.of(model, input, 1).first())
