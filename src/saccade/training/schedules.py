"""Learning-rate schedules as pure functions of the step; no state needs saving."""

from __future__ import annotations

import math

from saccade.recipe import Training

__all__ = ["lr_factor"]


def lr_factor(step: int, steps_per_epoch: int, epochs: int, training: Training) -> float:
    """Return the factor of the schedule on the learning rate at ``step``.

    Values equal those of ``torch.optim.lr_scheduler``: ``CosineAnnealingLR`` stepped per step; ``StepLR``,
    ``MultiStepLR`` and ``ExponentialLR`` stepped per epoch. The cosine starts after the linear warm-up; the others are
    multiplied by it.

    Args:
        step: step of the phase, from 0.
        steps_per_epoch: steps per epoch.
        epochs: epochs of the phase.
        training: ``training`` section of the recipe.

    >>> training = Training(warmup_epochs=2)
    >>> [round(lr_factor(step, 1, 6, training), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    warmup_steps = training.warmup_epochs * steps_per_epoch
    warmup = (step + 1) / warmup_steps if step + 1 < warmup_steps else 1.0
    if training.schedule == "constant":
        return warmup
    if training.schedule == "cosine":
        if step + 1 < warmup_steps:
            return warmup
        return 0.5 * (
            1.0 + math.cos(math.pi * max(0.0, step - warmup_steps) / max(1.0, epochs * steps_per_epoch - warmup_steps))
        )
    return warmup * (0.1 if training.gamma is None else training.gamma) ** _drop_count(
        step // steps_per_epoch, training
    )


def _drop_count(epoch: int, training: Training) -> int:
    """Return the number of drops before epoch ``epoch`` (from 0)."""
    if training.schedule == "multistep":
        return sum(epoch >= milestone for milestone in training.milestones)
    return epoch // (training.step_epochs or 1)
