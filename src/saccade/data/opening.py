"""Read image files: check them, apply the EXIF orientation, convert to RGB and resize."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from saccade.data.image_cache import CacheError, FileInfo, cache_path, read_cache, write_cache
from saccade.data.resizing import DEFAULT_SIZE, Frame, swaps_sides
from saccade.data.samples import MEMORY_LIMIT
from saccade.data.views import ImageView
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import FilesChecked, ImagesNotCached, Notify
from saccade.imagefiles import UnreadableError, checksum, open_image
from saccade.recipe import Data

__all__ = [
    "LazyImages", "OpenedImages", "ReadResult", "decode_image", "map_files", "open_images", "read_image", "read_images",
    "to_rgb", "upright",
]  # fmt: skip

_CHUNK_FILES = 256
"""Files per batch of the thread pool."""
_PROGRESS_INTERVAL = 0.2
"""Seconds between two progress events."""

_Result = TypeVar("_Result")


class ReadResult(NamedTuple):
    """Result of reading one image file.

    Attributes:
        pixels: uint8 (3, H, W).
        size: (width, height) of the upright image in the file.
        content: byte count and CRC-32 of the file.
        problem: error message, a predicate of the file; if not empty, the other values are None.
    """

    pixels: NDArray[np.uint8] | None
    size: tuple[int, int] | None
    content: tuple[int, int] | None
    problem: str


def read_image(path: Path, frame: Frame, full_resolution: bool = False) -> ReadResult:
    """Read the image at ``path`` and fit it to ``frame``.

    Args:
        path: path of the file.
        frame: size and way of resizing.
        full_resolution: False decodes large JPEGs at 1/2, 1/4 or 1/8, which can shift them against their masks by a
            fraction of a pixel.

    Raises:
        UserError: reading failed for a reason other than the file, such as a lack of memory.
    """
    try:
        with open_image(path) as image:
            height, width = frame.resize_size
            size, draft_size = image.size, (2 * width, 2 * height)
            if swaps_sides(image):
                size, draft_size = size[::-1], draft_size[::-1]
            if not full_resolution:
                image.draft("RGB", draft_size)
            pixels = np.asarray(frame.fit_image(to_rgb(upright(image)))).transpose(2, 0, 1)
            return ReadResult(np.ascontiguousarray(pixels), size, checksum(path), "")
    except UnreadableError as problem:
        return ReadResult(None, None, None, str(problem))


def decode_image(content: bytes, max_side: int) -> Image.Image:
    """Return the image in the file content ``content``, upright, in RGB, reduced to sides of ``max_side`` pixels.

    Raises:
        UnreadableError: the content is not an image, is broken or has too many pixels; see ``open_image``.
        UserError: the machine is out of memory.
    """
    with open_image(content) as image:
        image.draft("RGB", (max_side, max_side))
        decoded = to_rgb(upright(image))
        decoded.thumbnail((max_side, max_side))
        return decoded.copy()


def upright(image: Image.Image) -> Image.Image:
    """Return ``image`` rotated by its EXIF orientation."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def read_images(
    paths: Sequence[Path], frame: Frame, notify: Notify | None = None, full_resolution: bool = False
) -> Iterator[ReadResult]:
    """Yield the result of :func:`read_image` for each path, in order, from several threads.

    Raises:
        UserError: as :func:`read_image`.
    """
    return map_files(lambda path: read_image(path, frame, full_resolution), paths, notify)


def map_files(function: Callable[[Path], _Result], paths: Sequence[Path], notify: Notify | None) -> Iterator[_Result]:
    """Yield ``function(path)`` for each path, in order, from several threads."""
    last_event = 0.0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK_FILES):
            chunk = paths[start : start + _CHUNK_FILES]
            yield from pool.map(function, chunk)
            n_done = start + len(chunk)
            if notify and (n_done == len(paths) or time.monotonic() - last_event > _PROGRESS_INTERVAL):
                last_event = time.monotonic()
                notify(FilesChecked(n_done, len(paths)))


