"""Index of the images below a folder by the names that tables use, with or without folders and extension."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.imagefiles import is_image, resolve_inside, walk

__all__ = ["AmbiguousError", "ImageIndex", "NotFoundError"]


class NotFoundError(Exception):
    """Error raised if no image has the name looked up."""


class AmbiguousError(Exception):
    """Error raised if several images have the name looked up; the message is a predicate of the table row."""


class ImageIndex:
    """Index of the images below a folder.

    Args:
        root: the folder.

    Attributes:
        files: all images, sorted.
        hidden: Maps the name of a hidden file or folder to the number skipped.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.hidden = root, Counter[str]()
        self.files = sorted(filter(is_image, walk(root, self.hidden)), key=lambda path: path.parts)
        self._prefix_length = len(str(root / "x")) - 1
        self._by_relative_path = {self._relative(path): path for path in self.files}
        self._relative_paths_by_name = defaultdict[str, list[str]](list)
        for relative_path in self._by_relative_path:
            name = relative_path.rpartition("/")[2]
            self._relative_paths_by_name[name].append(relative_path)
            self._relative_paths_by_name[name.rpartition(".")[0]].append(relative_path)
        self._root_prefix = "" if (root / root.name).is_dir() else f"{root.name}/"

    def find(self, text: str, folder: Path, where: str) -> Path:
        """Return the image called ``text``.

        Args:
            text: name or path in a table, with or without extension.
            folder: folder of the table, searched first; then its subfolder ``images``, the root, the root's ``images``.
            where: place of the name, for messages.

        Raises:
            UserError: ``text`` is a path outside the root.
            AmbiguousError: several images have the name.
            NotFoundError: no image has the name.
        """
        name = _with_slashes(text)
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") or "\0" in name:
            resolve_inside(self.root, text, where)
        name = name.removeprefix(self._root_prefix)
        prefix = f"{relative_folder}/" if (relative_folder := self._relative(folder)) else ""
        for start_folder in (prefix, f"{prefix}images/", "", "images/"):
            if (path := self._by_relative_path.get(f"{start_folder}{name}")) is not None:
                return path
        candidates = self._relative_paths_by_name.get(name.rpartition("/")[2], ())
        matches = [path for path in candidates if _ends_with(path, name)]
        if not matches:
            raise NotFoundError
        in_folder = [path for path in matches if prefix and path.startswith(prefix)]
        if len(matches) > 1 and len(in_folder) != 1:
            examples = " and ".join(map(brief, matches[:2])) + (
                f" and {len(matches) - 2} others" if matches[2:] else ""
            )
            raise AmbiguousError(
                f"names {brief(text)!r}, which matches {examples}; write the full path with its extension"
            )
        return self._by_relative_path[(in_folder or matches)[0]]

    def _relative(self, path: Path) -> str:
        """Return ``path`` relative to the root, by slicing: ten times faster than ``relative_to``."""
        return str(path)[self._prefix_length :].replace(os.sep, "/")

    def has_image(self, text: str, folder: Path) -> bool:
        """Return True if an image, or several, are called ``text``; see :meth:`find`."""
        try:
            self.find(text, folder, "")
        except AmbiguousError:
            return True
        except (NotFoundError, UserError):
            return False
        return True

    def suggestion(self, text: str) -> str:
        """Return a sentence that suggests a similar image name, or ""."""
        name = _with_slashes(text).rpartition("/")[2]
        same_stem = [path.name for path in self.files if path.stem.lower() == Path(name).stem.lower()]
        if same_stem:
            return f" Did you mean {brief(same_stem[0])!r}?"
        return did_you_mean(name, (path.name for path in self.files))


def _ends_with(path: str, name: str) -> bool:
    """Return True if ``path`` ends with the folders and file of ``name``, with or without the extension."""
    has_extension = name.endswith(path.rpartition("/")[2])
    return f"/{path if has_extension else path.rpartition('.')[0]}".endswith(f"/{name}")


def _with_slashes(text: str) -> str:
    """Return ``text`` with / between folders and without a leading ``./``."""
    return text.replace("\\", "/").removeprefix("./")
