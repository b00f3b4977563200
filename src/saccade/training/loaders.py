"""Data loaders of a run, and the test order of the control ``shuffled``."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from saccade.data.samples import ImageSet, collate
from saccade.recipe import Recipe

__all__ = ["evaluation_loader", "image_loader", "shuffled_order"]


def shuffled_order(recipe: Recipe, count: int) -> list[int] | None:
    """Return the test order of ``count`` images for the control ``shuffled``; None for other runs.

    The order is the same in all runs. The control gives each image its neighbour's gate, and in file order most
    neighbours are of the same class.
    """
    if recipe.attention.control != "shuffled":
        return None
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order


def evaluation_loader(images: ImageSet, recipe: Recipe, device: torch.device) -> DataLoader:
    """Return a loader of test or validation images, in file order unless the control is ``shuffled``."""
    order = shuffled_order(recipe, len(images))
    return image_loader(images, recipe, device, batch_size=recipe.training.batch_size, sampler=order)


def image_loader(images: ImageSet, recipe: Recipe, device: torch.device, **sampling: Any) -> DataLoader:
    """Return a loader of ``images`` that does not use the global random generator."""
    workers = recipe.training.workers
    return DataLoader(
        images,
        **sampling,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
