"""Image files as numbered pictures: found whole or found wanting, turned, made RGB, cut to a square."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from saccade.errors import UserError

__all__ = ["LARGEST", "Files", "Look", "Notify", "check", "look"]

LARGEST = 89_478_485
"""Pixels; a file that states more is refused unread, for a few of its bytes can unfold to any amount of memory."""

_CHUNK = 256
_TOLD_EVERY = 0.2  # seconds between two words on progress

Notify = Callable[[dict[str, Any]], None]


class Look(NamedTuple):
    """What became of a file.

    Attributes:
        pixels: uint8 (3, size, size); None where it is broken.
        size: width and height in the file; None where not even that could be read.
        problem: what is wrong with it, as the rest of a sentence that begins with its name; empty if nothing is.
    """

    pixels: NDArray[np.uint8] | None
    size: tuple[int, int] | None
    problem: str


def look(path: Path, size: int) -> Look:
    """Read the image in ``path`` whole, as a square of side ``size``."""
    found = None
    try:
        with Image.open(path) as image:
            found = image.size
            if found[0] * found[1] > LARGEST:
                return Look(None, found, f"states {found[0]}×{found[1]} pixels; at most {LARGEST:,} are read")
            image.draft("RGB", (2 * size, 2 * size))  # lets a large JPEG be decoded at 1/2, 1/4 or 1/8
            upright: Image.Image = image
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            square = _to_rgb(upright)
            if square.size != (size, size):
                square = ImageOps.fit(square, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(square).transpose(2, 0, 1)
    except UnidentifiedImageError:
        return Look(None, None, "is no image" if path.stat().st_size else "is an empty file")
    except Image.DecompressionBombError:  # Pillow itself stops at twice as many and does not say how large
        return Look(None, None, f"states more than {2 * LARGEST:,} pixels; at most {LARGEST:,} are read")
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them into
        return Look(None, found, f"cannot be read: {error}")
    return Look(np.ascontiguousarray(pixels), found, "")


def check(paths: Sequence[Path], size: int, notify: Notify | None = None) -> Iterator[Look]:
    """A :class:`Look` at each file, in order, several at a time."""
    told = 0.0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            with warnings.catch_warnings():  # files that large are refused: no need to warn of them
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                looks = list(pool.map(look, chunk, [size] * len(chunk)))
            yield from looks
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
            raise UserError(f"{self.paths[i]} {seen.problem}")
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
