"""Augmentations by name, by the kernels of torchvision.transforms.v2: image and target move together.

What is drawn is a function of (seed, epoch, index) alone. The transforms of v2 as classes draw from the global
generator instead, and take twice as long as these for small images; only the policies, which have no other form, are
used so, the generator seeded for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

from saccade.data.sampling import Key, generator, seeded
from saccade.errors import UserError, did_you_mean

__all__ = ["augment", "check_names"]


def _flip(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """Left to right, one time in two."""
    return [F.horizontal_flip(plane) for plane in planes] if chance[0] < 0.5 else planes


def _crop(planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    """Shift by up to an eighth of each side.

    The reflection comes in; where there are boxes or points, which would miss what it shows, the mean colour.
    """
    height, width = planes[0].shape[-2:]
    y, x = height // 8, width // 8
    top, left = int(chance[0] * (2 * y + 1)), int(chance[1] * (2 * x + 1))
    if not any(isinstance(plane, BoundingBoxes | KeyPoints) for plane in planes):
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


_POLICIES: dict[str, Callable[..., nn.Module]] = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "autoaugment": partial(v2.AutoAugment, v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment_cifar10": partial(v2.AutoAugment, v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment_svhn": partial(v2.AutoAugment, v2.AutoAugmentPolicy.SVHN),
}
"""Of torchvision, with its defaults: RandAugment does 2 operations of magnitude 9 of 30. They move the image alone.

Cubuk et al., CVPR 2019, arXiv:1805.09501, and NeurIPS 2020, arXiv:1909.13719; Müller and Hutter, ICCV 2021,
arXiv:2103.10158."""


@lru_cache(maxsize=64)
def _policy(name: str, mean: tuple[float, ...]) -> nn.Module:
    """A policy that fills with the mean colour what an operation uncovers."""
    return _POLICIES[name](fill=list(mean))


def _by_policy(name: str, planes: list[Tensor], chance: Sequence[float], mean: Sequence[float]) -> list[Tensor]:
    with seeded(int(chance[0] * 2**24)):  # all that a float32 of torch.rand holds
        return [_policy(name, tuple(mean))(planes[0]), *planes[1:]]


_Operation = Callable[[list[Tensor], Sequence[float], Sequence[float]], list[Tensor]]
_OPERATIONS: dict[str, tuple[_Operation, int]] = {
    "flip": (_flip, 1),
    "crop": (_crop, 2),
    "color": (_color, 3),
    "erase": (_erase, 5),
    **{name: (partial(_by_policy, name), 1) for name in _POLICIES},
}
"""By name: what is done, and how many uniform numbers it takes."""


def check_names(names: Sequence[str], target: str = "label") -> None:
    """Refuse an unknown augmentation, and one that would leave the target behind.

    Args:
        names: of augmentations.
        target: kind of the targets.

    Raises:
        UserError: names it, and its neighbours or what can be used.
    """
    for name in names:
        if name not in _OPERATIONS:
            raise UserError(
                f"data.augment: there is no augmentation {name!r}.{did_you_mean(name, _OPERATIONS)} "
                f"There are {', '.join(_OPERATIONS)}."
            )
        if name in _POLICIES and target not in ("label", "vector", "none"):
            others = ", ".join(other for other in _OPERATIONS if other not in _POLICIES)
            raise UserError(
                f"data.augment: {name} moves the image and not its {target}; labels are needed. For this data there "
                f"are {others}."
            )


def augment(image: Tensor, target: Any, names: Sequence[str], key: Key, mean: Sequence[float]) -> tuple[Tensor, Any]:
    """Return image and target after the named operations, in their order.

    Args:
        image: float (C, H, W) in [0, 1].
        target: a mask, objects or fixations move with the image, those that leave it are dropped; any other stays as
            it is.
        names: of augmentations.
        key: decides everything that is drawn.
        mean: colour of what is erased, one number a channel.
    """
    amounts = [_OPERATIONS[name][1] for name in names]
    chance = torch.rand(sum(amounts), generator=generator(*key)).tolist()
    objects = isinstance(target, dict) and "boxes" in target
    fixations = isinstance(target, dict) and "points" in target
    planes = [image, *(target[kind] for kind in ("boxes", "masks") if kind in target)] if objects else [image]
    if isinstance(target, Mask):
        planes.append(target)
    if fixations:  # the kernels count from the middle of the first pixel
        planes.append(KeyPoints(target["points"] - 0.5, canvas_size=tuple(image.shape[-2:])))
    for name, amount in zip(names, amounts, strict=True):
        planes = _OPERATIONS[name][0](planes, chance[:amount], mean)
        chance = chance[amount:]
    if objects:
        return planes[0], _inside(planes[1], target["labels"], *planes[2:])
    if fixations:
        return planes[0], _seen(planes[1] + 0.5, target["viewers"], planes[0].shape[-2:])
    return planes[0], planes[1] if len(planes) == 2 else target


def _inside(boxes: BoundingBoxes, labels: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
    """The objects whose boxes, cut to the image, are at least one pixel wide and high."""
    kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    corners = BoundingBoxes(boxes.as_subclass(Tensor)[kept], format="XYXY", canvas_size=boxes.canvas_size)
    inside = {"boxes": corners, "labels": labels[kept]}
    return inside if masks is None else {**inside, "masks": Mask(masks.as_subclass(Tensor)[kept])}


def _seen(points: Tensor, viewers: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
    """The points that lie in an image of ``size`` (H, W)."""
    kept = ((points >= 0) & (points < torch.tensor([size[1], size[0]]))).all(1)
    inside = KeyPoints(points.as_subclass(Tensor)[kept], canvas_size=(size[0], size[1]))
    return {"points": inside, "viewers": viewers[kept]}
