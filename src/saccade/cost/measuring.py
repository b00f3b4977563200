"""Measure all costs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.cost.call import ForwardCall
from saccade.cost.latency import LatencySummary, summarize, time_calls
from saccade.cost.macs import operator_macs
from saccade.cost.memory import forward_memory, step_memory
from saccade.cost.thop import thop_counts
from saccade.errors import UserError, did_you_mean
from saccade.graph.states import preserve_state

__all__ = ["COUNTERS", "Cost", "count_macs", "measure", "measure_all"]

COUNTERS = ("true", "thop")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of a network; latency holds for this machine and ``threads``."""

    parameters: int
    trainable: int
    """Number of trainable parameters."""
    macs: int
    """Multiply-adds per image; per forward pass, if the input is not one image batch."""
    counter: str
    """Name of the counter of ``parameters`` and ``macs``: ``true`` or ``thop``."""
    latency_ms: LatencySummary
    """Latency of a forward pass on ``batch`` images, in milliseconds."""
    memory: int
    """Peak live memory of a forward pass on ``batch`` images, in bytes; on CUDA including kernel workspace."""
    step_memory: int | None
    """Peak live memory of a training step with all gradients, without optimiser state, in bytes.

    None without trainable parameters, or if the output cannot be differentiated.
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
    """Measure parameters, multiply-adds, latency and peak memory of ``model`` in eval mode; the model stays unchanged.

    Args:
        model: any network.
        input: size (C, H, W), tensor, tuple or dict of arguments; None for the default size.
        batch: number of images per forward pass, if ``input`` is a size or None.
        runs: number of timed forward passes; None for as many as take ``seconds``, from 10 to 1000.
        seconds: duration of the timing, if ``runs`` is None.
        counter: ``true``, or ``thop`` for the figures of ``thop.profile``, which most papers print.

    Raises:
        UserError: the size, ``batch`` or ``runs`` is not positive, the counter is unknown, the network fails on the
            input, or there is not enough memory.
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
    """Measure several networks; their timed runs alternate, so that other load affects all equally.

    Arguments are those of :func:`measure`, with ``seconds`` s per network.

    Raises:
        UserError: as :func:`measure`.
    """
    if runs is not None and runs < 1:
        raise UserError(f"runs must be at least 1, got {runs}")
    if counter not in COUNTERS:
        raise UserError(
            f"no counter is called {counter!r}; there are {' and '.join(COUNTERS)}.{did_you_mean(counter, COUNTERS)}"
        )
    calls = [ForwardCall.build(model, input, batch) for model in models]
    counts = [_counts(call, counter) for call in calls]
    memories = [(forward_memory(call), step_memory(call)) for call in calls]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(preserve_state(model))
        times = time_calls(calls, runs, seconds)
    return [
        Cost(
            parameters=parameters,
            trainable=sum(p.numel() for p in call.model.parameters() if p.requires_grad),
            macs=macs,
            counter=counter,
            latency_ms=summarize(call_times),
            memory=forward_bytes,
            step_memory=step_bytes,
            batch=len(call.args[0]) if call.is_image_batch else batch,
            threads=torch.get_num_threads(),
            device=call.device.type,
        )
        for call, (parameters, macs), (forward_bytes, step_bytes), call_times in zip(
            calls, counts, memories, times, strict=True
        )
    ]


def _counts(call: ForwardCall, counter: str) -> tuple[int, int]:
    """Return parameters and MACs, as in :class:`Cost`."""
    if counter == "thop":
        return thop_counts(call.first_image())
    return sum(p.numel() for p in call.model.parameters()), operator_macs(call.first_image())


def count_macs(model: nn.Module, input: Any = None) -> int:
    """Return the multiply-adds of one image through ``model`` in eval mode; see :mod:`saccade.cost`.

    Args:
        model: any network.
        input: as for :func:`measure`; of a batch (B, C, H, W), only the first image is used.

    Raises:
        UserError: the network fails on the input.
    """
    return operator_macs(ForwardCall.build(model, input, 1).first_image())
