"""Decide by timed training steps what a recipe leaves open: memory format and precision."""

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

__all__ = ["fastest", "plain"]

_PIXELS = 8 * 224 * 224
"""Of a timed batch on the CPU: a few images are as telling as a whole batch and take seconds at most."""
_TIMED = 2
_HOPELESS = 1.3
"""A choice whose first timed step takes so many times the fastest one's is dropped."""
_WORTH = 0.95
"""Another value than the default must take less than this share of its time."""


def plain(recipe: Recipe) -> Recipe:
    """``recipe`` without attention: the host decides for all arms of a study."""
    return recipe.with_overrides({"attention.mechanism": "none", "attention.control": None})


def fastest(task: Task, keys: Sequence[str], device: torch.device, trust: Trust = False) -> dict[str, Any]:
    """Time training steps of the network of ``task`` under every choice of ``keys``, by turns.

    ``trust``: what the folder of a teacher may name; see ``saccade.load``.

    On the CPU a batch is cut to about eight images of 224×224 pixels, and the processor's time counts, which other
    programs disturb least. The defaults win unless another choice takes less than 0.95 of their time.

    Returns:
        ``settings``, key -> value; ``step_ms``, the choice in words -> milliseconds; ``batch``, images of a step.
    """
    part = task.recipe.training
    batch = part.batch_size
    if device.type == "cpu":
        batch = min(batch, max(2, _PIXELS // (task.data.size[0] * task.data.size[1])))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    offered = [dict(zip(keys, values, strict=True)) for values in itertools.product(*map(choices, keys))]
    teacher = Teacher.of(task, trust)
    steps = [_steps(task, settings, device, batch, teacher) for settings in offered]
    times: list[list[float]] = [[] for _ in offered]
    alive = list(range(len(offered)))
    for turn in range(1 + _TIMED):  # the first warms up
        for n in alive if turn % 2 else alive[::-1]:
            begun = clock()
            next(steps[n])
            if turn:
                times[n].append(1e3 * (clock() - begun))
        if turn == 1:
            alive = [n for n in alive if times[n][0] <= _HOPELESS * min(first for (first,) in times)]
    found = [min(each) for each in times]
    best = min(range(len(found)), key=found.__getitem__)
    if found[best] >= _WORTH * found[0]:
        best = 0
    words = [", ".join(settings.values()) for settings in offered]
    step_ms = {name: round(ms, 2) for name, ms in zip(words, found, strict=True)}
    return {"settings": offered[best], "step_ms": step_ms, "batch": batch}


def _steps(
    task: Task, settings: dict[str, str], device: torch.device, batch: int, teacher: Teacher | None
) -> Iterator[float]:
    recipe = task.recipe.with_overrides(settings)
    tried = type(task)(recipe, task.data)
    with _without_warnings():
        network = build(tried)
    frozen = freeze(network, recipe).modules
    return training_steps(network.to(device), tried, device, batch, frozen, teacher)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop the warnings on the weights of a host, which the run itself gives."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("saccade")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
