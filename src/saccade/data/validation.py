"""Score on validation images: those of the source, or a fraction held back from the training images."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.data.samples import ImageSequence, ImageSet, Splits, Targets, digest_values
from saccade.data.sampling import generator
from saccade.errors import UserError
from saccade.recipe import Data

__all__ = ["content_digests", "score_on_val"]

_SEED_KEY = zlib.crc32(b"hold back for validation")


def score_on_val(splits: Splits, spec: Data) -> Splits:
    """Return ``splits`` with the validation images in place of the test images.

    If the source has no validation split, a fraction ``spec.val_part`` of the training images is held back: stratified
    by label, drawn with ``spec.split_seed``, in whole groups if there are any. ``mean`` and ``std`` do not
    change.

    Raises:
        UserError: no image can be held back, because all training images are one group or every class has one image.
    """
    if splits.val is not None:
        return replace(
            splits,
            test=splits.val,
            description=f"{splits.description}; scored on its {len(splits.val)} validation images",
            fingerprint=digest_values([splits.fingerprint, "val", *content_digests(splits.val)]),
            cautions=[],
        )
    labels = _labels(splits)
    held_back = _hold_back_indices(labels, splits.train.groups or range(len(labels)), spec)
    remaining = [i for i in range(len(labels)) if i not in held_back]
    val = _subset_images(splits.train, sorted(held_back))
    val.augmentations = ()
    return replace(
        splits,
        train=_subset_images(splits.train, remaining),
        test=val,
        description=(
            f"{splits.description}; trained on {len(remaining)} of the training images and scored on the other "
            f"{len(val)}, held back with seed {spec.split_seed}"
        ),
        fingerprint=digest_values([splits.fingerprint, "val", spec.val_part, spec.split_seed]),
        cautions=[],
    )


def content_digests(images: ImageSet) -> Iterator[list[Any]]:
    """Yield shape and CRC-32 of each image and target, for a fingerprint; reads all images."""
    return ([_content_digest(images.raw_image(i)), _content_digest(images.target(i))] for i in range(len(images)))


def _content_digest(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [*value.shape, zlib.crc32(value.as_subclass(Tensor).numpy().tobytes())]
    return {key: _content_digest(item) for key, item in value.items()} if isinstance(value, dict) else value


def _labels(splits: Splits) -> list[int]:
    """Return the class of each training image; 0 for all if targets are not labels."""
    count = len(splits.train)
    return [splits.train.target(i) for i in range(count)] if splits.target == "label" else [0] * count


def _hold_back_indices(labels: Sequence[int], groups: Sequence[Any], spec: Data) -> set[int]:
    """Choose the indices of a fraction ``spec.val_part`` of the images, stratified by label, in whole ``groups``.

    In random order, a group is held back if that brings the label counts nearer to their goals and leaves every label a
    training image.
    """
    n_train = Counter(labels)
    n_to_hold_back = {label: min(max(1.0, spec.val_part * n), n - 1.0) for label, n in n_train.items()}
    indices_by_group: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        indices_by_group.setdefault(group, []).append(i)
    indices_of_groups = list(indices_by_group.values())
    held_back: set[int] = set()
    order = torch.randperm(len(indices_of_groups), generator=generator(spec.split_seed, _SEED_KEY))
    for n in order.tolist():
        in_group = Counter(labels[i] for i in indices_of_groups[n])
        gain = sum(abs(n_to_hold_back[label]) - abs(n_to_hold_back[label] - k) for label, k in in_group.items())
        if gain > 0 and all(n_train[label] > k for label, k in in_group.items()):
            held_back.update(indices_of_groups[n])
            n_train -= in_group
            n_to_hold_back |= {label: n_to_hold_back[label] - k for label, k in in_group.items()}
    if not held_back:
        raise UserError(
            f"data.val_part = {spec.val_part:g}: none of the {len(labels)} training images in {len(indices_of_groups)} "
            f"groups and {len(n_to_hold_back)} classes can be held back for validation; a class with two images in two "
            "groups is needed"
        )
    return held_back


def _subset_images(images: ImageSet, indices: Sequence[int]) -> ImageSet:
    subset = copy.copy(images)
    subset.images, subset.targets = _ImageSubset(images.images, indices), _TargetSubset(images.targets, indices)
    subset.regions = None if images.regions is None else _TargetSubset(images.regions, indices)
    subset.groups = None if images.groups is None else [images.groups[i] for i in indices]
    subset.by = images.by and replace(images.by, values=[images.by.values[i] for i in indices])
    return subset


class _ImageSubset:
    def __init__(self, images: ImageSequence, indices: Sequence[int]) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[self.indices[i]]


class _TargetSubset:
    def __init__(self, targets: Targets, indices: Sequence[int]) -> None:
        self.targets, self.indices = targets, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        return self.targets[self.indices[i]]
