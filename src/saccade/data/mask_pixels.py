"""The class index of each pixel of a mask image: of its grey value, its palette index or its colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade.data.colour_maps import ClassMap
from saccade.data.opening import upright
from saccade.data.samples import VOID
from saccade.imagefiles import UnreadableError

__all__ = ["indices"]

_SMEARED = 32
"""Colours that no map lists; more of them come from smoothing."""


def indices(image: Image.Image, classes: ClassMap) -> NDArray[np.uint8]:
    """The class index of each pixel (H, W), upright.

    A palette keeps its indices where none of its colours in use but black is one of ``classes``; index 255 has any
    colour. Black and white gives 0 and 255. Where no colours are named, colours that are all grey are indices.

    Raises:
        UnreadableError: the image is a JPEG or of another mode, or a colour belongs to no class.
    """
    if image.format == "JPEG":
        raise UnreadableError("is a JPEG, whose compression changes class indices and colours; write PNG")
    if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
        raise UnreadableError(f"is of mode {image.mode}; class indices (mode L or P) or colours (mode RGB) are needed")
    turned = upright(image)
    if turned.mode in ("1", "L", "P"):
        values = np.asarray(turned.convert("L") if turned.mode == "1" else turned, np.uint8)
        return _of_palette(turned, values, classes) if _by_colour(turned, classes) else values
    codes = _codes(turned)
    if not classes.colours:
        return _greys(codes)
    if (strange := _strange(codes, classes)).size:
        raise UnreadableError(_of_strange(codes, strange, classes))
    return _looked_up(codes, classes)


def _by_colour(image: Image.Image, classes: ClassMap) -> bool:
    """Whether the values of an image of mode 1, L or P may stand for colours of ``classes``."""
    greys = all(red == green == blue for red, green, blue in classes.colours)
    return bool(classes.colours) and (image.mode == "P" or greys)


def _of_palette(image: Image.Image, values: NDArray[np.uint8], classes: ClassMap) -> NDArray[np.uint8]:
    """The class indices of an image whose ``values`` are indices or stand for colours.

    Raises:
        UnreadableError: some of its colours are of ``classes`` and some are not.
    """
    codes = _codes(image)
    if not _strange(codes, classes).size:
        return _looked_up(codes, classes)
    if image.mode != "P":
        return values
    inside = values != VOID
    used = np.unique(codes[inside])
    if not np.intersect1d(used[used > 0], _known(classes)).size:
        return values
    if (strange := _strange(used, classes)).size:
        raise UnreadableError(_of_strange(codes, strange, classes))
    found = np.full_like(values, VOID)
    found[inside] = _looked_up(codes[inside], classes)
    return found


def _codes(image: Image.Image) -> NDArray[np.int64]:
    """Each pixel's colour as one number."""
    pixels = np.asarray(image.convert("RGB"), np.int64)
    return (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]


def _known(classes: ClassMap) -> NDArray[np.int64]:
    return np.array([(red << 16) | (green << 8) | blue for red, green, blue in classes.colours], np.int64)


def _strange(codes: NDArray[np.int64], classes: ClassMap) -> NDArray[np.int64]:
    """The colours that are none of the ``classes``."""
    return np.setdiff1d(codes, _known(classes))


def _looked_up(codes: NDArray[np.int64], classes: ClassMap) -> NDArray[np.uint8]:
    known = _known(classes)
    order = np.argsort(known)
    return order[np.searchsorted(known, codes, sorter=order)].astype(np.uint8)


def _greys(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The grey value of each pixel, where every colour is grey."""
    grey = codes & 0xFF
    coloured = np.unique(codes[codes != grey * 0x010101])
    if coloured.size:
        shown = ", ".join(str(_colour(code)) for code in coloured[:3].tolist())
        raise UnreadableError(
            f"is in colours ({shown}{', …' if coloured.size > 3 else ''}); labelmap.txt, class_dict.csv or "
            "label_colors.txt is needed in the folder, with the colour of each class"
        )
    return grey.astype(np.uint8)


def _of_strange(codes: NDArray[np.int64], strange: NDArray[np.int64], classes: ClassMap) -> str:
    counts = [int((codes == code).sum()) for code in strange[:_SMEARED].tolist()]
    most = int(np.argmax(counts))
    colour = _colour(int(strange[most]))
    others = f" and {strange.size - 1} other colours" if strange.size > 1 else ""
    why = "; so many come from smoothing: resize masks by the nearest pixel" if strange.size >= _SMEARED else ""
    return (
        f"has the colour {colour} in {counts[most]} of {codes.size} pixels{others}, not in {classes.owner}; the "
        f"nearest is {classes.nearest(colour)}{why}"
    )


def _colour(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 0xFF, code & 0xFF
