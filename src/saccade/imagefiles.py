"""Image files before anyone asks for their pixels: which lie below a folder, which is which, which may be opened.

Light: what looks at files only, as ``saccade compare`` does before it plans, need not wait for torch.
"""

from __future__ import annotations

import errno
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
    "ENDINGS",
    "LARGEST",
    "UnreadableError",
    "checksum",
    "closed",
    "identity",
    "inside",
    "is_folder",
    "is_hidden",
    "is_image",
    "is_unicode",
    "left_out",
    "located",
    "opened",
    "visible",
    "walk",
]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, small or capital: those of torchvision's ``ImageFolder``."""

LARGEST = 89_478_485
"""Pixels; a file that states more is refused unread, for a few of its bytes can unfold to any amount of memory."""

Image.preinit()  # with the two plugins imported above, all readers below are known to Pillow
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""What files of these endings hold (JPEG with it the MPO of telephones), and no other reader of Pillow's gets to see:
that of EPS hands the file to Ghostscript."""

_OF_SYSTEMS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology and QNAP
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
        *("icon\r", "lost+found", "__pycache__"),  # macOS, ext4, Python
    )
)
"""Names, in small letters, of what a system or a program leaves among a user's files."""

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnreadableError(Exception):
    """No image can be had from a file; the rest of a sentence that begins with its name."""


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The image in ``path`` with its head read; within the ``with``, its pixels can be.

    Nothing is warned of: Pillow's own opening warns of, or stops at, what is refused here by number of pixels.

    Raises:
        UnreadableError: it is no image, is broken, or is larger than ``LARGEST``; also for whatever the body raises,
            because a broken file leads Pillow's readers into errors of any kind.
        UserError: this machine has no memory or no file handles left, which says nothing of the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would be waited for
            raise UnreadableError("is no regular file")
        with path.open("rb") as file:
            image = _head(file, str(path))
            width, height = image.size
            if width * height > LARGEST:
                raise UnreadableError(f"states {width}×{height} pixels; at most {LARGEST:,} are read")
            yield image
    except UnreadableError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THE_MACHINE:
            why = getattr(error, "strerror", None) or "out of memory"
            raise UserError(f"cannot read {brief(path)}: {why}, which is no fault of the file") from error
        raise UnreadableError(f"cannot be read: {brief(getattr(error, 'strerror', None) or error)}") from None


def _head(file: IO[bytes], name: str) -> ImageFile:
    """As ``Image.open``, but that any number of pixels may be stated, without a warning."""
    prefix = file.read(16)
    if not prefix:
        raise UnreadableError("is an empty file")
    for kind in _FORMATS:
        reader, accepts = Image.OPEN[kind]
        if accepts is None or accepts(prefix) is True:  # a text would say why this build of Pillow cannot
            file.seek(0)
            try:
                return reader(file, name)
            except SyntaxError:  # how a reader says that the file is not its own
                continue
    raise UnreadableError(f"is no image in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")


def located(source: str) -> Path:
    """The path that ``source`` names, a home folder (``~``) written out.

    Raises:
        UserError: there is no such home folder, or the name is not UTF-8 and so stands in no recipe.
    """
    if not is_unicode(source):
        raise UserError(f"the name {brief(source)} is not UTF-8, which a recipe is written in; rename the folder")
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise UserError(f"cannot read {brief(source)}: the home folder it begins with is unknown") from None


def inside(root: Path, text: str, owner: str) -> Path:
    r"""The path that a file names by ``text``, below ``root``; the file it names need not exist.

    Args:
        root: the folder that no path leaves.
        text: a relative path; ``\`` separates like ``/``.
        owner: what names it, for the message.

    Raises:
        UserError: ``text`` is absolute, goes up by ``..``, or leads out of ``root`` by a link.
    """
    plain = text.replace("\\", "/")
    if plain.startswith("/") or plain[1:2] == ":":
        wrong = "is absolute; paths from the data folder are read"
    elif ".." in plain.split("/"):
        wrong = "leaves its folder by '..'"
    elif "\0" in plain:
        wrong = "holds NUL"
    elif not os.path.realpath(path := os.path.join(root, plain)).startswith(os.path.realpath(root) + os.sep):
        wrong = f"is a link out of {brief(root)}"
    else:
        return Path(path)
    raise UserError(f"{brief(owner)} names {brief(text)!r}, which {wrong}")


def checksum(path: Path) -> tuple[int, int]:
    """Number and CRC-32 of the bytes of ``path``; takes a hundredth to a tenth of what it takes to decode them."""
    length = value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            length += len(block)
            value = zlib.crc32(block, value)
    return length, value


def walk(folder: Path, hidden: Counter[str] | None = None) -> Iterator[Path]:
    """Files at any depth below ``folder``, in order, found one by one: a set of images can be large.

    Links to folders are followed, and each folder is entered once, however many links lead to it. What is hidden, file
    or folder, is passed over.

    Args:
        folder: where to begin.
        hidden: counts what is passed over, by name.

    Raises:
        UserError: a folder cannot be read.
    """
    entered = set()
    ahead = [folder]  # a list, since os.walk of Python 3.11 calls itself for each level
    while ahead:
        where = ahead.pop()
        here = identity(where)
        if here in entered:
            continue
        entered.add(here)
        folders, names = _entries(where)
        yield from (where / name for name in visible(sorted(names), hidden))
        ahead += (where / name for name in reversed(visible(sorted(folders), hidden)))


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders, and of all else, that lie in ``folder``."""
    folders, others = list[str](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if is_folder(entry) else others).append(entry.name)
    except OSError as error:
        closed(error)
    return folders, others


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def visible(names: Iterable[str], hidden: Counter[str] | None = None) -> list[str]:
    """The names that are not hidden, in their order; ``hidden`` counts the others, resource forks under one name."""
    kept = []
    for name in names:
        if not is_hidden(name):
            kept.append(name)
        elif hidden is not None:
            hidden["._*" if name.startswith("._") else name] += 1
    return kept


def identity(path: Path) -> tuple[int, int] | Path:
    """The same for all names of one file or folder, by symbolic or hard links; a link to nowhere is its own."""
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is there for a system or a program, not for its user."""
    return name.startswith((".", "__MACOSX")) or name.lower() in _OF_SYSTEMS


def is_unicode(name: str) -> bool:
    """Whether ``name`` can be written as UTF-8: Python keeps bytes that cannot be read so as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_image(path: Path) -> bool:
    """Whether ``path`` ends like an image."""
    return path.name.lower().endswith(ENDINGS)


def closed(error: OSError) -> NoReturn:
    """Refuse a folder that cannot be read.

    Raises:
        UserError: always.
    """
    raise UserError(f"cannot read {brief(error.filename)}: {error.strerror}") from None


def left_out(counts: Mapping[str, Mapping[str, int]], shown: int = 5) -> str:
    """``3 bad files left out (train: 2 of cat, 1 of dog)``, the classes with most of them first; "" for none.

    Args:
        counts: part -> class -> files; the name of a class is empty where files have no class.
        shown: so many classes of a part are named.
    """
    parts = []
    for part, classes in counts.items():
        by_size = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
        words = [f"{count} of {brief(name)}" if name else str(count) for name, count in by_size[:shown]]
        if rest := sum(count for _, count in by_size[shown:]):
            words.append(f"{rest} of {len(by_size) - shown} other classes")
        if words:
            parts.append(f"{part}: {', '.join(words)}")
    total = sum(sum(classes.values()) for classes in counts.values())
    return f"{total} bad file{'s' * (total != 1)} left out ({'; '.join(parts)})" if total else ""
