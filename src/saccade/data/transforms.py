"""Named augmentations of an image and its target, from functions of torchvision.transforms.v2.

Random numbers depend only on (seed, epoch, index). The transform classes of v2 use the global generator and take twice
as long; only the auto-augmentation policies, which have no functions, are used as classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

from saccade.data.sampling import Key, generator, seeded
from saccade.errors import UserError, did_you_mean

__all__ = ["augment", "check_augmentations"]


# An operation transforms a list of the image (C, H, W) and its target tensors, given uniform random numbers in [0, 1).


def _flip(tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]) -> list[Tensor]:
    """Flip left to right with probability 1/2."""
    return [F.horizontal_flip(tensor) for tensor in tensors] if uniforms[0] < 0.5 else tensors


def _crop(tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]) -> list[Tensor]:
    """Shift by up to an eighth of each side.

    The border is filled by reflection, or with the mean colour if the target has boxes or points.
    """
    height, width = tensors[0].shape[-2:]
    margin_y, margin_x = height // 8, width // 8
    top, left = int(uniforms[0] * (2 * margin_y + 1)), int(uniforms[1] * (2 * margin_x + 1))
    if not any(isinstance(tensor, BoundingBoxes | KeyPoints) for tensor in tensors):
        padded = [F.pad(tensor, [margin_x, margin_y], padding_mode="reflect") for tensor in tensors]
    else:
        padded = [
            F.pad(tensor, [margin_x, margin_y], fill=None if n else list(fill_colour))
            for n, tensor in enumerate(tensors)
        ]
    return [F.crop(tensor, top, left, height, width) for tensor in padded]


def _color(tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]) -> list[Tensor]:
    """Scale brightness, contrast and saturation by factors between 0.6 and 1.4."""
    brightness, contrast, saturation = (0.6 + 0.8 * uniform for uniform in uniforms)
    image = F.adjust_contrast(F.adjust_brightness(tensors[0], brightness), contrast)
    return [F.adjust_saturation(image, saturation), *tensors[1:]]


def _erase(tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]) -> list[Tensor]:
    """With probability 1/2, set a rectangle of 1/50 to 1/5 of the area, of aspect 1/2 to 2, to the mean colour.

    After Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, arXiv:1708.04896. Targets are left unchanged.
    """
    if uniforms[0] >= 0.5:
        return tensors
    height, width = tensors[0].shape[-2:]
    area = (0.02 + 0.18 * uniforms[1]) * height * width
    aspect = 2.0 ** (2 * uniforms[2] - 1)
    h = min(height, max(1, round((area * aspect) ** 0.5)))
    w = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = int(uniforms[3] * (height - h + 1)), int(uniforms[4] * (width - w + 1))
    return [F.erase(tensors[0], top, left, h, w, torch.tensor(fill_colour)[:, None, None]), *tensors[1:]]


_ATTEMPTS = 10
"""Number of rectangles that ``resized_crop`` draws before it takes the centre, as in torchvision."""


def _resized_crop(tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]) -> list[Tensor]:
    """Enlarge a rectangle of 8 % to 100 % of the area, of aspect 3/4 to 4/3, to the whole image.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842; drawn as in torchvision's
    ``RandomResizedCrop``. Pixels are interpolated bilinearly; masks take the nearest pixel.
    """
    height, width = tensors[0].shape[-2:]
    rectangle = _random_rectangle(height, width, uniforms)
    return [_enlarge(tensor, *rectangle, height, width) for tensor in tensors]


def _random_rectangle(height: int, width: int, uniforms: Sequence[float]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the first drawn rectangle that fits, else of one at the centre."""
    ratios = 3 / 4, 4 / 3
    for n in range(_ATTEMPTS):
        area = (0.08 + 0.92 * uniforms[2 * n]) * height * width
        aspect = ratios[0] * (ratios[1] / ratios[0]) ** uniforms[2 * n + 1]
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return int(uniforms[-2] * (height - h + 1)), int(uniforms[-1] * (width - w + 1)), h, w
    h, w = min(height, max(1, round(width / ratios[0]))), min(width, max(1, round(height * ratios[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def _enlarge(tensor: Tensor, top: int, left: int, h: int, w: int, height: int, width: int) -> Tensor:
    """Return the rectangle of ``h`` × ``w`` pixels at (``top``, ``left``), resized to ``height`` × ``width``."""
    if isinstance(tensor, Mask):  # v2 would take the pixel above and to the left of the nearest
        pixels = tensor.as_subclass(Tensor).reshape(-1, *tensor.shape[-2:])
        nearest = F.resized_crop(pixels, top, left, h, w, [height, width], InterpolationMode.NEAREST_EXACT)
        return Mask(nearest.reshape(tensor.shape))
    if isinstance(tensor, KeyPoints):  # v2 would scale about the centre of the first pixel instead of its corner
        corner, scale = torch.tensor([left, top]), torch.tensor([width / w, height / h])
        points = (tensor.as_subclass(Tensor) + 0.5 - corner) * scale - 0.5
        return KeyPoints(points, canvas_size=(height, width))
    return F.resized_crop(tensor, top, left, h, w, [height, width])


_POLICIES: dict[str, Callable[..., nn.Module]] = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "autoaugment": partial(v2.AutoAugment, v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment_cifar10": partial(v2.AutoAugment, v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment_svhn": partial(v2.AutoAugment, v2.AutoAugmentPolicy.SVHN),
}
"""Policies of torchvision with its defaults, such as 2 operations of magnitude 9 of 30 for RandAugment. A policy
transforms the image but not the target.

Cubuk et al., CVPR 2019, arXiv:1805.09501, and NeurIPS 2020, arXiv:1909.13719; Müller and Hutter, ICCV 2021,
arXiv:2103.10158."""


@lru_cache(maxsize=64)
def _policy(name: str, fill_colour: tuple[float, ...]) -> nn.Module:
    """Build a policy whose operations fill uncovered pixels with the mean colour."""
    return _POLICIES[name](fill=list(fill_colour))


def _apply_policy(
    name: str, tensors: list[Tensor], uniforms: Sequence[float], fill_colour: Sequence[float]
) -> list[Tensor]:
    with seeded(int(uniforms[0] * 2**24)):  # torch.rand gives float32 with 24 random bits
        return [_policy(name, tuple(fill_colour))(tensors[0]), *tensors[1:]]


_Operation = Callable[[list[Tensor], Sequence[float], Sequence[float]], list[Tensor]]
_OPERATIONS: dict[str, tuple[_Operation, int]] = {
    "flip": (_flip, 1),
    "crop": (_crop, 2),
    "color": (_color, 3),
    "erase": (_erase, 5),
    "resized_crop": (_resized_crop, 2 * _ATTEMPTS + 2),
    **{name: (partial(_apply_policy, name), 1) for name in _POLICIES},
}
"""Maps name to operation and its number of uniform random numbers."""


def check_augmentations(names: Sequence[str], target: str = "label") -> None:
    """Raise UserError if an augmentation is unknown or does not transform targets of the kind ``target``."""
    for name in names:
        if name not in _OPERATIONS:
            raise UserError(
                f"data.augment: there is no augmentation {name!r}.{did_you_mean(name, _OPERATIONS)} "
                f"There are {', '.join(_OPERATIONS)}."
            )
        if name in _POLICIES and target not in ("label", "vector", "none"):
            others = ", ".join(other for other in _OPERATIONS if other not in _POLICIES)
            raise UserError(
                f"data.augment: {name} transforms the image but not a target of the kind {target}; it needs labels. "
                f"For this data use any of {others}."
            )


def augment(image: Tensor, target: Any, names: Sequence[str], key: Key, mean: Sequence[float]) -> tuple[Tensor, Any]:
    """Apply the named augmentations, in order, to an image and its target.

    Args:
        image: float (C, H, W) in [0, 1].
        target: masks, objects and fixations are transformed with the image, others left unchanged.
        names: names of augmentations.
        key: key of the random numbers.
        mean: mean colour of the data (C,), the fill colour.
    """
    counts = [_OPERATIONS[name][1] for name in names]
    uniforms = torch.rand(sum(counts), generator=generator(*key)).tolist()
    has_objects = isinstance(target, dict) and "boxes" in target
    has_fixations = isinstance(target, dict) and "points" in target
    tensors = [image]
    if has_objects:
        tensors += [target[name] for name in ("boxes", "masks") if name in target]
    if isinstance(target, Mask):
        tensors.append(target)
    if has_fixations:  # v2 measures points from the centre of the first pixel
        tensors.append(KeyPoints(target["points"] - 0.5, canvas_size=tuple(image.shape[-2:])))
    for name, count in zip(names, counts, strict=True):
        tensors = _OPERATIONS[name][0](tensors, uniforms[:count], mean)
        uniforms = uniforms[count:]
    if has_objects:
        return tensors[0], _visible_objects(tensors[1], target["labels"], *tensors[2:])
    if has_fixations:
        return tensors[0], _points_inside(tensors[1] + 0.5, target["viewers"], tensors[0].shape[-2:])
    return tensors[0], tensors[1] if len(tensors) == 2 else target


def _visible_objects(boxes: BoundingBoxes, labels: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
    """Return the objects whose clipped ``boxes`` (n, 4) are at least one pixel wide and high."""
    is_visible = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    corners = BoundingBoxes(boxes.as_subclass(Tensor)[is_visible], format="XYXY", canvas_size=boxes.canvas_size)
    objects = {"boxes": corners, "labels": labels[is_visible]}
    return objects if masks is None else {**objects, "masks": Mask(masks.as_subclass(Tensor)[is_visible])}


def _points_inside(points: Tensor, viewers: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
    """Return the ``points`` (n, 2) inside an image of ``size`` (H, W), with their ``viewers`` (n,)."""
    is_inside = ((points >= 0) & (points < torch.tensor([size[1], size[0]]))).all(1)
    inside = KeyPoints(points.as_subclass(Tensor)[is_inside], canvas_size=(size[0], size[1]))
    return {"points": inside, "viewers": viewers[is_inside]}
