"""Decode mask images to class indices, from grey values, palette indices or colours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from saccade.data.colour_maps import ClassMap, Colour
from saccade.data.opening import upright
from saccade.data.samples import VOID
from saccade.imagefiles import UnreadableError

__all__ = ["class_indices", "exif_orientation", "used_palette"]

_SMOOTHING_COLOURS = 32
"""Number of unknown colours from which a mask counts as smoothed; later colours are not counted."""
_PNG_EXIF_KEYS = frozenset(("exif", "Raw profile type exif", "XML:com.adobe.xmp"))
"""Keys of Pillow's ``info`` under which a PNG's orientation can be."""


def class_indices(image: Image.Image, classes: ClassMap) -> NDArray[np.uint8]:
    """Return the class index of each pixel (H, W) of the upright mask.

    Values of grey and palette images are indices, but colours are looked up if all are in ``classes``, or if a used
    palette entry below 255 has a colour of ``classes`` other than black. A 1-bit image gives
    0 and 255. Without colours in ``classes``, grey RGB values are indices.

    Raises:
        UnreadableError: the image is a JPEG or WEBP, has an unsupported mode, several pages or transparent pixels, or a
            colour belongs to no class.
    """
    if image.format in ("JPEG", "WEBP"):
        raise UnreadableError(f"is a {image.format}, whose compression changes class indices and colours; write PNG")
    if (n_pages := getattr(image, "n_frames", 1)) > 1:
        raise UnreadableError(f"has {n_pages} pages; a mask of one page is needed")
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        raise UnreadableError(f"is of mode {image.mode}; class indices (mode L or P) or colours (mode RGB) are needed")
    upright_image = upright(image)
    if upright_image.mode in ("1", "L", "P"):
        values = np.asarray(upright_image.convert("L") if upright_image.mode == "1" else upright_image, np.uint8)
        return (
            _from_palette_or_grey(upright_image, values, classes)
            if _values_may_be_colours(upright_image, classes)
            else values
        )
    if upright_image.mode == "RGBA" and (n_transparent := int((np.asarray(upright_image)[..., 3] < 255).sum())):
        raise UnreadableError(
            f"is transparent in {n_transparent} of {upright_image.width * upright_image.height} pixels, whose class is "
            "not stated; write every pixel's class or colour"
        )
    packed = _pack_colours(upright_image)
    if not classes.colours:
        return _from_grey(packed)
    if (unknown := _unknown_colours(packed, classes)).size:
        raise UnreadableError(_unknown_colour_message(packed, unknown, classes))
    return _look_up(packed, classes)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened file, 1 if it has none; of a PNG, that before its pixels."""
    if image.format == "PNG" and not _PNG_EXIF_KEYS & image.info.keys():
        return 1  # getexif would decode the pixels
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def used_palette(image: Image.Image, indices: Iterable[int]) -> tuple[tuple[int, Colour], ...]:
    """Return the colours of those ``indices`` that the palette of ``image`` has; () without a palette."""
    palette = image.getpalette("RGB") if image.mode == "P" else None
    if not palette:
        return ()
    colours = [(palette[3 * i], palette[3 * i + 1], palette[3 * i + 2]) for i in range(len(palette) // 3)]
    return tuple((index, colours[index]) for index in sorted(indices) if index < len(colours))


def _values_may_be_colours(image: Image.Image, classes: ClassMap) -> bool:
    """Return True if the values of an image of mode 1, L or P may stand for colours of ``classes``."""
    all_grey = all(red == green == blue for red, green, blue in classes.colours)
    return bool(classes.colours) and (image.mode == "P" or all_grey)


def _from_palette_or_grey(image: Image.Image, values: NDArray[np.uint8], classes: ClassMap) -> NDArray[np.uint8]:
    """Return the class indices (H, W) of an image with ``values`` (H, W)."""
    packed = _pack_colours(image)
    if not _unknown_colours(packed, classes).size:
        return _look_up(packed, classes)
    if image.mode != "P":
        return values
    is_class = values != VOID
    used = np.unique(packed[is_class])
    if not np.intersect1d(used[used > 0], _packed_class_colours(classes)).size:
        return values
    if (unknown := _unknown_colours(used, classes)).size:
        raise UnreadableError(_unknown_colour_message(packed, unknown, classes))
    indices = np.full_like(values, VOID)
    indices[is_class] = _look_up(packed[is_class], classes)
    return indices


def _pack_colours(image: Image.Image) -> NDArray[np.int64]:
    """Return each pixel's RGB colour packed into one integer, (H, W)."""
    pixels = np.asarray(image.convert("RGB"), np.int64)
    return (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]


def _packed_class_colours(classes: ClassMap) -> NDArray[np.int64]:
    return np.array([(red << 16) | (green << 8) | blue for red, green, blue in classes.colours], np.int64)


def _unknown_colours(packed: NDArray[np.int64], classes: ClassMap) -> NDArray[np.int64]:
    return np.setdiff1d(packed, _packed_class_colours(classes))


def _look_up(packed: NDArray[np.int64], classes: ClassMap) -> NDArray[np.uint8]:
    """Return the class index of each packed colour, of the same shape."""
    class_colours = _packed_class_colours(classes)
    order = np.argsort(class_colours)
    return order[np.searchsorted(class_colours, packed, sorter=order)].astype(np.uint8)


def _from_grey(packed: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the grey value of each pixel (H, W); raise UnreadableError if a colour is not grey."""
    grey = packed & 0xFF
    coloured = np.unique(packed[packed != grey * 0x010101])
    if coloured.size:
        examples = ", ".join(str(_unpack_colour(colour)) for colour in coloured[:3].tolist())
        raise UnreadableError(
            f"is in colours ({examples}{', …' if coloured.size > 3 else ''}); labelmap.txt, class_dict.csv or "
            "label_colors.txt is needed in the folder, with the colour of each class"
        )
    return grey.astype(np.uint8)


def _unknown_colour_message(packed: NDArray[np.int64], unknown: NDArray[np.int64], classes: ClassMap) -> str:
    counts = [int((packed == colour).sum()) for colour in unknown[:_SMOOTHING_COLOURS].tolist()]
    index = int(np.argmax(counts))
    colour = _unpack_colour(int(unknown[index]))
    others = f" and {unknown.size - 1} other colours" if unknown.size > 1 else ""
    is_smoothed = unknown.size >= _SMOOTHING_COLOURS
    advice = "; that many colours indicate smoothing: resize masks by nearest neighbour" if is_smoothed else ""
    return (
        f"has the colour {colour} in {counts[index]} of {packed.size} pixels{others}, not in {classes.file_name}; the "
        f"nearest is {classes.describe_nearest(colour)}{advice}"
    )


def _unpack_colour(packed: int) -> tuple[int, int, int]:
    return packed >> 16, packed >> 8 & 0xFF, packed & 0xFF
