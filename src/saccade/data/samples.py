"""Image sets to train and evaluate on, and the training, test and validation splits of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Mask

from saccade.data.sampling import Key
from saccade.data.transforms import augment

__all__ = [
    "MEMORY_LIMIT", "VOID", "ImageColumn", "ImageSequence", "ImageSet", "Key", "Regions", "Splits", "Target", "Targets",
    "channel_statistics", "collate", "digest_values",
]  # fmt: skip

MEMORY_LIMIT = 2**30
"""Largest size in bytes at which decoded images are kept in memory; larger sets are decoded on each access, unless they
are memory-mapped."""
VOID = 255
"""Mask value of pixels that belong to no class."""

Target = Any
"""Target of one image. Kinds of target:

``label``: int, the class index.
``vector``: float32 (K,), 1 for each label that the image has.
``mask``: ``tv_tensors.Mask``, uint8 (H, W), of class indices and ``VOID``.
``objects``: ``{"boxes": tv_tensors.BoundingBoxes XYXY (n, 4), "labels": int64 (n,),
"masks": tv_tensors.Mask (n, H, W)}``, with ``masks`` only if every object of the data has one.
``fixations``: ``{"points": tv_tensors.KeyPoints (n, 2) of x, y in pixels, "viewers": int64 (n,)}``.
``none``: None."""


class ImageSequence(Protocol):
    """Sequence of images, uint8 (C, H, W), all of one size, such as a tensor (N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


class Targets(Protocol):
    """Sequence of targets, such as a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Target: ...


class Regions(Protocol):
    """Maps from class index to pixels, bool (H, W), of each image."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Mapping[int, Tensor]: ...


@dataclass(frozen=True)
class ImageColumn:
    """Column of a table that scores are divided by, such as the view of a radiograph.

    Attributes:
        name: name of the column.
        values: value of each image; empty if the table has none.
    """

    name: str
    values: list[str]

    @property
    def levels(self) -> list[str]:
        """Distinct values, sorted, without the empty one."""
        return sorted({*self.values} - {""})


class ImageSet(Dataset[tuple[Tensor, Target]]):
    """Normalised images, float32 (C, H, W), with their targets.

    ``images[i]`` is image ``i``; ``images[Key(seed, epoch, i)]`` is image ``i`` augmented with its target, by random
    numbers that depend only on the key.

    Args:
        images: uint8 (C, H, W).
        targets: one target per image.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
        augmentations: names of augmentations, in order.
        groups: group of each image (patient, scene), if any.
        by: column that scores are divided by, if any.
        regions: pixels by class, unless the targets have them.
    """

    def __init__(
        self,
        images: ImageSequence,
        targets: Targets,
        mean: Sequence[float],
        std: Sequence[float],
        augmentations: Sequence[str] = (),
        groups: list[str] | None = None,
        by: ImageColumn | None = None,
        *,
        regions: Regions | None = None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.augmentations = tuple(augmentations)
        self.groups = groups
        self.by = by
        self.regions = regions
        self._mean = torch.tensor(mean)[:, None, None]
        self._std = torch.tensor(std)[:, None, None]
        self._mean_colour = tuple(mean)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int, int]) -> tuple[Tensor, Target]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int, int]]) -> list[tuple[Tensor, Target]]:
        """Return samples for ``DataLoader``; normalising the whole batch halves the time for small images."""
        indices = [key if isinstance(key, int) else key[2] for key in keys]
        batch = torch.stack([self.images[index] for index in indices]).float().div_(255)
        targets = [self.targets[index] for index in indices]
        for n, key in enumerate(keys if self.augmentations else ()):
            if not isinstance(key, int):
                batch[n], targets[n] = augment(batch[n], targets[n], self.augmentations, Key(*key), self._mean_colour)
        return list(zip(batch.sub_(self._mean).div_(self._std), targets, strict=True))

    def codes(self) -> dict[str, Tensor]:
        """Return ``group`` and ``by`` (N,) as in ``saccade.metrics.rows``, for those that the images have."""
        codes = {}
        if self.groups is not None:
            groups = {group: code for code, group in enumerate(sorted(set(self.groups)))}
            codes["group"] = torch.tensor([groups[group] for group in self.groups])
        if self.by is not None:
            levels = {value: code for code, value in enumerate(self.by.levels)}
            codes["by"] = torch.tensor([levels.get(value, -1) for value in self.by.values])
        return codes

    def raw_image(self, i: int) -> Tensor:
        """Return image ``i``, uint8 (C, H, W), neither normalised nor augmented."""
        return self.images[i]

    def target(self, i: int) -> Target:
        """Return the target of image ``i`` without decoding the image."""
        return self.targets[i]

    def regions_of(self, i: int) -> Mapping[int, Tensor]:
        """Return the known pixels, bool (H, W), of image ``i`` by class index."""
        return {} if self.regions is None else self.regions[i]


@dataclass(frozen=True)
class Splits:
    """Training, test and validation images of a data set.

    Attributes:
        train: training images.
        test: test images, never augmented.
        val: validation images, on which a training phase may choose its best epoch, or None.
        target: kind of the targets, see ``Target``.
        classes: class names, in the order of the labels.
        channels: number of image channels, 1 or 3.
        size: (H, W) of the images in pixels.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
        description: one sentence for a report.
        fingerprint: hash of the training and test files, their names, classes and splits, without ``val``.
        left_out: Maps split and class to the number of unusable files.
        cautions: warnings on images that bias the score, such as test images in the training set.
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
    """Collate samples into images (B, C, H, W) and targets.

    Labels become int64 (B,), vectors (B, K), masks of one shape int64 (B, H, W), other targets a list.
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


def digest_values(values: Iterable[Any]) -> str:
    """Return a hash of JSON-serialisable ``values``, 16 hexadecimal digits."""
    hasher = hashlib.sha256()
    for value in values:
        hasher.update(json.dumps(value).encode("ascii") + b"\n")
    return hasher.hexdigest()[:16]


def channel_statistics(
    images: ImageSequence, areas: Sequence[int] | None = None, max_images: int = 2000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for pixels in [0, 1].

    Args:
        images: images, uint8 (C, H, W).
        areas: number of pixels per image that are not black padding.
        max_images: number of evenly spaced images to measure.
    """
    count = len(images)
    total = squares = torch.zeros((), dtype=torch.float64)
    n_pixels = 0
    for n in range(min(count, max_images)):
        index = n * count // min(count, max_images)
        image = images[index].double() / 255
        total = total + image.sum((1, 2))
        squares = squares + image.square().sum((1, 2))
        n_pixels += image[0].numel() if areas is None else areas[index]
    mean = total / n_pixels
    std = (squares / n_pixels - mean.square()).clamp(min=0).sqrt()
    std = std.clamp(min=1 / 255)  # constant images have std 0
    return tuple(mean.tolist()), tuple(std.tolist())