class LazyImages:
    """Sequence of images, read from their files on access with :func:`read_image`."""

    def __init__(self, paths: Sequence[Path], frame: Frame, full_resolution: bool = False) -> None:
        self.paths = paths
        self.frame = frame
        self.full_resolution = full_resolution

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> LazyImages: ...
    def __getitem__(self, i: int | slice) -> Tensor | LazyImages:
        """Return image ``i``, uint8 (3, H, W).

        Raises:
            UserError: the file has become unreadable.
        """
        if isinstance(i, slice):
            return LazyImages(self.paths[i], self.frame, self.full_resolution)
        result = read_image(self.paths[i], self.frame, self.full_resolution)
        if result.pixels is None:
            raise UserError(f"{brief(self.paths[i])} {result.problem}")
        return torch.from_numpy(result.pixels)


@dataclass(frozen=True)
class OpenedImages:
    """Images of many files.

    Attributes:
        frame: frame that the images are fitted to.
        images: images of the readable files: a tensor (N, 3, H, W), in memory or memory-mapped, or a view of one;
            ``LazyImages`` if they fit in neither memory nor the disk cache.
        sizes: Maps readable file to (width, height).
        contents: Maps readable file to (byte count, CRC-32).
        errors: Maps broken file to error message.
    """

    frame: Frame
    images: Tensor | ImageView | LazyImages
    sizes: dict[Path, tuple[int, int]]
    contents: dict[Path, tuple[int, int]]
    errors: dict[Path, str]

    def without(self, excluded: Collection[Path]) -> OpenedImages:
        """Return the same images except those of the files ``excluded``."""
        indices = [n for n, path in enumerate(self.sizes) if path not in excluded]
        sizes = {path: size for path, size in self.sizes.items() if path not in excluded}
        if isinstance(self.images, LazyImages):
            return replace(self, images=LazyImages(list(sizes), self.frame, self.images.full_resolution), sizes=sizes)
        view = self._view
        subset = ImageView(view.pixels, [view.indices[n] for n in indices])
        return replace(self, images=subset, sizes=sizes) if excluded else self

    @property
    def _view(self) -> ImageView:
        assert not isinstance(self.images, LazyImages)
        return self.images if isinstance(self.images, ImageView) else ImageView(self.images, range(len(self.images)))

    def areas(self) -> list[int]:
        """Return the number of pixels of each image that are not padding."""
        return [width * height for _, _, width, height in map(self.frame.content_box, self.sizes.values())]

    def padded(self, fill: tuple[int, int, int]) -> OpenedImages:
        """Return the same images with padding in the RGB colour ``fill``."""
        frame = replace(self.frame, fill=fill)
        if isinstance(self.images, LazyImages):
            return replace(self, frame=frame, images=LazyImages(self.images.paths, frame, self.images.full_resolution))
        view, boxes = self._view, [self.frame.content_box(size) for size in self.sizes.values()]
        return replace(self, frame=frame, images=ImageView(view.pixels, view.indices, boxes, fill))


def open_images(
    paths: list[Path],
    spec: Data,
    choose_size: Callable[[Collection[tuple[int, int]]], tuple[int, int]],
    notify: Notify | None,
    full_resolution: bool = False,
) -> OpenedImages:
    """Open every file at the size that ``spec`` sets.

    If ``spec`` sets no size, ``choose_size`` maps a set with the (width, height) of the first image to (H, W). If
    another image differs in size, every image is opened at ``DEFAULT_SIZE``.

    Raises:
        UserError: as :func:`read_image`.
    """
    size = spec.height_width
    if size is None:
        all_sizes = (read_image(path, Frame(*DEFAULT_SIZE), full_resolution).size for path in paths)
        first = next((image_size for image_size in all_sizes if image_size is not None), None)
        size = choose_size({first} if first else ())
    return _open(
        paths, Frame.from_spec(spec, size), notify, full_resolution, spec.size is None and size != DEFAULT_SIZE
    )


