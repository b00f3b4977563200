"""Image files as numbered pictures: checked, turned, made RGB, brought to one size."""

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

from saccade.data.decoded import Facts, StorageError, load, place_of, store
from saccade.data.resizing import DEFAULT, Frame, lies
from saccade.data.samples import CACHE
from saccade.data.views import Shown
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.events import FilesChecked, ImagesNotCached, Notify
from saccade.imagefiles import UnreadableError, checksum, opened
from saccade.recipe import Data

__all__ = ["Files", "Opened", "ReadResult", "check", "each", "open_pictures", "read_image", "upright"]

_CHUNK = 256
_NOTIFY_EVERY = 0.2  # seconds between two events of progress

_Result = TypeVar("_Result")


class ReadResult(NamedTuple):
    """What became of a file.

    Attributes:
        pixels: uint8 (3, H, W); None where it is broken.
        size: width and height, upright; None where it is broken.
        content: number and CRC-32 of the file's bytes; None where it is broken.
        problem: what is wrong with it, as the rest of a sentence that begins with its name; empty if it is whole.
    """

    pixels: NDArray[np.uint8] | None
    size: tuple[int, int] | None
    content: tuple[int, int] | None
    problem: str


def read_image(path: Path, frame: Frame, exact: bool = False) -> ReadResult:
    """Read the image in ``path`` whole, as ``frame`` shows it.

    Args:
        path: of the file.
        frame: what is seen of it.
        exact: decode at full size; else a large JPEG is decoded at 1/2, 1/4 or 1/8, which can move it by part of a
            pixel against its mask.

    Raises:
        UserError: this machine, not the file, is why it cannot be read.
    """
    try:
        with opened(path) as image:
            height, width = frame.scale_size
            found, wanted = image.size, (2 * width, 2 * height)
            if lies(image):
                found, wanted = found[::-1], wanted[::-1]
            if not exact:
                image.draft("RGB", wanted)
            pixels = np.asarray(frame.picture(_to_rgb(upright(image)))).transpose(2, 0, 1)
            return ReadResult(np.ascontiguousarray(pixels), found, checksum(path), "")
    except UnreadableError as problem:
        return ReadResult(None, None, None, str(problem))


def upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF says."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def check(
    paths: Sequence[Path], frame: Frame, notify: Notify | None = None, exact: bool = False
) -> Iterator[ReadResult]:
    """A :class:`ReadResult` at each file, in order, several at a time.

    Raises:
        UserError: as :func:`read_image`.
    """
    return each(lambda path: read_image(path, frame, exact), paths, notify)


def each(function: Callable[[Path], _Result], paths: Sequence[Path], notify: Notify | None) -> Iterator[_Result]:
    """``function`` of each path, in order, several at a time; ``notify`` receives events of progress."""
    last = 0.0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from pool.map(function, chunk)
            done = start + len(chunk)
            if notify and (done == len(paths) or time.monotonic() - last > _NOTIFY_EVERY):
                last = time.monotonic()
                notify(FilesChecked(done, len(paths)))


class Files:
    """Pictures read from their files each time they are asked for; a slice of them is such a thing again.

    Args:
        paths: the files.
        frame: what is seen of them.
        exact: as of :func:`read_image`.
    """

    def __init__(self, paths: Sequence[Path], frame: Frame, exact: bool = False) -> None:
        self.paths = paths
        self.frame = frame
        self.exact = exact

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> Files: ...
    def __getitem__(self, i: int | slice) -> Tensor | Files:
        """Picture ``i``, uint8 (3, H, W).

        Raises:
            UserError: the file has become unreadable.
        """
        if isinstance(i, slice):
            return Files(self.paths[i], self.frame, self.exact)
        seen = read_image(self.paths[i], self.frame, self.exact)
        if seen.pixels is None:
            raise UserError(f"{brief(self.paths[i])} {seen.problem}")
        return torch.from_numpy(seen.pixels)


