"""What a network learns from and what it is judged by: image sets that share classes, size and colours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Mask

from saccade.data.sampling import Key
from saccade.data.transforms import augment

__all__ = ["CACHE", "VOID", "ImageSet", "Key", "Pictures", "Split", "Target", "Targets", "collate", "colours", "digest"]

CACHE = 2**30
"""Bytes of pictures that are kept in memory where they are not mapped from disk; those of a larger source are made each
time they are asked for."""
VOID = 255
"""In a mask: a pixel that belongs to no class."""

Target = Any
"""By kind: ``label``, an int; ``vector``, float32 (K,), 1 for each label the image has; ``mask``, a tv_tensors.Mask
(H, W), uint8, of class indices and ``VOID``; ``objects``,
``{"boxes": tv_tensors.BoundingBoxes XYXY (n, 4), "labels": int64 (n,), "masks": tv_tensors.Mask (n, H, W)}``,
the masks only where every object has an outline;
``fixations``, ``{"points": tv_tensors.KeyPoints (n, 2) of x, y in pixels, "viewers": int64 (n,)}``; ``none``, None."""


class Pictures(Protocol):
    """Numbered pictures, uint8 (C, H, W), all of one size: a tensor (N, C, H, W) is one, a reader of files another."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


class Targets(Protocol):
    """Numbered targets: a list is one, a reader of mask files another."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Target: ...


class ImageSet(Dataset[tuple[Tensor, Target]]):
    """Images with targets, normalised, augmented on request.

    ``images[i]`` is image ``i`` as it is; ``images[Key(seed, epoch, i)]`` is augmented by what these three numbers
    draw, its target with it. Both give float32 (C, H, W) and the target.

    Args:
        pictures: the images as they are shown.
        targets: one for each.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        augmentations: names of augmentations, in their order.
        groups: the group of each image (patient, scene) where the data names them: what is resampled as one.
    """

    def __init__(
        self,
        pictures: Pictures,
        targets: Targets,
        mean: Sequence[float],
        std: Sequence[float],
        augmentations: Sequence[str] = (),
        groups: list[str] | None = None,
    ) -> None:
        self.pictures = pictures
        self.targets = targets
        self.augmentations = tuple(augmentations)
        self.groups = groups
        self._mean = torch.tensor(mean)[:, None, None]
        self._std = torch.tensor(std)[:, None, None]
        self._colour = tuple(mean)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int | tuple[int, int, int]) -> tuple[Tensor, Target]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int, int]]) -> list[tuple[Tensor, Target]]:
        """The samples of a batch, normalised at once: half the time for small images. DataLoader calls it."""
        places = [key if isinstance(key, int) else key[2] for key in keys]
        images = torch.stack([self.pictures[place] for place in places]).float().div_(255)
        targets = [self.targets[place] for place in places]
        for n, key in enumerate(keys if self.augmentations else ()):
            if not isinstance(key, int):
                images[n], targets[n] = augment(images[n], targets[n], self.augmentations, Key(*key), self._colour)
        return list(zip(images.sub_(self._mean).div_(self._std), targets, strict=True))

    def picture(self, i: int) -> Tensor:
        """Image ``i`` for the eye: uint8 (C, H, W), neither normalised nor augmented."""
        return self.pictures[i]

    def target(self, i: int) -> Target:
        """The target of image ``i``; the image is not decoded."""
        return self.targets[i]


@dataclass(frozen=True)
class Split:
    """Training, test and validation images.

    Attributes:
        train: augmented where a key asks for it.
        test: never augmented.
        val: neither trained on nor scored; None where the source has no such part.
        target: kind of the targets, as of ``Target``.
        classes: their names; a label is a place in this list.
        channels: 1 or 3.
        size: (H, W) of the images in pixels.
        mean: of each channel, stated or over the training images, for pixels in [0, 1].
        std: of each channel.
        description: what this is, in one sentence for a report.
        fingerprint: the same for the same images and targets to train and to test on, and hardly ever for others. Of
            files it knows name, label and a checksum of their bytes: it tells images that were added, removed,
            replaced, also in place, or moved between classes or parts. ``val`` is not in it.
        left_out: part (train, test or val) -> class -> bad files that were left out, where there are any.
        cautions: sentences on images that spoil the score: those that are trained on and tested on.
    """

    train: ImageSet
    test: ImageSet
    val: ImageSet | None
    target: str
    classes: list[str]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str
    fingerprint: str
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, Any]:
    """Join samples to a batch.

    Returns:
        the images (B, C, H, W), and the targets: labels as int64 (B,), vectors as (B, K), masks of one shape as int64
        (B, H, W), anything else as the list it is.
    """
    images = torch.stack([image for image, _ in samples])
    targets = [target for _, target in samples]
    if all(isinstance(target, int) for target in targets):
        return images, torch.tensor(targets)
    if all(isinstance(target, Mask) for target in targets) and len({target.shape for target in targets}) == 1:
        return images, torch.stack([target.as_subclass(Tensor) for target in targets]).long()
    if all(type(target) is Tensor for target in targets):
        return images, torch.stack(targets)
    return images, targets


def digest(facts: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that stand for ``facts``, which JSON can write, in their order."""
    state = hashlib.sha256()
    for fact in facts:
        state.update(json.dumps(fact).encode("ascii") + b"\n")
    return state.hexdigest()[:16]


def colours(
    pictures: Pictures, areas: Sequence[int] | None = None, at_most: int = 2000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], over up to ``at_most`` evenly spaced images.

    ``areas``, where pictures are padded with black: how many pixels of each are no padding.
    """
    count = len(pictures)
    total = squares = torch.zeros((), dtype=torch.float64)
    pixels = 0
    for n in range(min(count, at_most)):
        place = n * count // min(count, at_most)
        image = pictures[place].double() / 255
        total = total + image.sum((1, 2))
        squares = squares + image.square().sum((1, 2))
        pixels += image[0].numel() if areas is None else areas[place]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)  # images of one colour have none
    return tuple(mean.tolist()), tuple(std.tolist())
