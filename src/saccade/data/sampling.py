"""The order of an epoch and the chance of an image, as functions of (seed, epoch, index) alone."""

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
    """What decides the augmentation of one image: the seed of the run, the epoch, the index of the image."""

    seed: int
    epoch: int
    image: int


def generator(*key: int) -> torch.Generator:
    """A generator whose state is a function of the integers of ``key``; near keys are as unlike as far ones."""
    return torch.Generator().manual_seed(_hashed(key))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generator of the CPU by the integers of ``key`` inside; restore its state afterwards.

    For code that takes no generator. ``torch.manual_seed`` would seed accelerators as well, which nothing restores.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(_hashed(key))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _hashed(key: tuple[int, ...]) -> int:
    """Eight bytes that are a function of ``key``."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys (seed, epoch, index) that go through every image once, in an order drawn for the epoch.

    The last batch holds what is left; a single image that would be left (batch norm cannot learn from one) joins
    the batch before.

    Args:
        images: the image set, or how many images it has.
        seed: of the run.
        batch_size: images in a batch.
    """

    def __init__(self, images: Sized | int, seed: int, batch_size: int) -> None:
        self.count = images if isinstance(images, int) else len(images)
        if self.count < 1 or batch_size < 1:
            raise UserError(f"batches need images and a size, got {self.count} images and batch_size {batch_size}")
        self.seed = seed
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest > 0) - self._joins

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.count, generator=generator(self.seed, self.epoch)).tolist()
        keys = [Key(self.seed, self.epoch, index) for index in order]
        starts = [n * self.batch_size for n in range(len(self))]
        for start, end in zip(starts, [*starts[1:], self.count], strict=True):
            yield keys[start:end]

    @property
    def _joins(self) -> bool:
        return self.count > self.batch_size > 1 and self.count % self.batch_size == 1
