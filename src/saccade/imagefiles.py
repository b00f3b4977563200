"""Find, identify and open image files.

This module does not import torch, so that checks of files start quickly.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from PIL import Image, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "UnreadableError",
    "checksum",
    "describe_left_out",
    "expand_home",
    "file_id",
    "is_folder",
    "is_hidden",
    "is_image",
    "is_unicode",
    "open_image",
    "raise_unreadable_folder",
    "resolve_inside",
    "visible_names",
    "walk",
]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in lower case; the same as in torchvision's ``ImageFolder``."""

MAX_PIXELS = 89_478_485
"""Maximum number of pixels; larger images are refused before decoding, as possible decompression bombs."""

Image.preinit()  # registers the other readers; the imports above register TIFF and WebP
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""Pillow formats that may be read; JPEG includes MPO.

Others are excluded for safety: the EPS reader, for example, runs Ghostscript.
"""

_SYSTEM_NAMES = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology and QNAP
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
        *("icon\r", "lost+found", "__pycache__"),  # macOS, ext4, Python
    )
)
"""Names, in lower case, of files and folders that operating systems and programs create."""

_RESOURCE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Error numbers of the machine's limits on memory and open files."""


class UnreadableError(Exception):
    """A file cannot be read as an image; the message continues a sentence that begins with the file's name."""


@contextmanager
def open_image(source: Path | bytes) -> Iterator[ImageFile]:
    """Open an image, a path or the content of a file, and read its header; decode its pixels in the ``with`` block.

    Raises:
        UnreadableError: the file is not an image, is broken or has more than ``MAX_PIXELS`` pixels. Errors of the
            ``with`` block, of any type in broken files, are converted too.
        UserError: the machine has no memory or file handles left.
    """
    name = "an image" if isinstance(source, bytes) else brief(source)
    try:
        with _binary_file(source) as file:
            image = _read_header(file, "" if isinstance(source, bytes) else str(source))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableError(f"has {width}×{height} pixels; at most {MAX_PIXELS:,} are allowed")
            yield image
    except UnreadableError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _RESOURCE_ERRNOS:
            reason = getattr(error, "strerror", None) or "out of memory"
            raise UserError(f"cannot read {name}: {reason}, which is not a fault of the file") from error
        raise UnreadableError(f"cannot be read: {brief(getattr(error, 'strerror', None) or error)}") from None


