"""Latency of a forward: median and spread; networks to be compared take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.cost.call import ForwardCall

__all__ = ["Spread", "spread", "times"]

WARM_UP, FEWEST, MOST = 2, 10, 1000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Milliseconds of a forward over ``runs`` runs."""

    median: float
    low: float
    """5 % of the runs were faster."""
    high: float
    """5 % of the runs were slower."""
    runs: int


def times(calls: Sequence[ForwardCall], runs: int | None, seconds: float) -> list[list[float]]:
    """Return the milliseconds of each timed forward of each call, in turn, after warming up."""
    found: list[list[float]] = [[] for _ in calls]
    spent, rounds = 0.0, 0
    # Not inference mode: what a network caches in a forward, such as anchors, must still serve it in training.
    with torch.no_grad():
        for call in [*calls] * WARM_UP:
            call.try_out()
        while (
            rounds < runs if runs is not None else rounds < FEWEST or (spent < seconds * len(calls) and rounds < MOST)
        ):
            for call, row in zip(calls, found, strict=True):
                _wait(call.device)
                start = time.perf_counter()
                call.run()
                _wait(call.device)
                elapsed = time.perf_counter() - start
                spent += elapsed
                row.append(1000 * elapsed)
            rounds += 1
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(times: list[float]) -> Spread:
    """Return the median and the middle 90 % of milliseconds."""
    twentieths = statistics.quantiles(times, n=20, method="inclusive") if len(times) > 1 else times
    return Spread(median=statistics.median(times), low=twentieths[0], high=twentieths[-1], runs=len(times))
