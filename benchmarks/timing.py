"""What the benchmarks of time share: forms by turns in one process, medians, bootstrap intervals, the machine."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from saccade.training.environment import environment

__all__ = [
    "by_turns", "cuda_clock", "draws", "geometric_mean", "give_back", "interval", "keep_memory", "machine", "middle",
    "said", "wall_clock",
]  # fmt: skip

Floats = NDArray[np.float64]


def keep_memory(kept: bool = True) -> bool:
    """Let freed memory stay with the process from now on, so that no form pays for pages which another gave back.

    Page faults of fresh maps cost more than many a mechanism, and whether they come is chance: glibc moves the bounds
    at which it gives memory back with what was freed before. Blocks of more than 32 MiB it always gives back; where a
    form lives of such, that is part of its cost, and ``kept`` is false: then the bounds are where glibc's own end.

    Returns:
        whether the C library has this (glibc has).
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # of malloc.h
    largest = 32 << 20
    wanted = ((mmap_max, 0), (trim_threshold, -1)) if kept else (
        (mmap_max, 65536), (mmap_threshold, largest), (trim_threshold, 2 * largest)
    )  # fmt: skip
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = [bool(mallopt(*each)) for each in wanted]  # all of them, whatever the first says
    return all(done)


def give_back() -> None:
    """Return to the system what is free, once, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def wall_clock(form: Callable[[], object]) -> float:
    """Seconds that ``form`` takes on the host."""
    begun = time.perf_counter()
    form()
    return time.perf_counter() - begun


def cuda_clock(form: Callable[[], object]) -> float:
    """Seconds between two CUDA events around ``form``, on a device that is idle before; launches are included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    form()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def by_turns(
    forms: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int,
    *,
    settle: bool = False,
    clock: Callable[[Callable[[], object]], float] = wall_clock,
) -> dict[str, list[float]]:
    """Seconds of each of ``rounds`` rounds after ``warmup`` more; a round runs every form once, one after another.

    Every other round runs them in the opposite order: what one leaves behind, in caches and on the heap, falls to all.
    With ``settle`` each runs once untimed before it is timed, and finds only what it left itself: where a form takes a
    millisecond, the pages that the one before gave back to the system would decide.
    """
    times: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(warmup + rounds):
        for name, form in list(forms.items())[:: -1 if number % 2 else 1]:
            if settle:
                form()
            times[name].append(clock(form))
    return {name: seconds[warmup:] for name, seconds in times.items()}


def draws(ratios: ArrayLike) -> Floats:
    """Ten thousand bootstrap draws of the median."""
    values = np.asarray(ratios, dtype=np.float64)
    medians: Floats = np.median(np.random.default_rng(0).choice(values, (10_000, len(values))), axis=1)
    return medians


def interval(values: Floats) -> tuple[float, float]:
    """The 95 % in the middle."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def middle(ratios: ArrayLike) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval."""
    return float(np.median(np.asarray(ratios, dtype=np.float64))), *interval(draws(ratios))


def geometric_mean(cases: Iterable[ArrayLike]) -> tuple[float, float, float]:
    """The geometric mean of the median ratios of independent cases, and its 95 % bootstrap interval."""
    ratios = [np.asarray(case, dtype=np.float64) for case in cases]
    drawn = [np.random.default_rng(i).permutation(np.log(draws(case))) for i, case in enumerate(ratios)]
    mean = float(np.exp(np.mean([np.log(np.median(case)) for case in ratios])))
    return mean, *interval(np.exp(np.mean(drawn, axis=0)))


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware of this process."""
    return environment(torch.device(device), threads)


def said(facts: Mapping[str, Any], packages: Iterable[str] = ("torch",)) -> str:
    """One phrase of :func:`machine`: threads, processor, and the versions of ``packages``."""
    names = {"torch": "PyTorch", "lightning": "Lightning"}
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    versions = (f"{names.get(package, package)} {facts['packages'][package]}" for package in packages)
    return ", ".join([threads, facts["cpu"], *versions])
