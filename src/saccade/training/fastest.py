"""Choice of memory format and precision, if ``auto``, by timed training steps."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from saccade.decisions import choices
from saccade.recipe import Recipe
from saccade.tasks.base import Task
from saccade.training.distilling import Teacher
from saccade.training.freezing import freeze
from saccade.training.network import build
from saccade.training.steps import training_steps
from saccade.trust import Trust

__all__ = ["time_choices", "without_attention"]

_MAX_BATCH_PIXELS = 8 * 224 * 224
"""Largest timed batch on the CPU, in pixels. A larger one takes longer and ranks the choices in the same order."""
_TIMED_STEPS = 2
_DROP_RATIO = 1.3
"""A combination is dropped if its first timed step takes more than this times the shortest first step."""
_MAX_TIME_RATIO = 0.95
"""A combination replaces the defaults if its step takes less than this fraction of their time."""


def without_attention(recipe: Recipe) -> Recipe:
    """Return ``recipe`` without attention: all arms of a study use the settings timed on the plain host."""
    return recipe.with_overrides({"attention.mechanism": "none", "attention.control": None})


def time_choices(task: Task, keys: Sequence[str], device: torch.device, trust: Trust = False) -> dict[str, Any]:
    """Time training steps with every combination of values of ``keys``, interleaved, and choose the fastest.

    On the CPU the batch has at most about eight images of 224×224 pixels, and CPU time, which other programs disturb
    less, is measured. The defaults are kept unless another combination takes less than 0.95 of their time. ``trust``
    is as in ``saccade.load``.

    Returns:
        ``settings``, which maps key to value; ``step_ms``, which maps the values of a combination, joined by commas, to
        milliseconds per step; ``batch``, the number of images per step.
    """
    training = task.recipe.training
    batch = training.batch_size
    if device.type == "cpu":
        batch = min(batch, max(2, _MAX_BATCH_PIXELS // (task.data.size[0] * task.data.size[1])))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    combinations = [dict(zip(keys, values, strict=True)) for values in itertools.product(*map(choices, keys))]
    teacher = Teacher.from_task(task, trust)
    steps = [_steps(task, settings, device, batch, teacher) for settings in combinations]
    times: list[list[float]] = [[] for _ in combinations]
    remaining = list(range(len(combinations)))
    for round_index in range(1 + _TIMED_STEPS):  # the first round warms up
        for index in remaining if round_index % 2 else remaining[::-1]:
            start = clock()
            next(steps[index])
            if round_index:
                times[index].append(1e3 * (clock() - start))
        if round_index == 1:
            remaining = [
                index for index in remaining if times[index][0] <= _DROP_RATIO * min(first for (first,) in times)
            ]
    best_times = [min(trial_times) for trial_times in times]
    winner = min(range(len(best_times)), key=best_times.__getitem__)
    if best_times[winner] >= _MAX_TIME_RATIO * best_times[0]:
        winner = 0
    setting_names = [", ".join(settings.values()) for settings in combinations]
    step_ms = {name: round(milliseconds, 2) for name, milliseconds in zip(setting_names, best_times, strict=True)}
    return {"settings": combinations[winner], "step_ms": step_ms, "batch": batch}


def _steps(
    task: Task, settings: dict[str, str], device: torch.device, batch: int, teacher: Teacher | None
) -> Iterator[float]:
    recipe = task.recipe.with_overrides(settings)
    timed_task = type(task)(recipe, task.data)
    with _without_log():
        network = build(timed_task)
    frozen = freeze(network, recipe).modules
    return training_steps(network.to(device), timed_task, device, batch, frozen, teacher)


@contextmanager
def _without_log() -> Iterator[None]:
    """Suppress Saccade's log, because the run itself repeats the warnings."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("saccade")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