@dataclass(frozen=True)
class Opened:
    """The pictures of many files.

    Attributes:
        frame: what is seen of them.
        pictures: of the files that can be read, in order: a tensor (N, 3, H, W), in memory or a file mapped into it,
            or a view of one; ``Files`` where neither can be.
        sizes: of these files, width and height.
        contents: of these files, number and CRC-32 of the bytes.
        bad: what is wrong with the others.
    """

    frame: Frame
    pictures: Tensor | Shown | Files
    sizes: dict[Path, tuple[int, int]]
    contents: dict[Path, tuple[int, int]]
    bad: dict[Path, str]

    def without(self, gone: Collection[Path]) -> Opened:
        """The same but for the files ``gone``."""
        places = [n for n, path in enumerate(self.sizes) if path not in gone]
        sizes = {path: size for path, size in self.sizes.items() if path not in gone}
        if isinstance(self.pictures, Files):
            return replace(self, pictures=Files(list(sizes), self.frame, self.pictures.exact), sizes=sizes)
        view = self._view
        chosen = Shown(view.pixels, [view.places[n] for n in places])
        return replace(self, pictures=chosen, sizes=sizes) if gone else self

    @property
    def _view(self) -> Shown:
        assert not isinstance(self.pictures, Files)
        return self.pictures if isinstance(self.pictures, Shown) else Shown(self.pictures, range(len(self.pictures)))

    def areas(self) -> list[int]:
        """Pixels of each picture that are no padding."""
        return [width * height for _, _, width, height in map(self.frame.content, self.sizes.values())]

    def padded(self, fill: tuple[int, int, int]) -> Opened:
        """The same with padding in the colour ``fill``."""
        frame = replace(self.frame, fill=fill)
        if isinstance(self.pictures, Files):
            return replace(self, frame=frame, pictures=Files(self.pictures.paths, frame, self.pictures.exact))
        view, inner = self._view, [self.frame.content(size) for size in self.sizes.values()]
        return replace(self, frame=frame, pictures=Shown(view.pixels, view.places, inner, fill))


def open_pictures(
    paths: list[Path],
    spec: Data,
    own: Callable[[Collection[tuple[int, int]]], tuple[int, int]],
    notify: Notify | None,
    exact: bool = False,
) -> Opened:
    """Open every file at the size ``spec`` asks for, or else at the one that ``own`` makes of the sizes there are.

    Raises:
        UserError: as :func:`read_image`.
    """
    size = spec.height_width
    if size is None:
        seen = (read_image(path, Frame(*DEFAULT), exact).size for path in paths)
        first = next((found for found in seen if found is not None), None)
        size = own({first} if first else ())
    return _opened(paths, Frame.of(spec, size), notify, exact, spec.size is None and size != DEFAULT)


class _UnlikeError(Exception):
    """An image has another size than the first."""


def _opened(paths: list[Path], frame: Frame, notify: Notify | None, exact: bool, alike: bool) -> Opened:
    """Open every file; where they must be ``alike`` and are not, begin again at ``DEFAULT``."""
    try:
        return _stored(paths, frame, notify, exact, alike) or _kept(paths, frame, notify, exact, alike)
    except _UnlikeError:
        return _opened(paths, replace(frame, height=DEFAULT[0], width=DEFAULT[1]), notify, exact, False)


def _stored(paths: list[Path], frame: Frame, notify: Notify | None, exact: bool, alike: bool) -> Opened | None:
    """Open every file by the pictures stored on disk, which are decoded first if need be; None if that cannot be."""
    place = place_of(paths, frame, exact)
    if place is None:
        return None
    found = load(place, len(paths), frame)
    try:
        if found is None:
            results = ((seen.pixels, _facts(seen)) for seen in _checked(paths, frame, notify, exact, alike))
            found = store(place, results, len(paths), frame)
    except StorageError as error:
        if notify:
            notify(ImagesNotCached(str(error)))
        return None
    bad = {path: facts for path, facts in zip(paths, found.facts, strict=True) if isinstance(facts, str)}
    good = {path: facts for path, facts in zip(paths, found.facts, strict=True) if not isinstance(facts, str)}
    sizes = {path: (width, height) for path, (width, height, _, _) in good.items()}
    contents = {path: (length, checksum) for path, (_, _, length, checksum) in good.items()}
    return Opened(frame, found.pictures, sizes, contents, bad)


def _kept(paths: list[Path], frame: Frame, notify: Notify | None, exact: bool, alike: bool) -> Opened:
    """Open every file; pictures of up to ``CACHE`` bytes stay in memory."""
    fits = len(paths) * 3 * frame.height * frame.width <= CACHE
    kept = torch.empty(len(paths) if fits else 0, 3, frame.height, frame.width, dtype=torch.uint8)
    sizes, contents, bad = dict[Path, tuple[int, int]](), dict[Path, tuple[int, int]](), dict[Path, str]()
    for path, seen in zip(paths, _checked(paths, frame, notify, exact, alike), strict=True):
        if seen.pixels is None or seen.size is None or seen.content is None:
            bad[path] = seen.problem
            continue
        if fits:
            kept[len(sizes)] = torch.from_numpy(seen.pixels)
        sizes[path], contents[path] = seen.size, seen.content
    return Opened(frame, kept[: len(sizes)] if fits else Files(list(sizes), frame, exact), sizes, contents, bad)


def _checked(paths: list[Path], frame: Frame, notify: Notify | None, exact: bool, alike: bool) -> Iterator[ReadResult]:
    """As :func:`check`.

    Raises:
        _UnlikeError: images must be ``alike``, of the size of ``frame``, and one is not.
    """
    for seen in check(paths, frame, notify, exact):
        if alike and seen.size not in (None, (frame.width, frame.height)):
            raise _UnlikeError
        yield seen


def _facts(seen: ReadResult) -> Facts:
    return seen.problem if seen.size is None or seen.content is None else (*seen.size, *seen.content)


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
