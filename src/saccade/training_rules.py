"""Which keys of a recipe's training go together: a key that would change nothing is refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

__all__ = ["problem"]


def problem(training: Any) -> str | None:
    """Return a sentence on the first keys of a ``saccade.recipe.Training`` that do not go together; None if all do."""
    return next((f"training.{sentence}" for sentence in _problems(training)), None)


def _problems(part: Any) -> Iterator[str]:
    yield from _phases(part)
    yield from _schedule(part)
    yield from _optimizer(part)
    yield from _teacher(part)
    if part.sync_bn:
        yield "sync_bn = True: a run has one device; its batch norms see the whole batch. Leave training.sync_bn out"
    for key in ("mixup_alpha", "cutmix_alpha"):
        if getattr(part, key) and part.batch_size < 2:
            yield (
                f"{key} = {getattr(part, key)}: an image is mixed with another of its batch; training.batch_size is "
                f"{part.batch_size}, at least 2 is needed"
            )


def _phases(part: Any) -> Iterator[str]:
    if part.phases and part.epochs != (total := sum(phase.epochs for phase in part.phases)):
        yield f"epochs = {part.epochs}: the phases have {total} together; write {total}, or leave training.epochs out"


def _schedule(part: Any) -> Iterator[str]:
    for key, owners in (
        ("milestones", ("multistep",)),
        ("step_epochs", ("step",)),
        ("gamma", ("step", "multistep", "exponential")),
    ):
        if getattr(part, key) not in (None, ()) and part.schedule not in owners:
            yield _unused(key, part, "schedule", owners)
    for schedule, key in (("multistep", "milestones"), ("step", "step_epochs"), ("exponential", "gamma")):
        if part.schedule == schedule and getattr(part, key) in (None, ()):
            yield f"schedule = {schedule!r} needs training.{key}"
    if any(one >= other for one, other in pairwise(part.milestones)):
        yield f"milestones = {list(part.milestones)}: each must be greater than the one before"
    longest = max((phase.epochs for phase in part.phases), default=part.epochs)
    for key, last in (("milestones", part.milestones[-1:]), ("step_epochs", [part.step_epochs or 0])):
        if any(epoch >= longest for epoch in last):
            where = "the longest phase has" if part.phases else "training.epochs is"
            yield f"{key}: the rate would fall after epoch {last[0]}, and {where} {longest}"


def _optimizer(part: Any) -> Iterator[str]:
    for key, owners in (("nesterov", ("sgd",)), ("rmsprop_alpha", ("rmsprop",)), ("eps", ("adamw", "rmsprop"))):
        if getattr(part, key) not in (None, False) and part.optimizer not in owners:
            yield _unused(key, part, "optimizer", owners)
    if part.nesterov and not part.momentum:
        yield "nesterov = True needs training.momentum above 0"


def _teacher(part: Any) -> Iterator[str]:
    for key in ("teacher_checkpoint", "distill_alpha", "distill_temperature"):
        if getattr(part, key) is not None and part.teacher is None:
            yield f"{key} = {getattr(part, key)!r} is of no use without training.teacher; name one or leave it out"


def _unused(key: str, part: Any, chooser: str, owners: tuple[str, ...]) -> str:
    """Say that ``key`` has no meaning under the choice that ``chooser`` makes."""
    value = getattr(part, key)
    shown = list(value) if isinstance(value, tuple) else value
    needed = " or ".join(map(repr, owners))
    return (
        f"{key} = {shown}: training.{chooser} is {getattr(part, chooser)!r}, which does not use it; "
        f"set training.{chooser} to {needed} or leave training.{key} out"
    )
