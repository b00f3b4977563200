"""Shuffling and per-image random numbers that depend only on (seed, epoch, index)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from saccade.errors import UserError

__all__ = ["EpochSampler", "Key", "generator", "seeded"]


class Key(NamedTuple):
    """Key of the random numbers of one augmented image."""

    seed: int
    epoch: int
    image: int


def generator(*key: int) -> torch.Generator:
    """Return a random generator seeded by a hash of ``key``: similar keys give unrelated numbers."""
    return torch.Generator().manual_seed(_hashed(key))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global CPU generator by ``key`` inside the context, for code that takes no generator.

    ``torch.manual_seed`` would also seed accelerators.
    """
    previous_state = torch.get_rng_state()
    torch.default_generator.manual_seed(_hashed(key))
    try:
        yield
    finally:
        torch.set_rng_state(previous_state)


def _hashed(key: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class EpochSampler(Sampler[list[Key]]):
    """Sampler of batches of keys (seed, epoch, index), every image once, in a random order per epoch.

    A single remaining image joins the previous batch, because batch norm cannot train on one image.

    Args:
        images: image set, or number of images.
        seed: seed of the run.
        batch_size: images per batch.
    """

    def __init__(self, images: Sized | int, seed: int, batch_size: int) -> None:
        self.count = images if isinstance(images, int) else len(images)
        if self.count < 1 or batch_size < 1:
            raise UserError(f"batches need images and a size, got {self.count} images and batch_size {batch_size}")
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        n_full, remainder = divmod(self.count, self.batch_size)
        return n_full + (remainder > 0) - self._merges_last

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.count, generator=generator(self.seed, self.epoch)).tolist()
        keys = [Key(self.seed, self.epoch, index) for index in order]
        starts = [n * self.batch_size for n in range(len(self))]
        for start, end in zip(starts, [*starts[1:], self.count], strict=True):
            yield keys[start:end]

    @property
    def _merges_last(self) -> bool:
        """True if the last batch would be a single image and is merged into the previous one."""
        return self.count > self.batch_size > 1 and self.count % self.batch_size == 1
