"""The images below a folder by the names that tables give them: with a path or not, with an ending or not."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.imagefiles import is_image, resolve_inside, walk

__all__ = ["AmbiguousError", "ImageIndex", "NotFoundError"]


class NotFoundError(Exception):
    """No image has the name; the rest of a sentence that begins with the image's path."""


class AmbiguousError(Exception):
    """Several images have the name; the rest of a sentence that begins with where it stands."""


class ImageIndex:
    """The images below a folder, found by name.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.hidden = root, Counter[str]()
        self.files = sorted(filter(is_image, walk(root, self.hidden)), key=lambda path: path.parts)
        self._begin = len(str(root / "x")) - 1
        self._inner = {self._within(path): path for path in self.files}
        self._named = defaultdict[str, list[str]](list)
        for inner in self._inner:
            name = inner.rpartition("/")[2]
            self._named[name].append(inner)
            self._named[name.rpartition(".")[0]].append(inner)
        self._own = "" if (root / root.name).is_dir() else f"{root.name}/"

    def find(self, text: str, near: Path, owner: str) -> Path:
        """The image called ``text``: a name or a path, with its ending or without.

        Args:
            text: what the table says.
            near: the folder of the table; of several images the one that lies there is meant, then the one below its
                ``images``, then the one below the root.
            owner: what names the image, for messages.

        Raises:
            UserError: ``text`` is a path out of the root.
            AmbiguousError: several images have the name.
            NotFoundError: none has it.
        """
        plain = _plain(text)
        if plain.startswith("/") or plain[1:2] == ":" or ".." in plain.split("/") or "\0" in plain:
            resolve_inside(self.root, text, owner)
        plain = plain.removeprefix(self._own)
        within = f"{folder}/" if (folder := self._within(near)) else ""
        for place in (within, f"{within}images/", "", "images/"):
            if (path := self._inner.get(f"{place}{plain}")) is not None:
                return path
        found = [inner for inner in self._named.get(plain.rpartition("/")[2], ()) if _ends(inner, plain)]
        if not found:
            raise NotFoundError
        beside = [inner for inner in found if within and inner.startswith(within)]
        if len(found) > 1 and len(beside) != 1:
            both = " and ".join(map(brief, found[:2])) + (f" and {len(found) - 2} others" if found[2:] else "")
            raise AmbiguousError(f"names {brief(text)!r}, which is {both}; write the whole path with its ending")
        return self._inner[(beside or found)[0]]

    def _within(self, path: Path) -> str:
        """``path`` from the root, by text: a tenth of the time of ``relative_to``."""
        return str(path)[self._begin :].replace(os.sep, "/")

    def holds(self, text: str, near: Path) -> bool:
        """Whether an image has the name."""
        try:
            self.find(text, near, "")
        except AmbiguousError:
            return True
        except (NotFoundError, UserError):
            return False
        return True

    def nearest(self, text: str) -> str:
        """A sentence with the image whose name is nearest; empty where none is near."""
        name = _plain(text).rpartition("/")[2]
        same = [path.name for path in self.files if path.stem.lower() == Path(name).stem.lower()]
        return f" Did you mean {brief(same[0])!r}?" if same else did_you_mean(name, (path.name for path in self.files))


def _ends(inner: str, plain: str) -> bool:
    """Whether a path ends with what a table says, folders included, its ending or not."""
    whole = inner if plain.endswith(inner.rpartition("/")[2]) else inner.rpartition(".")[0]
    return f"/{whole}".endswith(f"/{plain}")


def _plain(text: str) -> str:
    """``text`` with / between folders and without ``./`` at its start."""
    return text.replace("\\", "/").removeprefix("./")