class _SizesDifferError(Exception):
    """Error raised if an image differs in size from the first."""


def _open(
    paths: list[Path], frame: Frame, notify: Notify | None, full_resolution: bool, require_same_size: bool
) -> OpenedImages:
    """Open every file, at ``DEFAULT_SIZE`` if ``require_same_size`` and sizes differ."""
    try:
        images = _open_cached(paths, frame, notify, full_resolution, require_same_size)
        return images or _open_uncached(paths, frame, notify, full_resolution, require_same_size)
    except _SizesDifferError:
        default_frame = replace(frame, height=DEFAULT_SIZE[0], width=DEFAULT_SIZE[1])
        return _open(paths, default_frame, notify, full_resolution, False)


def _open_cached(
    paths: list[Path], frame: Frame, notify: Notify | None, full_resolution: bool, require_same_size: bool
) -> OpenedImages | None:
    """Open every file through the disk cache; return None if the cache cannot be used."""
    path = cache_path(paths, frame, full_resolution)
    if path is None:
        return None
    cached = read_cache(path, len(paths), frame)
    try:
        if cached is None:
            results = _read_checked(paths, frame, notify, full_resolution, require_same_size)
            cached = write_cache(path, ((result.pixels, _file_info(result)) for result in results), len(paths), frame)
    except CacheError as error:
        if notify:
            notify(ImagesNotCached(str(error)))
        return None
    errors = {path: info for path, info in zip(paths, cached.files, strict=True) if isinstance(info, str)}
    readable = {path: info for path, info in zip(paths, cached.files, strict=True) if not isinstance(info, str)}
    sizes = {path: (width, height) for path, (width, height, _, _) in readable.items()}
    contents = {path: (length, checksum) for path, (_, _, length, checksum) in readable.items()}
    return OpenedImages(frame, cached.images, sizes, contents, errors)


def _open_uncached(
    paths: list[Path], frame: Frame, notify: Notify | None, full_resolution: bool, require_same_size: bool
) -> OpenedImages:
    fits_in_memory = len(paths) * 3 * frame.height * frame.width <= MEMORY_LIMIT
    images = torch.empty(len(paths) if fits_in_memory else 0, 3, frame.height, frame.width, dtype=torch.uint8)
    sizes, contents, errors = dict[Path, tuple[int, int]](), dict[Path, tuple[int, int]](), dict[Path, str]()
    for path, result in zip(
        paths, _read_checked(paths, frame, notify, full_resolution, require_same_size), strict=True
    ):
        if result.pixels is None or result.size is None or result.content is None:
            errors[path] = result.problem
            continue
        if fits_in_memory:
            images[len(sizes)] = torch.from_numpy(result.pixels)
        sizes[path], contents[path] = result.size, result.content
    readable = images[: len(sizes)] if fits_in_memory else LazyImages(list(sizes), frame, full_resolution)
    return OpenedImages(frame, readable, sizes, contents, errors)


def _read_checked(
    paths: list[Path], frame: Frame, notify: Notify | None, full_resolution: bool, require_same_size: bool
) -> Iterator[ReadResult]:
    for result in read_images(paths, frame, notify, full_resolution):
        if require_same_size and result.size not in (None, (frame.width, frame.height)):
            raise _SizesDifferError
        yield result


def _file_info(result: ReadResult) -> FileInfo:
    return result.problem if result.size is None or result.content is None else (*result.size, *result.content)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency is dropped, 16-bit grey keeps its upper byte.

    Raises:
        ValueError: pixels are floating-point or 32-bit numbers, of unknown range.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its pixels run from {values.min()} to {values.max()}; 8 or 16 bits are needed")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; 8 or 16 bits are needed")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if it is converted to RGB directly
    return image if image.mode == "RGB" else image.convert("RGB")
