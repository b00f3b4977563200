"""Mask files with class indices, two values or colours, checked against their images and resized with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.tv_tensors import Mask

from saccade.data.colour_maps import ClassMap, Colour
from saccade.data.labels import TargetSource
from saccade.data.mask_pixels import class_indices, exif_orientation, used_palette
from saccade.data.opening import map_files
from saccade.data.resizing import Frame
from saccade.data.samples import MEMORY_LIMIT, VOID, Target, Targets
from saccade.data.sheet import Cell
from saccade.data.survey import SplitFiles
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.events import Notify
from saccade.imagefiles import UnreadableError, checksum, open_image

__all__ = ["LazyMasks", "Masks"]

_BINARY_CLASSES = ("background", "foreground")
"""Classes of masks that hold only 0 and 255."""
_VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
"""Lower-case names of classes whose pixels become ``VOID``."""

_GREY_LEVEL_RATIO = 10
"""Unused indices per used one from which values are grey levels."""


class _MaskInfo(NamedTuple):
    """Contents of a mask file."""

    size: tuple[int, int]  # upright (width, height)
    values: frozenset[int]
    content: tuple[int, int]  # (byte count, CRC-32)
    problem: str  # error message, or ""
    is_one_bit: bool = False
    palette: tuple[tuple[int, Colour], ...] = ()  # colour of each palette index used
    orientations: tuple[int, int] = (1, 1)  # EXIF orientation of image and mask, 1 = none


class Masks(TargetSource):
    """Target source of the mask files of images.

    Args:
        masks: Maps image to mask file.
        sizes: Maps each image in use to its (width, height).
        class_map: names and colours of the classes; empty if no file lists them.
        root: folder that paths in messages are relative to.
        notify: receives progress events.
        options: ``data.options``. ``void``: names of the classes that become ``VOID``, separated by commas, or 255;
            False: none; default: names such as void. ``palette``: False ignores palette colours. ``upright_masks``:
            True if masks fit the upright image. ``threshold``: grey level above which a pixel is foreground.

    Raises:
        UserError: there are more than 255 class names, ``void`` names an unknown class, the values are grey levels, 255
            may be a class or no class, palettes differ, or ``threshold`` is not possible or leaves one class.
    """

    def __init__(
        self,
        masks: Mapping[Path, Path],
        sizes: Mapping[Path, tuple[int, int]],
        class_map: ClassMap,
        root: Path,
        notify: Notify | None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        listed_names, void = class_map.names, options.get("void")
        if len(listed_names) > VOID:
            raise UserError(
                f"there are {len(listed_names)} class names; 8-bit masks have room for {VOID} classes besides void"
            )
        self._masks, self._class_map, self._root = masks, class_map, root
        self.problems = {path: "has no mask of the same name (without suffix)" for path in sizes if path not in masks}
        # The values of all masks determine unlisted classes, and whether 255 is void or the class foreground.
        images_to_scan = masks if len(listed_names) in (0, 2) else sizes
        images = [path for path in images_to_scan if path in masks]
        self._infos = self._read_infos(images, notify)
        values = self._values()
        names = list(listed_names) or [str(index) for index in range(max(values - {VOID}, default=0) + 1)]
        self._class_of_value = np.full(256, VOID, np.uint8)
        is_255_void = str(VOID) in _names_in(void)
        is_binary = VOID in values and values <= {0, VOID} and len(listed_names) in (0, 2) and not is_255_void
        threshold = _read_threshold(options, class_map)
        if threshold is not None:
            self._check_grey_levels(threshold, values)
            self.classes = list(listed_names or _BINARY_CLASSES)
            self._class_of_value[:] = np.arange(256) > threshold
        elif is_binary:
            self.classes = list(listed_names) or list(_BINARY_CLASSES)
            self._class_of_value[[0, VOID]] = 0, 1
        else:
            if VOID in values and not is_255_void:
                self._refuse_unclear_255(notify)
            for path, info in self._infos.items():
                if path in sizes and info.is_one_bit:
                    self.problems[path] = (
                        f"has the mask {brief(masks[path].relative_to(root))}, which is black and white, where other "
                        "masks hold class indices; write its class indices"
                    )
            void_names = _resolve_void(void, names)
            self.classes = [name for name in names if name not in void_names]
            class_values = [value for value, name in enumerate(names) if name not in void_names]
            self._class_of_value[class_values] = range(len(self.classes))
        n_values = len(names) if threshold is None else 256
        for path in [path for path in sizes if path not in self.problems]:
            if problem := self._infos[path].problem or _mismatch(self._infos[path], sizes[path], n_values):
                self.problems[path] = f"has the mask {brief(masks[path].relative_to(root))}, which {problem}"
            elif options.get("upright_masks") is not True and (problem := _orientation_problem(self._infos[path])):
                self.problems[path] = f"has the mask {brief(masks[path].relative_to(root))}, and {problem}"
        if not class_map.colours and options.get("palette") is not False:
            self._refuse_different_palettes()
        self.notes = ["the masks hold only one class"] if values and len(self.classes) < 2 else []
        unused = sorted(set(range(len(names))) - values) if values - {VOID} and threshold is None else []
        if listed_names and unused[:1] == [0] and not class_map.colours and not is_binary:
            self.notes.append(
                f"no mask has the value 0, the class {brief(names[0])!r}; if masks count from 1, name a class before it"
            )
        if not listed_names and len(unused) > _GREY_LEVEL_RATIO * len(values | {0}):
            raise UserError(f"{brief(root)}: {_describe_grey_levels(sorted(values - {VOID}), len(unused))}")
        if not listed_names and len(unused) > len(values):
            self.notes.append(
                f"{len(unused)} of the classes 0 to {len(names) - 1} are in no mask: grey levels, such as 128, are "
                "read as class indices; write 0, 1, 2, …"
            )

    def _read_infos(self, images: Sequence[Path], notify: Notify | None) -> dict[Path, _MaskInfo]:
        infos = map_files(lambda path: _read_info(path, self._masks[path], self._class_map), images, notify)
        return dict(zip(images, infos, strict=True))

    def _values(self) -> frozenset[int]:
        """Return the values in all masks that can be read."""
        return frozenset[int]().union(*(info.values for info in self._infos.values() if not info.problem))

    def _refuse_unclear_255(self, notify: Notify | None) -> None:
        """Raise UserError if more masks hold 0 and 255 alone than 255 beside other values."""

        def masks_with_255(infos: Mapping[Path, _MaskInfo]) -> tuple[list[Path], list[Path]]:
            paths = [path for path, info in infos.items() if VOID in info.values and not info.is_one_bit]
            return (
                [path for path in paths if infos[path].values == {0, VOID}],
                [path for path in paths if infos[path].values - {0, VOID}],
            )

        alone, beside = masks_with_255(self._infos)
        if len(alone) > len(beside):  # of few masks; all of them decide
            others = [path for path in self._masks if path not in self._infos]
            alone, beside = masks_with_255(self._infos | self._read_infos(others, notify))
        if len(alone) <= len(beside):
            return
        first, *more = (brief(self._masks[path].relative_to(self._root)) for path in alone)
        names = self._class_map.names
        listed = f"there are {len(names)} class names ({brief(', '.join(names))})"
        other = next((path for path, info in self._infos.items() if info.values - {0, VOID}), None)
        reason = listed if other is None else f"{brief(self._masks[other].relative_to(self._root))} holds other values"
        raise UserError(
            f"{first}{f' and {len(more)} other masks' * bool(more)} hold 0 and 255 alone, as masks of background and "
            f"foreground do, but {reason}, so that 255 would be no class. Write the foreground as 1, or set "
            "data.options.void = 255 if 255 is no class"
        )

    def _check_grey_levels(self, threshold: int, values: frozenset[int]) -> None:
        """Raise UserError if masks have palettes of other colours, or ``threshold`` does not divide their values."""
        for path, info in self._infos.items():
            if any(colour != (index, index, index) for index, colour in info.palette):
                raise UserError(
                    f"{brief(self._masks[path].relative_to(self._root))} has a palette, whose indices are not grey "
                    "levels; save it as a grey image (mode L), or leave data.options.threshold out"
                )
        if values and not min(values) <= threshold < max(values):
            raise UserError(
                f"data.options.threshold = {threshold}: the masks hold values from {min(values)} to {max(values)}, so "
                "that every pixel would have the same class"
            )

    def _refuse_different_palettes(self) -> None:
        """Raise UserError if two palettes give an index in use different colours."""
        first_use = dict[int, tuple[Colour, Path]]()
        for path, info in self._infos.items():
            for index, colour in info.palette:
                first_colour, first_path = first_use.setdefault(index, (colour, path))
                if colour != first_colour:
                    first, second = (brief(self._masks[p].relative_to(self._root)) for p in (first_path, path))
                    raise UserError(
                        f"index {index} is {first_colour} in the palette of {first} and {colour} in that of {second}. "
                        "List the colours in labelmap.txt (name:r,g,b::), or set data.options.palette = false if the "
                        "indices are the classes"
                    )

    def targets(self, files: Sequence[Path], frame: Frame) -> Targets:
        """Return the masks of ``files``, uint8 (H, W), in memory if they fit."""
        masks = LazyMasks([self._masks[path] for path in files], frame, self._class_of_value, self._class_map)
        fits_in_memory = len(files) * frame.height * frame.width <= MEMORY_LIMIT
        return [masks[i] for i in range(len(masks))] if fits_in_memory else masks

    def fingerprint_entry(self, path: Path) -> Any:
        """Return the path and CRC-32 of the mask; also the class of each value if values are not class indices."""
        info = self._infos[path]
        if self._class_map.colours:
            colours = dict(enumerate(self._class_map.colours))
            remapped = [[colours.get(value, value), int(self._class_of_value[value])] for value in sorted(info.values)]
        else:
            pairs = ([value, int(self._class_of_value[value])] for value in sorted(info.values))
            remapped = [[value, index] for value, index in pairs if index != value]
        entry = [self._masks[path].relative_to(self._root).as_posix(), info.content[1]]
        return [*entry, remapped] if remapped else entry

    def class_counts(self, split: SplitFiles, readable: Container[Path]) -> dict[str, int]:
        """Return the number of ``readable`` images of ``split`` with a pixel of each class."""
        counts = Counter(
            index
            for path in split.files
            if path in readable and path not in self.problems
            for index in {int(self._class_of_value[value]) for value in self._infos[path].values}
        )
        return {name: counts[index] for index, name in enumerate(self.classes)}

    def cell(self, image: Tensor, target: Target) -> Cell:
        """Return a cell of ``image`` (C, H, W) in which classes other than 0 are tinted and named."""
        tinted = [index for index in target.unique().tolist() if index not in (0, VOID)]
        layers = np.stack([target.numpy() == index for index in tinted]) if tinted else None
        caption = brief(", ".join(self.classes[index] for index in tinted))
        return Cell(image, caption, (), layers, [index - 1 for index in tinted])


class LazyMasks:
    """Sequence of masks, read on access; ``class_of_value`` (256,) maps values to classes."""

    def __init__(
        self, paths: Sequence[Path], frame: Frame, class_of_value: NDArray[np.uint8], class_map: ClassMap
    ) -> None:
        self.paths, self.frame, self.class_of_value, self.class_map = paths, frame, class_of_value, class_map

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Mask:
        """Return mask ``i``, uint8 (H, W).

        Raises:
            UserError: the file has become unreadable.
        """
        path = self.paths[i]
        try:
            with open_image(path) as image:
                classes = Image.fromarray(self.class_of_value[class_indices(image, self.class_map)])
            return Mask(torch.from_numpy(np.array(self.frame.fit_mask(classes))))
        except UnreadableError as problem:
            raise UserError(f"{brief(path)} {problem}") from None


def _describe_grey_levels(levels: Sequence[int], n_unused: int) -> str:
    shown = f"{', '.join(map(str, levels[:5]))}{', …' * (len(levels) > 5)}"
    return (
        f"the masks hold {shown}, which are grey levels: as class indices, {n_unused} of the classes 0 to {levels[-1]} "
        "would be in no mask. Write 0, 1, 2, …, or list the name of every index in classes.txt, or set "
        "data.options.threshold = 128 if the pixels above 128 are the foreground"
    )


def _read_threshold(options: Mapping[str, Any], class_map: ClassMap) -> int | None:
    """Return ``data.options.threshold``; raise UserError if it is not possible."""
    threshold = options.get("threshold")
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int) or not 0 <= threshold < VOID:
        raise UserError(f"data.options.threshold = {threshold!r}: a whole number from 0 to {VOID - 1} is needed")
    if "void" in options:
        raise UserError(
            "data.options.threshold makes every pixel background or foreground; leave data.options.void out"
        )
    if class_map.colours or len(class_map.names) not in (0, 2):
        found = f"{len(class_map.names)} classes{' with colours' * bool(class_map.colours)}"
        raise UserError(
            f"data.options.threshold makes two classes of grey levels; {class_map.file_name} has {found}. Leave the "
            "option or that file out"
        )
    return threshold


def _resolve_void(void: Any, class_names: Sequence[str]) -> set[str]:
    if void is False:
        return set()
    if void is None:
        return {name for name in class_names if name.lower() in _VOID_NAMES}
    names = _names_in(void)
    for name in sorted(names - {*class_names, str(VOID)}):
        raise UserError(
            f"data.options.void: there is no class {brief(name)!r}.{did_you_mean(name, class_names)} There are "
            f"{', '.join(map(brief, class_names))}; false means no void class"
        )
    return names


def _names_in(void: Any) -> set[str]:
    return {name.strip() for name in str(void).split(",")}


def _read_info(image_path: Path, path: Path, class_map: ClassMap) -> _MaskInfo:
    try:
        with open_image(path) as image:
            indices = class_indices(image, class_map)
            values = frozenset(np.flatnonzero(np.bincount(indices.ravel(), minlength=256)).tolist())
            size = indices.shape[1], indices.shape[0]
            palette = used_palette(image, values - {VOID})
            orientations = _read_orientation(image_path), exif_orientation(image)
            return _MaskInfo(size, values, checksum(path), "", image.mode == "1", palette, orientations)
    except UnreadableError as problem:
        return _MaskInfo((0, 0), frozenset(), (0, 0), str(problem))


def _read_orientation(path: Path) -> int:
    try:
        with open_image(path) as image:
            return exif_orientation(image)
    except UnreadableError:  # reported when the image is read
        return 1


def _orientation_problem(info: _MaskInfo) -> str:
    """Return an error message if the mask may be turned against its image and their size does not tell, else ""."""
    image, mask = info.orientations
    is_square = info.size[0] == info.size[1]
    if image == mask or (max(image, mask) >= 5 and not is_square):
        return ""
    return (
        f"its EXIF orientation is {image}, that of the mask {mask} (1 = upright), so that the mask may be turned. "
        "Write both upright and without EXIF, or set data.options.upright_masks = true if masks fit the upright image"
    )


def _mismatch(info: _MaskInfo, size: tuple[int, int], n_values: int) -> str:
    """Return an error message if a mask does not fit its image or the classes, else ""."""
    if info.size != size:
        image, mask = info.orientations
        turned = f" after EXIF orientation {image}, which the mask lacks" if image != 1 == mask else ""
        return f"is {info.size[0]}×{info.size[1]} pixels; its image is {size[0]}×{size[1]}{turned}"
    largest = max(info.values - {VOID}, default=0)
    return f"has the value {largest}; {n_values} classes are 0 to {n_values - 1}" if largest >= n_values else ""
