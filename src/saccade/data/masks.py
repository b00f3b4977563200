"""Mask files, of indices, black and white or colours: checked against their images, read with their geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.tv_tensors import Mask

from saccade.data.colour_maps import ClassMap
from saccade.data.labels import Labels
from saccade.data.mask_pixels import indices
from saccade.data.opening import each
from saccade.data.resizing import Frame
from saccade.data.samples import CACHE, VOID, Target, Targets
from saccade.data.sheet import Cell
from saccade.data.survey import Part
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import UnreadableError, checksum, open_image

__all__ = ["MaskFiles", "Masks"]

_BINARY = ("background", "foreground")
"""The classes of masks that hold 0 and 255 alone."""
_VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
"""Pixels of a class of such a name, in any letters, become ``VOID``."""


class _Contents(NamedTuple):
    """What a mask file holds: upright size (width, height), its values, number and CRC-32 of its bytes, its fault."""

    size: tuple[int, int]
    values: frozenset[int]
    content: tuple[int, int]
    problem: str


class Masks(Labels):
    """The masks of images.

    Args:
        masks: image to mask.
        sizes: width and height of the images asked about.
        named: the classes; empty where nothing names them.
        root: the folder that files are named from.
        notify: receives events of progress.
        void: names of classes whose pixels become ``VOID``, separated by commas; False for none, None for those that
            are called void, ignore or unlabelled.

    Raises:
        UserError: there are more names than masks can hold, or no class is called ``void``.
    """

    def __init__(
        self,
        masks: Mapping[Path, Path],
        sizes: Mapping[Path, tuple[int, int]],
        named: ClassMap,
        root: Path,
        notify: Notify | None,
        void: Any = None,
    ) -> None:
        names = named.names
        if len(names) > VOID:
            raise UserError(f"there are {len(names)} names of classes; masks of 8 bits hold {VOID} and void")
        self._masks, self._named, self._root = masks, named, root
        self.problems = {path: "has no mask of its name" for path in sizes if path not in masks}
        deciding = masks if len(names) in (0, 2) else sizes  # all, where they decide the classes or what 255 is
        paired = [path for path in deciding if path in masks]
        files = [masks[path] for path in paired]
        self._contents = dict(zip(paired, each(lambda path: _read_mask(path, named), files, notify), strict=True))
        whole = [found for found in self._contents.values() if not found.problem]
        values = frozenset[int]().union(*(found.values for found in whole))
        known = list(names) or [str(index) for index in range(max(values - {VOID}, default=0) + 1)]
        self._codes = np.full(256, VOID, np.uint8)
        if VOID in values and values <= {0, VOID} and len(names) in (0, 2):
            self.classes = list(names) or list(_BINARY)
            self._codes[[0, VOID]] = 0, 1
        else:
            left_out = _void(void, known)
            self.classes = [name for name in known if name not in left_out]
            self._codes[[index for index, name in enumerate(known) if name not in left_out]] = range(len(self.classes))
        for path, size in sizes.items():
            found = self._contents.get(path)
            if found and (problem := found.problem or _misfit(found, size, len(known))):
                self.problems[path] = f"has the mask {brief(masks[path].relative_to(root))}, which {problem}"
        self.notes = [] if len(self.classes) > 1 else ["the masks hold one class alone"]
        unused = sorted(set(range(len(known))) - values)
        if not names and len(unused) > len(values):
            self.notes.append(
                f"{len(unused)} of the classes 0 to {len(known) - 1} are in no mask: grey levels, such as 128, are "
                "read as class indices; write 0, 1, 2, …"
            )

    def targets(self, files: Sequence[Path], frame: Frame) -> Targets:
        """The masks of ``files``, kept in memory where they fit."""
        found = MaskFiles([self._masks[path] for path in files], frame, self._codes, self._named)
        return [found[i] for i in range(len(found))] if len(files) * frame.height * frame.width <= CACHE else found

    def fact(self, path: Path) -> Any:
        """Name and checksum of its mask, and the class of each value that is not its own class."""
        found = self._contents[path]
        if self._named.colours:
            colours = dict(enumerate(self._named.colours))
            moved = [[colours.get(value, value), int(self._codes[value])] for value in sorted(found.values)]
        else:
            moved = [[value, code] for value in sorted(found.values) if (code := int(self._codes[value])) != value]
        return [self._masks[path].relative_to(self._root).as_posix(), found.content[1], *[moved] * bool(moved)]

    def counts(self, part: Part, good: Container[Path]) -> dict[str, int]:
        """Class -> how many of the ``good`` images have a pixel of it."""
        shown = Counter(
            code
            for path in part.files
            if path in good and path not in self.problems
            for code in {int(self._codes[value]) for value in self._contents[path].values}
        )
        return {name: shown[code] for code, name in enumerate(self.classes)}

    def cell(self, picture: Tensor, target: Target) -> Cell:
        """The picture with its classes tinted and named, the first of them left as it is."""
        tinted = [code for code in target.unique().tolist() if code not in (0, VOID)]
        layers = np.stack([target.numpy() == code for code in tinted]) if tinted else None
        caption = brief(", ".join(self.classes[code] for code in tinted))
        return Cell(picture, caption, (), layers, [code - 1 for code in tinted])


class MaskFiles:
    """Masks read from their files each time they are asked for.

    Args:
        paths: the files.
        frame: what is seen of them.
        codes: uint8 (256,), the class of each index in the files.
        named: the indices of colours.
    """

    def __init__(self, paths: Sequence[Path], frame: Frame, codes: NDArray[np.uint8], named: ClassMap) -> None:
        self.paths, self.frame, self.codes, self.named = paths, frame, codes, named

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Mask:
        """Mask ``i``, uint8 (H, W).

        Raises:
            UserError: the file has become unreadable.
        """
        path = self.paths[i]
        try:
            with open_image(path) as image:
                coded = Image.fromarray(self.codes[indices(image, self.named)])
            return Mask(torch.from_numpy(np.array(self.frame.mask(coded))))
        except UnreadableError as problem:
            raise UserError(f"{brief(path)} {problem}") from None


def _void(void: Any, known: Sequence[str]) -> set[str]:
    """The names of classes that are void."""
    if void is False:
        return set()
    if void is None:
        return {name for name in known if name.lower() in _VOID_NAMES}
    names = {name.strip() for name in str(void).split(",")}
    for name in sorted(names - set(known)):
        raise UserError(
            f"data.options.void: there is no class {brief(name)!r}.{did_you_mean(name, known)} There are "
            f"{', '.join(map(brief, known))}; false makes none void"
        )
    return names


def _read_mask(path: Path, named: ClassMap) -> _Contents:
    nothing = ((0, 0), frozenset[int](), (0, 0))
    try:
        with open_image(path) as image:
            found = indices(image, named)
            values = frozenset(np.flatnonzero(np.bincount(found.ravel(), minlength=256)).tolist())
            return _Contents((found.shape[1], found.shape[0]), values, checksum(path), "")
    except UnreadableError as problem:
        return _Contents(*nothing, str(problem))


def _misfit(found: _Contents, size: tuple[int, int], classes: int) -> str:
    """Why a mask does not belong to an image of ``size`` or to so many classes."""
    if found.size != size:
        return f"is {found.size[0]}×{found.size[1]} pixels; its image is {size[0]}×{size[1]}"
    beyond = max(found.values - {VOID}, default=0)
    return f"has the value {beyond}; {classes} classes are 0 to {classes - 1}" if beyond >= classes else ""
