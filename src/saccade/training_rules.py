"""Conflicts among the keys of a recipe's training section. A key without effect is refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

__all__ = ["conflict_message"]


def conflict_message(training: Any) -> str | None:
    """Return a message for the first conflict among the keys of ``training``, a ``recipe.Training``; None without
    conflicts.
    """
    return next((f"training.{conflict}" for conflict in _conflicts(training)), None)


def _conflicts(training: Any) -> Iterator[str]:
    yield from _phase_conflicts(training)
    yield from _schedule_conflicts(training)
    yield from _optimizer_conflicts(training)
    yield from _teacher_conflicts(training)
    if training.sync_bn:
        yield "sync_bn = True: a run has one device; its batch norms see the whole batch. Leave training.sync_bn out"
    for key in ("mixup_alpha", "cutmix_alpha"):
        if getattr(training, key) and training.batch_size < 2:
            yield (
                f"{key} = {getattr(training, key)}: each image is mixed with another of its batch; "
                f"training.batch_size is {training.batch_size}, at least 2 is needed"
            )


def _phase_conflicts(training: Any) -> Iterator[str]:
    if training.phases and training.epochs != (total := sum(phase.epochs for phase in training.phases)):
        yield (
            f"epochs = {training.epochs}: the phases have {total} epochs in total; set {total} or leave "
            "training.epochs out"
        )


def _schedule_conflicts(training: Any) -> Iterator[str]:
    for key, used_by in (
        ("milestones", ("multistep",)),
        ("step_epochs", ("step",)),
        ("gamma", ("step", "multistep", "exponential")),
    ):
        if getattr(training, key) not in (None, ()) and training.schedule not in used_by:
            yield _unused_message(key, training, "schedule", used_by)
    for schedule, key in (("multistep", "milestones"), ("step", "step_epochs"), ("exponential", "gamma")):
        if training.schedule == schedule and getattr(training, key) in (None, ()):
            yield f"schedule = {schedule!r} needs training.{key}"
    if any(previous >= following for previous, following in pairwise(training.milestones)):
        yield f"milestones = {list(training.milestones)}: each must be greater than the one before"
    longest = max((phase.epochs for phase in training.phases), default=training.epochs)
    for key, drops in (("milestones", training.milestones[-1:]), ("step_epochs", [training.step_epochs or 0])):
        if any(epoch >= longest for epoch in drops):
            limit_text = "the longest phase has" if training.phases else "training.epochs is"
            yield f"{key}: the learning rate would drop after epoch {drops[0]}, and {limit_text} {longest}"


def _optimizer_conflicts(training: Any) -> Iterator[str]:
    for key, used_by in (("nesterov", ("sgd",)), ("rmsprop_alpha", ("rmsprop",)), ("eps", ("adamw", "rmsprop"))):
        if getattr(training, key) not in (None, False) and training.optimizer not in used_by:
            yield _unused_message(key, training, "optimizer", used_by)
    if training.nesterov and not training.momentum:
        yield "nesterov = True needs training.momentum above 0"


def _teacher_conflicts(training: Any) -> Iterator[str]:
    for key in ("teacher_checkpoint", "distill_alpha", "distill_temperature"):
        if getattr(training, key) is not None and training.teacher is None:
            yield (
                f"{key} = {getattr(training, key)!r} has no effect without training.teacher; set training.teacher or "
                f"leave training.{key} out"
            )


def _unused_message(key: str, training: Any, selector: str, used_by: tuple[str, ...]) -> str:
    """Return a message that ``key`` has no effect with this ``selector``, "schedule" or "optimizer"."""
    value = getattr(training, key)
    shown_value = list(value) if isinstance(value, tuple) else value
    needed = " or ".join(map(repr, used_by))
    return (
        f"{key} = {shown_value}: training.{selector} is {getattr(training, selector)!r}, which does not use it; "
        f"set training.{selector} to {needed} or leave training.{key} out"
    )
