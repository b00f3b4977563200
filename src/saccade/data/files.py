"""Image files as numbered pictures: found whole or found wanting, turned, made RGB, cut to a square."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade.errors import UserError

__all__ = ["Files", "Notify", "check", "common_size", "look"]

_CHUNK = 256

Notify = Callable[[dict[str, Any]], None]


class Files:
    """Pictures read from their files each time; a slice of it is one too.

    Args:
        paths: the files.
        size: side of the squares they become.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        """Picture ``i``, uint8 (3, size, size).

        Raises:
            UserError: the file has become unreadable.
        """
        if isinstance(i, slice):
            return Files(self.paths[i], self.size)
        pixels = look(self.paths[i], self.size)
        if isinstance(pixels, str):
            raise UserError(f"{self.paths[i]} {pixels}")
        return torch.from_numpy(pixels)


def look(path: Path, size: int) -> NDArray[np.uint8] | str:
    """The image in ``path`` as uint8 (3, size, size), or what is wrong with it, as the rest of a sentence."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # lets a large JPEG be decoded at 1/2, 1/4 or 1/8
            image = _to_rgb(ImageOps.exif_transpose(image))  # noqa: PLW2901
            square = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        return "is no image" if path.stat().st_size else "is an empty file"
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them into
        return f"cannot be read: {error}"
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def common_size(paths: Sequence[Path]) -> int | None:
    """The side of the images where all are squares of one size, else None; only headers are read."""
    side = None
    for path in paths:
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # what is broken is told by the check that follows
            continue
        if width != height or width != (side or width):
            return None
        side = width
    return side


def check(paths: Sequence[Path], size: int, notify: Notify | None = None) -> Iterator[NDArray[np.uint8] | str]:
    """What :func:`look` says of each file, in order, several files at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK):
            yield from pool.map(look, paths[start : start + _CHUNK], [size] * _CHUNK)
            if notify:
                notify({"event": "check", "done": min(start + _CHUNK, len(paths)), "total": len(paths)})


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
    return image.convert("RGB")
