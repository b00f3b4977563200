"""The score of a class, differentiable, for each form of a network's output.

(B, K)         the logit of the class
(B, K, H, W)   sum of its logit over the pixels where it is the largest; over all pixels if it is nowhere
detections     sum of the scores of the boxes with that label, or the score of one box
(B, 1, H, W)   mean of the map; also (B, H, W)
(B,)           the value itself
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saccade.errors import UserError

__all__ = [
    "Detections", "class_count", "class_scores", "predicted_classes", "scored_part", "target_scores", "targets_of",
]  # fmt: skip

Detections = Sequence[Mapping[str, Tensor]]
"""For each image ``boxes`` (n, 4), ``labels`` (n,) and ``scores`` (n,), the best box first."""
_NAMED_OUTPUTS = ("out", "logits")
"""Keys of torchvision's segmentation networks and of transformers."""


def scored_part(output: Any) -> Tensor | Detections:
    """Return the logits, map or detections in ``output``, which may be nested as in torchvision and transformers.

    Raises:
        UserError: the output has another form.
    """
    if isinstance(output, Tensor):
        tensor: Tensor | None = output
    elif isinstance(output, list | tuple) and all(_is_detection(found) for found in output) and output:
        return list(output)
    elif hasattr(output, "pred_boxes"):
        raise UserError("the network returns the boxes of all queries; use a detector that returns detections, such as "
                        "rt_detr of Saccade")  # fmt: skip
    elif isinstance(output, Mapping):
        tensor = next((output[key] for key in _NAMED_OUTPUTS if isinstance(output.get(key), Tensor)), None)
    elif isinstance(output, list | tuple) and output and isinstance(output[0], Tensor):
        tensor = output[0]
    else:
        tensor = getattr(output, "logits", None)
    if isinstance(tensor, Tensor) and 1 <= tensor.ndim <= 4 and tensor.is_floating_point():
        return tensor
    shape = f" of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else ""
    raise UserError(f"the network returns a {type(output).__name__}{shape}; logits (B, K) or (B, K, H, W), a map "
                    "(B, 1, H, W), or a list of detections is needed")  # fmt: skip


def _is_detection(found: Any) -> bool:
    return isinstance(found, Mapping) and {"boxes", "labels", "scores"} <= found.keys()


def class_count(output: Any) -> int | None:
    """Return the number of classes K; 1 for a map or one value per image, None for detections."""
    part = scored_part(output)
    if not isinstance(part, Tensor):
        return None
    return part.shape[1] if part.ndim in (2, 4) else 1


def predicted_classes(output: Any) -> list[int | None]:
    """Return the class that the network predicts for each image.

    It is the largest logit, the class of most pixels, or the label of the best box; None without a box.
    """
    part = scored_part(output)
    if not isinstance(part, Tensor):
        return [int(found["labels"][found["scores"].argmax()]) if len(found["labels"]) else None for found in part]
    if part.ndim in (1, 3):
        return [0] * len(part)
    if part.ndim == 2:
        return [int(k) for k in part.argmax(1)]
    return [int(torch.bincount(pixels.flatten(), minlength=part.shape[1]).argmax()) for pixels in part.argmax(1)]


def class_scores(output: Any, classes: Sequence[int | None], *, boxes: Sequence[int | None] | None = None) -> Tensor:
    """Return the score (B,) of one class per image; see the module for the forms of ``output``.

    Args:
        output: output of the network for B images.
        classes: B classes, for detections labels; None for the predicted class.
        boxes: numbers of boxes to score instead of all of the class, see ``targets_of``.

    Raises:
        UserError: there is no such class or box, or the form of the output is unknown.
    """
    part = scored_part(output)
    return target_scores(part, *targets_of(part, classes, boxes))


def target_scores(output: Any, classes: Sequence[int | None], boxes: Sequence[int | None]) -> Tensor:
    """Return the scores (B,) of what ``targets_of`` returned, maybe for other images; 0 without such a box.

    Raises:
        UserError: there is no such class.
    """
    part = scored_part(output)
    if not isinstance(part, Tensor):
        return torch.stack([_detection_score(*each) for each in zip(part, classes, boxes, strict=True)])
    count = class_count(part) or 1
    for k in classes:
        if k is None or not 0 <= k < count:
            raise UserError(f"there is no class {k}; the network has {count}, from 0 to {count - 1}")
    scores = [_tensor_score(values, k or 0) for values, k in zip(part, classes, strict=True)]
    return torch.stack(scores)


def targets_of(
    output: Any, classes: Sequence[int | None], boxes: Sequence[int | None] | None = None
) -> tuple[list[int | None], list[int | None]]:
    """Return the class and the number of the box to score in each image.

    Boxes are numbered from 1, the best first, among those of the class; where the class is None, among all boxes, and
    the class is that of the box. The numbers returned are among those of the class.

    Raises:
        UserError: there is no such box, or not one class and box per image.
    """
    part = scored_part(output)
    numbers: list[int | None] = [None] * len(part) if boxes is None else list(boxes)
    for values, word in ((classes, "classes"), (numbers, "boxes")):
        if len(values) != len(part):
            raise UserError(f"{len(values)} {word} for {len(part)} images; give one per image")
    if not isinstance(part, Tensor):
        found = [_detection_target(*each) for each in zip(part, classes, numbers, strict=True)]
        numbers = [number for _, number in found]
        classes = [k for k, _ in found]
    elif any(number is not None for number in numbers):
        raise UserError("the network is no detector and has no boxes; leave out the number of the box")
    return [guess if k is None else k for k, guess in zip(classes, predicted_classes(part), strict=True)], numbers


def _detection_target(
    found: Mapping[str, Tensor], label: int | None, number: int | None
) -> tuple[int | None, int | None]:
    if number is None:
        return label, None
    labels = found["labels"][_order(found)].tolist()
    count = len(labels) if label is None else labels.count(label)
    if not 1 <= number <= count:
        of_class = "" if label is None else f" of the class {label}"
        raise UserError(f"there is no box {number}{of_class}; the detector found {count} in this image")
    if label is not None:
        return label, number
    return labels[number - 1], labels[:number].count(labels[number - 1])


def _order(found: Mapping[str, Tensor]) -> Tensor:
    """Return the indices of the boxes (n,), the best first."""
    return found["scores"].detach().argsort(descending=True, stable=True)


def _tensor_score(values: Tensor, k: int) -> Tensor:
    """Return the score of class ``k`` for the values () or (K,), (H, W) or (K, H, W) of one image."""
    if values.ndim <= 1:
        return values[k] if values.ndim else values
    if values.ndim == 2 or len(values) == 1:
        return values.float().mean()
    pixels = values.detach().argmax(0) == k
    logits = values[k].float()
    return logits[pixels].sum() if bool(pixels.any()) else logits.sum()


def _detection_score(found: Mapping[str, Tensor], label: int | None, number: int | None) -> Tensor:
    """Return the score of box ``number`` of those with ``label``, else of all of them; 0 without such a box."""
    order = _order(found)
    scores = found["scores"][order][found["labels"][order] == label]
    return scores.sum() if number is None else scores[number - 1 : number].sum()
