"""Latency of forward passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.cost.call import ForwardCall

__all__ = ["LatencySummary", "Spread", "summarize", "time_calls"]

WARM_UP_RUNS, MIN_RUNS, MAX_RUNS = 2, 10, 1000


@dataclass(frozen=True, kw_only=True)
class LatencySummary:
    """Latency percentiles of ``runs`` forward passes, in milliseconds."""

    median: float
    low: float
    """5th percentile."""
    high: float
    """95th percentile."""
    runs: int


Spread = LatencySummary
"""Former name, also in pickles of a ``Cost``."""


def time_calls(calls: Sequence[ForwardCall], runs: int | None, seconds: float) -> list[list[float]]:
    """Return the milliseconds of every run, one list per call; calls alternate.

    Each call runs ``runs`` times; if None, for about ``seconds`` s, 10 to 1000 times.
    """
    milliseconds: list[list[float]] = [[] for _ in calls]
    elapsed_total, rounds = 0.0, 0
    # Not inference mode: tensors that a network caches, such as anchors, must stay usable in training.
    with torch.no_grad():
        for call in [*calls] * WARM_UP_RUNS:
            call.run_checked()
        while (
            rounds < runs
            if runs is not None
            else rounds < MIN_RUNS or (elapsed_total < seconds * len(calls) and rounds < MAX_RUNS)
        ):
            for call, call_times in zip(calls, milliseconds, strict=True):
                _synchronize(call.device)
                start = time.perf_counter()
                call.run()
                _synchronize(call.device)
                elapsed = time.perf_counter() - start
                elapsed_total += elapsed
                call_times.append(1000 * elapsed)
            rounds += 1
    return milliseconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarize(times: list[float]) -> LatencySummary:
    """Return the median and the 5th and 95th percentile of ``times`` in milliseconds."""
    quantiles = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times
    return LatencySummary(median=statistics.median(times), low=quantiles[0], high=quantiles[-1], runs=len(times))
