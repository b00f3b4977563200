"""Image files as numbered pictures: found whole or found wanting, turned, made RGB, cut to a square."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import UnreadableError, checksum, opened

__all__ = ["Files", "Look", "Notify", "check", "look"]

_CHUNK = 256
_TOLD_EVERY = 0.2  # seconds between two words on progress

Notify = Callable[[dict[str, Any]], None]


class Look(NamedTuple):
    """What became of a file.

    Attributes:
        pixels: uint8 (3, size, size); None where it is broken.
        size: width and height in the file; None where it is broken.
        content: number and CRC-32 of the file's bytes; None where it is broken.
        problem: what is wrong with it, as the rest of a sentence that begins with its name; empty if nothing is.
    """

    pixels: NDArray[np.uint8] | None
    size: tuple[int, int] | None
    content: tuple[int, int] | None
    problem: str


def look(path: Path, size: int) -> Look:
    """Read the image in ``path`` whole, as a square of side ``size``.

    Raises:
        UserError: this machine, not the file, is why it cannot be read.
    """
    try:
        with opened(path) as image:
            found = image.size
            image.draft("RGB", (2 * size, 2 * size))  # lets a large JPEG be decoded at 1/2, 1/4 or 1/8
            upright: Image.Image = image
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            square = _to_rgb(upright)
            if square.size != (size, size):
                square = ImageOps.fit(square, (size, size), Image.Resampling.BILINEAR)
            pixels = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
            return Look(pixels, found, checksum(path), "")
    except UnreadableError as problem:
        return Look(None, None, None, str(problem))


def check(paths: Sequence[Path], size: int, notify: Notify | None = None) -> Iterator[Look]:
    """A :class:`Look` at each file, in order, several at a time.

    Raises:
        UserError: as :func:`look`.
    """
    told = 0.0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from pool.map(look, chunk, [size] * len(chunk))
            done = start + len(chunk)
            if notify and (done == len(paths) or time.monotonic() - told > _TOLD_EVERY):
                told = time.monotonic()
                notify({"event": "check", "done": done, "total": len(paths)})


class Files:
    """Pictures read from their files each time they are asked for; a slice of them is such a thing again.

    Args:
        paths: the files.
        size: side of the squares they become.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> Files: ...
    def __getitem__(self, i: int | slice) -> Tensor | Files:
        """Picture ``i``, uint8 (3, size, size).

        Raises:
            UserError: the file has become unreadable.
        """
        if isinstance(i, slice):
            return Files(self.paths[i], self.size)
        seen = look(self.paths[i], self.size)
        if seen.pixels is None:
            raise UserError(f"{brief(self.paths[i])} {seen.problem}")
        return torch.from_numpy(seen.pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency is dropped, 16-bit grey keeps its upper byte.

    Raises:
        ValueError: the pixels are floating-point or 32-bit numbers, whose black and white nobody has said.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its pixels run from {values.min()} to {values.max()}; 8 or 16 bits are needed")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; 8 or 16 bits are needed")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")
