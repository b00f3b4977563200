"""Augmentations by name, by the kernels of torchvision.transforms.v2: image and target move together.

What is drawn is a function of (seed, epoch, index) alone. The transforms of v2 as classes draw from the global
generator instead, and take twice as long as these for small images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, Mask

from saccade.data.sampling import Key, generator
from saccade.errors import UserError, did_you_mean

__all__ = ["augment", "check_names"]


def _flip(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """Left to right, one time in two."""
    return [F.horizontal_flip(plane) for plane in planes] if chance[0] < 0.5 else planes


def _crop(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """Shift by up to an eighth of each side.

    The reflection comes in; where there are boxes, which would miss what it shows, the mean colour.
    """
    height, width = planes[0].shape[-2:]
    y, x = height // 8, width // 8
    top, left = int(chance[0] * (2 * y + 1)), int(chance[1] * (2 * x + 1))
    if not any(isinstance(plane, BoundingBoxes) for plane in planes):
        padded = [F.pad(plane, [x, y], padding_mode="reflect") for plane in planes]
    else:
        padded = [F.pad(plane, [x, y], fill=None if n else list(mean)) for n, plane in enumerate(planes)]
    return [F.crop(plane, top, left, height, width) for plane in padded]


def _color(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """Brightness, contrast and saturation, each times 0.6 to 1.4."""
    brightness, contrast, saturation = (0.6 + 0.8 * c for c in chance)
    image = F.adjust_contrast(F.adjust_brightness(planes[0], brightness), contrast)
    return [F.adjust_saturation(image, saturation), *planes[1:]]


def _erase(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """One time in two, a rectangle of 1/50 to 1/5 of the area and an aspect of 1/2 to 2 becomes the mean colour.

    After Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, arXiv:1708.04896. Targets stay as they are.
    """
    if chance[0] >= 0.5:
        return planes
    height, width = planes[0].shape[-2:]
    area = (0.02 + 0.18 * chance[1]) * height * width
    aspect = 2.0 ** (2 * chance[2] - 1)
    h = min(height, max(1, round((area * aspect) ** 0.5)))
    w = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = int(chance[3] * (height - h + 1)), int(chance[4] * (width - w + 1))
    return [F.erase(planes[0], top, left, h, w, torch.tensor(mean)[:, None, None]), *planes[1:]]


_Operation = Callable[[list[Tensor], Sequence[float], Sequence[float]], list[Tensor]]
_OPERATIONS: dict[str, tuple[_Operation, int]] = {
    "flip": (_flip, 1),
    "crop": (_crop, 2),
    "color": (_color, 3),
    "erase": (_erase, 5),
}
"""By name: what is done, and how many uniform numbers it takes."""


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown augmentation.

    Raises:
        UserError: names it, and its neighbours.
    """
    for name in names:
        if name not in _OPERATIONS:
            raise UserError(
                f"data.augment: there is no augmentation {name!r}.{did_you_mean(name, _OPERATIONS)} "
                f"There are {', '.join(_OPERATIONS)}."
            )


def augment(image: Tensor, target: Any, names: Sequence[str], key: Key, mean: Sequence[float]) -> tuple[Tensor, Any]:
    """Return image and target after the named operations, in their order.

    Args:
        image: float (C, H, W) in [0, 1].
        target: a mask or objects move with the image, objects that leave it are dropped; any other stays as it is.
        names: any of ``flip``, ``crop``, ``color``, ``erase``.
        key: decides everything that is drawn.
        mean: colour of what is erased, one number a channel.
    """
    amounts = [_OPERATIONS[name][1] for name in names]
    chance = torch.rand(sum(amounts), generator=generator(*key)).tolist()
    objects = isinstance(target, dict)
    planes = [image, *(target[kind] for kind in ("boxes", "masks") if kind in target)] if objects else [image]
    if isinstance(target, Mask):
        planes.append(target)
    for name, amount in zip(names, amounts, strict=True):
        planes = _OPERATIONS[name][0](planes, chance[:amount], mean)
        chance = chance[amount:]
    if objects:
        return planes[0], _inside(planes[1], target["labels"], *planes[2:])
    return planes[0], planes[1] if len(planes) == 2 else target


def _inside(boxes: BoundingBoxes, labels: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
    """The objects whose boxes, cut to the image, are at least one pixel wide and high."""
    kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    corners = BoundingBoxes(boxes.as_subclass(Tensor)[kept], format="XYXY", canvas_size=boxes.canvas_size)
    inside = {"boxes": corners, "labels": labels[kept]}
    return inside if masks is None else {**inside, "masks": Mask(masks.as_subclass(Tensor)[kept])}
