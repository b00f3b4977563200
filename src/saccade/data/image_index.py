"""The images below a folder by the names that tables give them: with a path or not, with an ending or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.imagefiles import inside, is_image, walk

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
        self.files = sorted(path for path in walk(root, self.hidden) if is_image(path))
        self._inner = {path: path.relative_to(root).as_posix() for path in self.files}
        self._named = defaultdict[str, list[Path]](list)
        for path in self.files:
            self._named[path.name].append(path)
            self._named[path.stem].append(path)

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
            inside(self.root, text, owner)
        plain = plain.removeprefix(f"{self.root.name}/") if not (self.root / self.root.name).is_dir() else plain
        for place in (near, near / "images", self.root, self.root / "images"):
            if (path := place / plain) in self._inner:
                return path
        found = [path for path in self._named.get(plain.rpartition("/")[2], ()) if self._ends(path, plain)]
        if not found:
            raise NotFoundError
        if len(found) == 1:
            return found[0]
        beside = [path for path in found if near != self.root and path.is_relative_to(near)]
        if len(beside) == 1:
            return beside[0]
        both = " and ".join(brief(self._inner[path]) for path in found[:2])
        more = f" and {len(found) - 2} others" if found[2:] else ""
        raise AmbiguousError(f"names {brief(text)!r}, which is {both}{more}; write the whole path with its ending")

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

    def _ends(self, path: Path, plain: str) -> bool:
        inner = self._inner[path]
        whole = inner if is_image(Path(plain)) and plain.endswith(path.name) else inner.rpartition(".")[0]
        return whole == plain or whole.endswith(f"/{plain}")


def _plain(text: str) -> str:
    """``text`` with / between folders and without ``./`` at its start."""
    return text.replace("\\", "/").removeprefix("./")
