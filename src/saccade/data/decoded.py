"""Decoded pictures on disk: decoded once on a machine, then mapped into the memory of every process that asks.

One file for each list of image files and each way of showing them: the pixels as they are, a table in JSON (what each
image file was), and the table's length and checksum. Pixels and table are checked against their checksums each time; a
file that is not whole is made anew. Nothing in it is run or unpickled.

An image file counts as unchanged while its path, size, time of change and time of change of its entry are the same.

``SACCADE_CACHE`` names another folder, or is ``off``. The files together take at most ``LIMIT`` bytes and half of the
free space; those that were not used for longest are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import __version__ as pillow
from PIL import features
from torch import Tensor

from saccade.data.resizing import Frame
from saccade.errors import UserError
from saccade.files import atomic_writer, lock, make_folders

__all__ = ["Decoded", "Facts", "StorageError", "home", "load", "place_of", "store"]

LIMIT = 20 * 2**30
_ENDING = ".pictures"
_TRAILER = struct.Struct("<8sQI")
"""Magic, bytes of the table, its CRC-32."""
_MAGIC = b"saccade1"
_PATIENCE = 600.0
"""Seconds to wait for another process that decodes the same images."""
_LEFT_OVER = 24 * 3600.0
"""Seconds after which a temporary file is that of a killed process."""

Facts = tuple[int, int, int, int] | str
"""Of an image file: width, height, number and CRC-32 of its bytes; or what is wrong with it."""


class StorageError(Exception):
    """Pictures cannot be stored; the rest of a sentence."""


@dataclass(frozen=True)
class Decoded:
    """Pictures of image files.

    Attributes:
        pictures: uint8 (N, 3, H, W) of the files that can be read, mapped; what is written to it stays in this process.
        facts: of every file.
    """

    pictures: Tensor
    facts: list[Facts]


def home() -> Path | None:
    """The folder of the files, which need not exist; None if ``SACCADE_CACHE`` is ``off`` or no home is known."""
    named = os.environ.get("SACCADE_CACHE")
    if named is not None:
        return None if named.strip().lower() in ("", "0", "off", "none") else Path(named).expanduser().absolute()
    with suppress(RuntimeError):  # no home folder
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "saccade" if base.is_absolute() else None
    return None


def place_of(paths: Sequence[Path], frame: Frame, exact: bool) -> Path | None:
    """Where the pictures of ``paths`` as ``frame`` shows them are stored.

    None if there is no folder for them, or if a file cannot be examined, which decoding it will explain.
    """
    folder = home()
    if folder is None or not paths:
        return None
    state = hashlib.sha256()
    codecs = [pillow, *(features.version(name) for name in ("jpg", "zlib", "webp", "libtiff"))]
    state.update(json.dumps([_MAGIC.decode(), codecs, asdict(frame), exact], default=str).encode())
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            return None
        facts = [os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        state.update(json.dumps(facts).encode() + b"\n")
    return folder / f"{state.hexdigest()[:40]}{_ENDING}"


def load(place: Path, count: int, frame: Frame) -> Decoded | None:
    """The pictures of ``count`` image files stored at ``place``; None if there is no such file or it is not whole."""
    try:
        with place.open("rb") as file:
            end = file.seek(-_TRAILER.size, os.SEEK_END)
            magic, length, checksum = _TRAILER.unpack(file.read(_TRAILER.size))
            if magic != _MAGIC or length > end:
                return None
            file.seek(end - length)
            table = file.read(length)
        if zlib.crc32(table) != checksum:
            return None
        values = json.loads(table)
        facts = [_fact(each) for each in values["files"]]
        shape = sum(not isinstance(each, str) for each in facts), 3, frame.height, frame.width
        if values["name"] != place.name or len(facts) != count or int(np.prod(shape)) != end - length:
            return None
        pictures = _mapped(place, end - length).view(shape)
        if zlib.crc32(pictures.numpy().reshape(-1).data) != values["pixels"]:
            return None
        with suppress(OSError):  # a folder that is read only
            os.utime(place)  # used last now
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, struct.error):
        return None
    return Decoded(pictures, facts)


def store(place: Path, results: Iterable[tuple[NDArray[np.uint8] | None, Facts]], count: int, frame: Frame) -> Decoded:
    """Write the pictures that ``results`` gives one by one, unless another process does it meanwhile; then load them.

    Args:
        place: the file.
        results: pixels, uint8 (3, H, W), None of a broken image file; and its facts.
        count: how many results there are.
        frame: what the pictures show.

    Raises:
        StorageError: the folder cannot be written, its limits are too low, or the other process takes too long.
    """
    needed = count * 3 * frame.height * frame.width
    try:
        if not place.parent.exists():
            make_folders(place.parent)
            place.parent.chmod(0o700)  # they are a user's pictures
        with lock(place.with_suffix(".lock"), _PATIENCE):
            found = load(place, count, frame)
            if found is None:
                _make_room(place.parent, needed)
                _write(place, results)
                found = load(place, count, frame)
    except UserError:  # of the lock
        raise StorageError("another process is still decoding them") from None
    except OSError as error:
        raise StorageError(f"{place.parent} cannot be written: {error.strerror}") from None
    if found is None:
        raise StorageError(f"{place} could not be read back")
    return found


def _fact(value: Any) -> Facts:
    """A row of the table.

    Raises:
        ValueError, TypeError: ``value`` is no row of the table.
    """
    if isinstance(value, str):
        return value
    width, height, length, checksum = map(int, value)
    return width, height, length, checksum


def _write(place: Path, results: Iterable[tuple[NDArray[np.uint8] | None, Facts]]) -> None:
    facts, checksum = list[Facts](), 0
    with atomic_writer(place) as file:
        for pixels, about in results:
            if pixels is not None:
                checksum = zlib.crc32(pixels.data, checksum)
                file.write(pixels.data)
            facts.append(about)
        table = json.dumps({"name": place.name, "pixels": checksum, "files": facts}).encode()
        file.write(table)
        file.write(_TRAILER.pack(_MAGIC, len(table), zlib.crc32(table)))


def _mapped(place: Path, length: int) -> Tensor:
    """The first ``length`` bytes of a file, shared with all processes until one of them writes."""
    if length == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(place), shared=False, size=length, dtype=torch.uint8)


def _make_room(folder: Path, needed: int) -> None:
    """Remove what was not used for longest until ``needed`` bytes fit below ``LIMIT``.

    Raises:
        StorageError: they never fit, or not into half of the free space.
    """
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            if leftover.stat().st_mtime < time.time() - _LEFT_OVER:
                leftover.unlink()
    if needed > LIMIT:
        raise StorageError(f"they take {needed / 1e9:.1f} GB, at most {LIMIT / 1e9:.1f} GB are kept")
    there = sorted((found.st_mtime, found.st_size, path) for path, found in _sizes(folder))
    total = sum(size for _, size, _ in there)
    for _, size, path in there:
        if total + needed <= LIMIT:
            break
        with suppress(OSError):  # Windows keeps a file that is mapped
            path.unlink()
            total -= size
    free = shutil.disk_usage(folder).free
    if needed > free // 2:
        raise StorageError(f"they take {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free")


def _sizes(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.glob(f"*{_ENDING}"):
        with suppress(OSError):  # another process has just removed it
            yield path, path.stat()