def _binary_file(source: Path | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(source.stat().st_mode):  # opening a named pipe would block
        raise UnreadableError("is not a regular file")
    return source.open("rb")


def _read_header(file: IO[bytes], name: str) -> ImageFile:
    """Return the image in ``file`` like ``Image.open``, but without Pillow's limit on pixels and its warning."""
    prefix = file.read(16)
    if not prefix:
        raise UnreadableError("is an empty file")
    for format_name in _FORMATS:
        reader, accepts = Image.OPEN[format_name]
        if accepts is None or accepts(prefix) is True:  # a string means that this build of Pillow lacks the codec
            file.seek(0)
            try:
                return reader(file, name)
            except SyntaxError:  # raised for files of another format
                continue
    raise UnreadableError(f"is not an image in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")


def expand_home(source: str) -> Path:
    """Return ``source`` as a path with ``~`` expanded.

    Raises:
        UserError: there is no home folder, or the name is not valid UTF-8, which a recipe needs.
    """
    if not is_unicode(source):
        raise UserError(f"the name {brief(source)} is not valid UTF-8, as recipes must be; rename the folder")
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise UserError(f"cannot read {brief(source)}: the home folder at its start is unknown") from None


def resolve_inside(root: Path, text: str, owner: str) -> Path:
    r"""Return the path ``text`` below ``root``; the path need not exist.

    Args:
        root: folder that must contain the path.
        text: relative path, separated by ``/`` or ``\``.
        owner: file that names it, for the message.

    Raises:
        UserError: ``text`` is absolute, contains ``..``, or leads out of ``root`` through a link.
    """
    posix = text.replace("\\", "/")
    if posix.startswith("/") or posix[1:2] == ":":
        problem = "is absolute; a path relative to the data folder is needed"
    elif ".." in posix.split("/"):
        problem = "contains '..', which is not allowed"
    elif "\0" in posix:
        problem = "contains a NUL character"
    elif not os.path.realpath(path := os.path.join(root, posix)).startswith(os.path.realpath(root) + os.sep):
        problem = f"is a link that leads out of {brief(root)}"
    else:
        return Path(path)
    raise UserError(f"{brief(owner)} names {brief(text)!r}, which {problem}")


def checksum(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the CRC-32 of a file; 10 to 100 times faster than decoding the image."""
    length = crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            length += len(block)
            crc = zlib.crc32(block, crc)
    return length, crc


def walk(folder: Path, hidden: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files at any depth below ``folder``, sorted, one by one to save memory.

    Links to folders are followed; each folder is entered once. Hidden files and folders are skipped.

    Args:
        folder: folder to search.
        hidden: counts skipped files and folders by name, if given.

    Raises:
        UserError: a folder cannot be read.
    """
    entered = set()
    pending = [folder]  # an explicit stack, because os.walk in Python 3.11 recurses
    while pending:
        current = pending.pop()
        current_id = file_id(current)
        if current_id in entered:
            continue
        entered.add(current_id)
        folders, names = _list_folder(current)
        yield from (current / name for name in visible_names(sorted(names), hidden))
        pending += (current / name for name in reversed(visible_names(sorted(folders), hidden)))


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders in ``folder``, and of all other entries."""
    folders, others = list[str](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if is_folder(entry) else others).append(entry.name)
    except OSError as error:
        raise_unreadable_folder(error)
    return folders, others


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True if ``entry`` is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def visible_names(names: Iterable[str], hidden: Counter[str] | None = None) -> list[str]:
    """Return ``names`` without hidden names; ``hidden`` counts the hidden ones, macOS ``._*`` files together."""
    visible = []
    for name in names:
        if not is_hidden(name):
            visible.append(name)
        elif hidden is not None:
            hidden["._*" if name.startswith("._") else name] += 1
    return visible


def file_id(path: Path) -> tuple[int, int] | Path:
    """Return (device, inode), shared by all links to a file or folder; ``path`` itself for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Return True if ``name`` begins with a dot or is a name that operating systems or programs create."""
    return name.startswith((".", "__MACOSX")) or name.lower() in _SYSTEM_NAMES


def is_unicode(name: str) -> bool:
    """Return True if ``name`` can be encoded as UTF-8; Python stores undecodable bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_image(path: Path) -> bool:
    """Return True for file names with an image suffix."""
    return path.name.lower().endswith(SUFFIXES)


def raise_unreadable_folder(error: OSError) -> NoReturn:
    """Raise UserError for a folder that cannot be read."""
    raise UserError(f"cannot read {brief(error.filename)}: {error.strerror}") from None


def describe_left_out(counts: Mapping[str, Mapping[str, int]], shown: int = 5) -> str:
    """Return a text such as ``3 bad files left out (train: 2 of cat, 1 of dog)``; "" without bad files.

    Args:
        counts: maps split to class to number of files; the class is "" if files have no class.
        shown: number of classes listed per split, the most frequent first.
    """
    split_texts = []
    for split, classes in counts.items():
        by_size = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
        class_texts = [f"{count} of {brief(name)}" if name else str(count) for name, count in by_size[:shown]]
        if n_others := sum(count for _, count in by_size[shown:]):
            class_texts.append(f"{n_others} of {len(by_size) - shown} other classes")
        if class_texts:
            split_texts.append(f"{split}: {', '.join(class_texts)}")
    total = sum(sum(classes.values()) for classes in counts.values())
    return f"{total} bad file{'s' * (total != 1)} left out ({'; '.join(split_texts)})" if total else ""
