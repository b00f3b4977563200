"""Probability of one class per image, for any network with logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.explanation.class_scores import predicted_classes, scored_part

__all__ = ["class_probabilities"]


def class_probabilities(
    model: nn.Module, images: Tensor, classes: Sequence[int | None] | None = None, *, multilabel: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return a function from changed versions of ``images`` (B, C, H, W) to probabilities (B,), float32.

    The probability is a softmax of the logits; a sigmoid for one class or with ``multilabel``. In a segmentation, it is
    the mean over the pixels that the network predicts as the class in ``images``, or else over all pixels.

    Raises:
        UserError: the network is a detector, its output has another shape, or a class does not exist.
    """
    logits = _logits(model, images)
    n_classes = logits.shape[1]
    classes = [None] * len(images) if classes is None else classes
    if len(classes) != len(images):
        raise UserError(f"{len(classes)} classes for {len(images)} images; give one class per image")
    chosen = [guess if k is None else k for k, guess in zip(classes, predicted_classes(logits), strict=True)]
    for k in chosen:
        if k is None or not 0 <= k < n_classes:
            raise UserError(f"there is no class {k}; the network has {n_classes}, from 0 to {n_classes - 1}")
    sigmoid = multilabel or n_classes == 1

    def of_pixels(logits: Tensor) -> Tensor:
        probabilities = logits.sigmoid() if sigmoid else logits.softmax(1)
        return torch.stack([each[k].flatten() for each, k in zip(probabilities, chosen, strict=True)])  # (B, pixels)

    probabilities = of_pixels(logits)
    predicted = logits.argmax(1).flatten(1) == torch.tensor(chosen, device=logits.device)[:, None]
    weights = (probabilities > 0.5 if sigmoid else predicted).float()
    weights = torch.where(weights.any(1, keepdim=True), weights, 1.0)
    weights = weights / weights.sum(1, keepdim=True)
    return lambda changed: (of_pixels(_logits(model, changed)) * weights).sum(1)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of ``model``, float32: (B, K, H, W), with one pixel for a classifier."""
    output, name = model(images), type(model).__name__
    part = None if hasattr(output, "pred_boxes") else scored_part(output)
    if not isinstance(part, Tensor):
        raise UserError(
            f"{name} is a detector: its boxes change with the image, so that no probability can be followed while "
            "pixels are removed; use a classifier or a segmentation network"
        )
    if len(part) != len(images):
        raise UserError(f"{name} returns {tuple(part.shape)} for {len(images)} images; one row per image is needed")
    logits = part.float()[:, None] if part.ndim in (1, 3) else part.float()
    return logits.reshape(*logits.shape[:2], *(logits.shape[2:] or (1, 1)))
