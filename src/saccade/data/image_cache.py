"""On-disk cache of decoded images, memory-mapped by every process that uses them.

There is one cache file per list of image files and :class:`Frame`: raw pixels, a JSON table of the files' sizes and
checksums, and a trailer. Checksums are verified on every read; a corrupt file is written again. Image files count as
unchanged while path, size, mtime and ctime are the same.

The environment variable ``SACCADE_CACHE`` sets another folder; ``off`` disables the cache. Above ``MAX_CACHE_BYTES``,
or half of the free space if less, the least recently used files are removed.
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
from PIL import __version__ as pillow_version
from PIL import features
from torch import Tensor

from saccade.data.resizing import Frame
from saccade.errors import UserError
from saccade.files import atomic_writer, lock, make_folders

__all__ = ["CacheError", "CachedImages", "FileInfo", "cache_folder", "cache_path", "read_cache", "write_cache"]

MAX_CACHE_BYTES = 20 * 2**30
_SUFFIX = ".pictures"  # caches
_TRAILER = struct.Struct("<8sQI")
"""Trailer: magic, length of the table in bytes, CRC-32 of the table."""
_MAGIC = b"saccade1"
_LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that decodes the same images."""
_STALE_AFTER = 24 * 3600.0
"""Age in seconds at which a temporary file counts as left by a killed process."""

FileInfo = tuple[int, int, int, int] | str
"""Width, height, byte count and CRC-32 of an image file, or an error message if it cannot be read."""


class CacheError(Exception):
    """Error raised if images cannot be cached."""


@dataclass(frozen=True)
class CachedImages:
    """Images read from a cache file.

    Attributes:
        images: images of the readable files, uint8 (N, 3, H, W), memory-mapped copy-on-write.
        files: information on every file.
    """

    images: Tensor
    files: list[FileInfo]


def cache_folder() -> Path | None:
    """Return the folder of the cache files; None if ``SACCADE_CACHE`` is ``off`` or there is no home folder."""
    setting = os.environ.get("SACCADE_CACHE")
    if setting is not None:
        is_off = setting.strip().lower() in ("", "0", "off", "none")
        return None if is_off else Path(setting).expanduser().absolute()
    with suppress(RuntimeError):  # no home folder
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "saccade" if base.is_absolute() else None
    return None


def cache_path(paths: Sequence[Path], frame: Frame, full_resolution: bool) -> Path | None:
    """Return the path of the cache file for the images ``paths`` in ``frame``.

    ``full_resolution`` is as in ``read_image``. Return None if there is no cache folder, no path, or a missing file.
    """
    folder = cache_folder()
    if folder is None or not paths:
        return None
    hasher = hashlib.sha256()
    codecs = [pillow_version, *(features.version(name) for name in ("jpg", "zlib", "webp", "libtiff"))]
    hasher.update(json.dumps([_MAGIC.decode(), codecs, asdict(frame), full_resolution], default=str).encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return None
        state = [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        hasher.update(json.dumps(state).encode() + b"\n")
    return folder / f"{hasher.hexdigest()[:40]}{_SUFFIX}"


def read_cache(path: Path, count: int, frame: Frame) -> CachedImages | None:
    """Return the images of ``count`` files cached at ``path``; None if the cache file is missing or corrupt."""
    try:
        with path.open("rb") as file:
            end = file.seek(-_TRAILER.size, os.SEEK_END)
            magic, length, checksum = _TRAILER.unpack(file.read(_TRAILER.size))
            if magic != _MAGIC or length > end:
                return None
            file.seek(end - length)
            table = file.read(length)
        if zlib.crc32(table) != checksum:
            return None
        values = json.loads(table)
        infos = [_parse_info(value) for value in values["files"]]
        shape = sum(not isinstance(value, str) for value in infos), 3, frame.height, frame.width
        if values["name"] != path.name or len(infos) != count or int(np.prod(shape)) != end - length:
            return None
        images = _memory_map(path, end - length).view(shape)
        if zlib.crc32(images.numpy().reshape(-1).data) != values["pixels"]:
            return None
        with suppress(OSError):  # the folder may be read-only
            os.utime(path)  # marks it as the most recently used
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, struct.error):
        return None
    return CachedImages(images, infos)


def write_cache(
    path: Path, results: Iterable[tuple[NDArray[np.uint8] | None, FileInfo]], count: int, frame: Frame
) -> CachedImages:
    """Write ``count`` results to the cache file ``path`` and read it; wait while another process writes it.

    A result is the pixels, uint8 (3, H, W), or None for a broken image, and the information on its file.

    Raises:
        CacheError: the folder is not writable, the images are too large, or the other process takes too long.
    """
    needed_bytes = count * 3 * frame.height * frame.width
    try:
        if not path.parent.exists():
            make_folders(path.parent)
            path.parent.chmod(0o700)  # the images are private to the user
        with lock(path.with_suffix(".lock"), _LOCK_TIMEOUT):
            images = read_cache(path, count, frame)
            if images is None:
                _make_room(path.parent, needed_bytes)
                _write(path, results)
                images = read_cache(path, count, frame)
    except UserError:  # raised by lock() after the timeout
        raise CacheError("another process is still decoding the images") from None
    except OSError as error:
        raise CacheError(f"{path.parent} cannot be written: {error.strerror}") from None
    if images is None:
        raise CacheError(f"{path} could not be read back")
    return images


def _parse_info(value: Any) -> FileInfo:
    """Parse a row of the table; raise ValueError or TypeError if malformed."""
    if isinstance(value, str):
        return value
    width, height, length, checksum = map(int, value)
    return width, height, length, checksum


def _write(path: Path, results: Iterable[tuple[NDArray[np.uint8] | None, FileInfo]]) -> None:
    infos, checksum = list[FileInfo](), 0
    with atomic_writer(path) as file:
        for pixels, info in results:
            if pixels is not None:
                checksum = zlib.crc32(pixels.data, checksum)
                file.write(pixels.data)
            infos.append(info)
        table = json.dumps({"name": path.name, "pixels": checksum, "files": infos}).encode()
        file.write(table)
        file.write(_TRAILER.pack(_MAGIC, len(table), zlib.crc32(table)))


def _memory_map(path: Path, length: int) -> Tensor:
    """Return the first ``length`` bytes of a file as uint8 (length,), mapped copy-on-write."""
    if length == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8)


def _make_room(folder: Path, needed_bytes: int) -> None:
    """Remove the least recently used cache files until ``needed_bytes`` fit, or raise CacheError."""
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):
            if leftover.stat().st_mtime < time.time() - _STALE_AFTER:
                leftover.unlink()
    if needed_bytes > MAX_CACHE_BYTES:
        raise CacheError(
            f"they take {needed_bytes / 1e9:.1f} GB; the cache holds at most {MAX_CACHE_BYTES / 1e9:.1f} GB"
        )
    cache_files = sorted((status.st_mtime, status.st_size, path) for path, status in _cache_files(folder))
    total = sum(size for _, size, _ in cache_files)
    for _, size, path in cache_files:
        if total + needed_bytes <= MAX_CACHE_BYTES:
            break
        with suppress(OSError):  # Windows cannot remove a mapped file
            path.unlink()
            total -= size
    free = shutil.disk_usage(folder).free
    if needed_bytes > free // 2:
        raise CacheError(f"they take {needed_bytes / 1e9:.1f} GB; {folder} has {free / 1e9:.1f} GB free")


def _cache_files(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):  # another process may just have removed it
            yield path, path.stat()
