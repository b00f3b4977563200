"""What a network learns from and what it is judged by: two image sets that share classes, size and colours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from saccade.data.augment import Key, augment

__all__ = ["CACHE", "ImageSet", "Pictures", "Split", "colours", "digest"]

CACHE = 2**30
"""Bytes of pictures that are kept in memory; those of a larger source are made each time they are asked for."""


class Pictures(Protocol):
    """Numbered pictures, uint8 (C, H, W), all of one size: a tensor (N, C, H, W) is one, a reader of files another."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Labelled images, normalised, augmented on request.

    ``images[i]`` is image ``i`` as it is; ``images[seed, epoch, i]`` is augmented by what these three numbers draw.
    Both give float32 (C, H, W) and the label.

    Args:
        pictures: the images as they are shown.
        labels: the class of each.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        augment: names of augmentations, in their order.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: list[int],
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[str] = (),
    ) -> None:
        self.pictures = pictures
        self.labels = labels
        self.augment = tuple(augment)
        self._mean = torch.tensor(mean)[:, None, None]
        self._std = torch.tensor(std)[:, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int, int]) -> tuple[Tensor, int]:
        index = key if isinstance(key, int) else key[2]
        image = self.pictures[index].float() / 255
        if self.augment and not isinstance(key, int):
            image = augment(image, self.augment, Key(*key), self._mean)
        return (image - self._mean) / self._std, self.labels[index]

    def picture(self, i: int) -> Tensor:
        """Image ``i`` for the eye: uint8 (C, H, W), neither normalised nor augmented."""
        return self.pictures[i]


@dataclass(frozen=True)
class Split:
    """Training and test images.

    Attributes:
        train: augmented where a key asks for it.
        test: never augmented.
        classes: their names; a label is a place in this list.
        channels: 1 or 3.
        size: side of the square images in pixels.
        mean: of each channel over the training images, for pixels in [0, 1].
        std: of each channel.
        description: what this is, in one sentence for a report.
        fingerprint: the same for the same images and labels in both parts, and hardly ever for others. Of files it
            knows name, label and a checksum of their bytes: it tells images that were added, removed, replaced, also
            in place, or moved between classes or parts.
        left_out: part (train or test) -> class -> bad files that were left out, where there are any.
        cautions: sentences on images that spoil the score: those that are trained on and tested on.
    """

    train: ImageSet
    test: ImageSet
    classes: list[str]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str
    fingerprint: str
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)


def digest(facts: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that stand for ``facts``, which JSON can write, in their order."""
    state = hashlib.sha256()
    for fact in facts:
        state.update(json.dumps(fact).encode("ascii") + b"\n")
    return state.hexdigest()[:16]


def colours(pictures: Pictures, at_most: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], over up to ``at_most`` evenly spaced images."""
    count = len(pictures)
    total = squares = torch.zeros((), dtype=torch.float64)
    pixels = 0
    for n in range(min(count, at_most)):
        image = pictures[n * count // min(count, at_most)].double() / 255
        total = total + image.sum((1, 2))
        squares = squares + image.square().sum((1, 2))
        pixels += image[0].numel()
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)  # images of one colour have none
    return tuple(mean.tolist()), tuple(std.tolist())
