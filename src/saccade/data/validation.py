"""Score on validation images: those of the source, or a part held back from the training images."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.data.samples import ImageSet, Pictures, Split, Targets, digest
from saccade.data.sampling import generator
from saccade.errors import UserError
from saccade.recipe import Data

__all__ = ["facts", "scored_on_val"]

_PURPOSE = zlib.crc32(b"hold back for validation")


def scored_on_val(split: Split, spec: Data) -> Split:
    """Return ``split`` with validation images as its test part; the real test part is not in it.

    Without a part ``val``, ``spec.val_part`` of the training images is held back: of each label alike, drawn by
    ``spec.split_seed``, whole groups where the images have them. ``mean`` and ``std`` stay those of all training
    images.

    Raises:
        UserError: nothing can be held back, because all training images are one group, or there is one a class.
    """
    if split.val is not None:
        return replace(
            split,
            test=split.val,
            description=f"{split.description}; scored on its {len(split.val)} validation images",
            fingerprint=digest([split.fingerprint, "val", *facts(split.val)]),
            cautions=[],
        )
    labels = _labels(split)
    held_back = _hold_back(labels, split.train.groups or range(len(labels)), spec)
    kept = [i for i in range(len(labels)) if i not in held_back]
    val = _subset(split.train, sorted(held_back))
    val.augmentations = ()
    return replace(
        split,
        train=_subset(split.train, kept),
        test=val,
        description=(
            f"{split.description}; trained on {len(kept)} of the training images and scored on the other {len(val)}, "
            f"held back with seed {spec.split_seed}"
        ),
        fingerprint=digest([split.fingerprint, "val", spec.val_part, spec.split_seed]),
        cautions=[],
    )


def facts(images: ImageSet) -> Iterator[list[Any]]:
    """Yield what a fingerprint knows of each image and target: shape and CRC-32 of their bytes. Reads all of them."""
    return ([_fact(images.picture(i)), _fact(images.target(i))] for i in range(len(images)))


def _fact(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [*value.shape, zlib.crc32(value.as_subclass(Tensor).numpy().tobytes())]
    return {key: _fact(part) for key, part in value.items()} if isinstance(value, dict) else value


def _labels(split: Split) -> list[int]:
    """The label of each training image; 0 where targets are no labels."""
    count = len(split.train)
    return [split.train.target(i) for i in range(count)] if split.target == "label" else [0] * count


def _hold_back(labels: Sequence[int], groups: Sequence[Any], spec: Data) -> set[int]:
    """The places of ``spec.val_part`` of the images, whole ``groups`` of them, every label in its proportion.

    Groups are taken in an order that is drawn; one is passed over where the numbers of the labels would come no nearer
    to what is wanted, or where a label would be left without an image to train on.

    Raises:
        UserError: no group can be held back.
    """
    counts = Counter(labels)
    lacking = {label: min(max(1.0, spec.val_part * n), n - 1.0) for label, n in counts.items()}
    members: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    places = list(members.values())
    held_back: set[int] = set()
    for n in torch.randperm(len(places), generator=generator(spec.split_seed, _PURPOSE)).tolist():
        added = Counter(labels[i] for i in places[n])
        nearer = sum(abs(lacking[label]) - abs(lacking[label] - k) for label, k in added.items()) > 0
        if nearer and all(counts[label] > k for label, k in added.items()):
            held_back.update(places[n])
            counts -= added
            lacking |= {label: lacking[label] - k for label, k in added.items()}
    if not held_back:
        raise UserError(
            f"data.val_part = {spec.val_part:g}: nothing of {len(labels)} training images in {len(places)} groups and "
            f"{len(lacking)} classes can be held back for validation; a class with two images in two groups is needed"
        )
    return held_back


def _subset(images: ImageSet, places: Sequence[int]) -> ImageSet:
    """The images at ``places``, none of them copied."""
    found = copy.copy(images)
    found.pictures, found.targets = _Pictures(images.pictures, places), _Targets(images.targets, places)
    found.groups = None if images.groups is None else [images.groups[i] for i in places]
    return found


class _Pictures:
    """Some of ``pictures``."""

    def __init__(self, pictures: Pictures, places: Sequence[int]) -> None:
        self.pictures, self.places = pictures, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Tensor:
        return self.pictures[self.places[i]]


class _Targets:
    """Some of ``targets``."""

    def __init__(self, targets: Targets, places: Sequence[int]) -> None:
        self.targets, self.places = targets, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Any:
        return self.targets[self.places[i]]
