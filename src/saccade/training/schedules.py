"""The learning rate of a step, a pure function of its number: no scheduler state needs saving."""

from __future__ import annotations

import math

from saccade.recipe import Training

__all__ = ["rate"]


def rate(step: int, steps: int, epochs: int, training: Training) -> float:
    """Return the learning rate of step ``step`` (from 0) as a share of the recipe's.

    Rises linearly over the warm-up. Without one the values are those of ``torch.optim.lr_scheduler``:
    ``CosineAnnealingLR`` stepped at each step, after the warm-up; ``StepLR``, ``MultiStepLR`` and ``ExponentialLR``
    stepped at each epoch, from the first, the warm-up's factor multiplied in.

    Args:
        step: of the phase.
        steps: in one epoch.
        epochs: of the phase.
        training: the recipe's part.

    >>> training = Training(warmup_epochs=2)
    >>> [round(rate(step, 1, 6, training), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    warmup = training.warmup_epochs * steps
    rising = (step + 1) / warmup if step + 1 < warmup else 1.0
    if training.schedule == "constant":
        return rising
    if training.schedule == "cosine":
        if step + 1 < warmup:
            return rising
        return 0.5 * (1.0 + math.cos(math.pi * max(0.0, step - warmup) / max(1.0, epochs * steps - warmup)))
    return rising * (0.1 if training.gamma is None else training.gamma) ** _falls(step // steps, training)


def _falls(epoch: int, training: Training) -> int:
    """Return how often the rate has fallen before epoch ``epoch`` (from 0)."""
    if training.schedule == "multistep":
        return sum(epoch >= milestone for milestone in training.milestones)
    return epoch // (training.step_epochs or 1)
