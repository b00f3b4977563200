"""Augmentations by name, each driven by uniform numbers that are a function of (seed, epoch, index) alone."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import UserError, did_you_mean

__all__ = ["Key", "augment", "check_names", "generator"]


class Key(NamedTuple):
    """What decides the augmentation of one image: the seed of the run, the epoch, the number of the image."""

    seed: int
    epoch: int
    image: int


_LUMA = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]


def generator(*key: int) -> torch.Generator:
    """A generator whose state is a function of the integers of ``key``; near keys are as unlike as far ones."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _flip(image: Tensor, chance: Sequence[float], fill: Tensor) -> Tensor:
    """Left to right, one time in two."""
    return image.flip(-1) if chance[0] < 0.5 else image


def _crop(image: Tensor, chance: Sequence[float], fill: Tensor) -> Tensor:
    """Shift by up to an eighth of each side; what comes in is the reflection."""
    height, width = image.shape[-2:]
    y, x = height // 8, width // 8
    padded = F.pad(image, (x, x, y, y), mode="reflect")
    top, left = int(chance[0] * (2 * y + 1)), int(chance[1] * (2 * x + 1))
    return padded[:, top : top + height, left : left + width]


def _color(image: Tensor, chance: Sequence[float], fill: Tensor) -> Tensor:
    """Brightness, contrast and saturation, each times 0.6 to 1.4: torchvision's formulas, at half its overhead."""
    brightness, contrast, saturation = (0.6 + 0.8 * c for c in chance)
    image = (image * brightness).clamp_(max=1)
    image = torch.lerp(_grey(image).mean(), image, contrast).clamp_(0, 1)
    return torch.lerp(_grey(image), image, saturation).clamp_(0, 1)


def _grey(image: Tensor) -> Tensor:
    """Luma (1, H, W) of RGB (3, H, W) after ITU-R BT.601; of grey, itself."""
    return image if len(image) == 1 else (image * _LUMA).sum(0, keepdim=True)


def _erase(image: Tensor, chance: Sequence[float], fill: Tensor) -> Tensor:
    """One time in two, a rectangle of 1/50 to 1/5 of the area and an aspect of 1/2 to 2 becomes the mean colour.

    After Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, arXiv:1708.04896.
    """
    if chance[0] >= 0.5:
        return image
    height, width = image.shape[-2:]
    area = (0.02 + 0.18 * chance[1]) * height * width
    aspect = 2.0 ** (2 * chance[2] - 1)
    h = min(height, max(1, round((area * aspect) ** 0.5)))
    w = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = int(chance[3] * (height - h + 1)), int(chance[4] * (width - w + 1))
    image = image.clone()
    image[:, top : top + h, left : left + w] = fill
    return image


_Operation = Callable[[Tensor, Sequence[float], Tensor], Tensor]
_OPERATIONS: dict[str, tuple[_Operation, int]] = {
    "flip": (_flip, 1),
    "crop": (_crop, 2),
    "color": (_color, 3),
    "erase": (_erase, 5),
}


def check_names(names: Sequence[str]) -> None:
    """Raises a UserError that names the first augmentation there is not, and its neighbours."""
    for name in names:
        if name not in _OPERATIONS:
            raise UserError(
                f"data.augment: there is no augmentation {name!r}.{did_you_mean(name, _OPERATIONS)} "
                f"There are {', '.join(_OPERATIONS)}."
            )


def augment(image: Tensor, names: Sequence[str], key: Key, fill: Tensor) -> Tensor:
    """The image after the named operations, in their order.

    Args:
        image: float (C, H, W) in [0, 1].
        names: any of ``flip``, ``crop``, ``color``, ``erase``.
        key: decides everything that is drawn.
        fill: (C, 1, 1), the colour of what is erased.
    """
    amounts = [_OPERATIONS[name][1] for name in names]
    chance = torch.rand(sum(amounts), generator=generator(*key)).tolist()
    for name, amount in zip(names, amounts, strict=True):
        image = _OPERATIONS[name][0](image, chance[:amount], fill)
        chance = chance[amount:]
    return image
