"""Contact sheets: pages of images with captions, boxes and masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saccade.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

__all__ = ["Cell", "contact_sheet", "evenly_spaced", "sheet_format", "write_sheet"]

_PAGE_COLOUR, _TEXT_COLOUR, _HEADING_COLOUR = (250, 250, 248), (32, 33, 36), (110, 112, 118)
_TINTS = (
    (255, 176, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167), (0, 0, 0),
)  # fmt: skip
"""Colours of boxes and masks, distinguishable with any kind of colour vision (Okabe and Ito, 2008)."""
_CELL_SIDE, _GAP, _MARGIN, _LINE_HEIGHT, _MIN_TAG_WIDTH = 160, 12, 28, 24, 11


@dataclass(frozen=True)
class Cell:
    """One image of a sheet.

    Attributes:
        image: uint8 (C, H, W).
        caption: text below the image.
        boxes: (x1, y1, x2, y2, label) in pixels of each box; an empty label is not drawn. Without ``tints`` the first
            box is highlighted.
        masks: masks, bool (n, H, W), drawn as tints.
        tints: colour index of each box or mask; None: one colour for the first box and mask, another for the rest.
    """

    image: Tensor
    caption: str
    boxes: Sequence[tuple[float, float, float, float, str]] = ()
    masks: NDArray[np.bool_] | None = field(default=None, compare=False)
    tints: Sequence[int] | None = None


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return up to ``count`` evenly spaced ``items``."""
    count = min(count, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def contact_sheet(groups: Sequence[tuple[str, Sequence[Cell]]], title: str, columns: int = 10) -> Image.Image:
    """Return a page with ``title`` and ``groups`` of (name, cells), with ``columns`` cells per row.

    The font is Pillow's own, which has Latin letters only.
    """
    n_columns = min(columns, max(len(cells) for _, cells in groups))
    width = 2 * _MARGIN + n_columns * (_CELL_SIDE + _GAP) - _GAP
    title_font, font = (ImageFont.load_default(size) for size in (19, 14))
    lines = _wrap(title.replace("×", "x"), title_font, width - 2 * _MARGIN)  # the font lacks ×
    row_height = _CELL_SIDE + _LINE_HEIGHT + _GAP
    groups_height = sum(_LINE_HEIGHT + 10 + -(-len(cells) // columns) * row_height for _, cells in groups)
    page_height = 2 * _MARGIN + _LINE_HEIGHT * len(lines) + 8 + groups_height
    page = Image.new("RGB", (width, page_height), _PAGE_COLOUR)
    draw = ImageDraw.Draw(page)
    y = _MARGIN
    for line in lines:
        draw.text((_MARGIN, y), line, _TEXT_COLOUR, title_font)
        y += _LINE_HEIGHT
    y += 8
    for name, cells in groups:
        draw.text((_MARGIN, y + 8), name, _HEADING_COLOUR, font)
        y += _LINE_HEIGHT + 10
        for start in range(0, len(cells), columns):
            for n, cell in enumerate(cells[start : start + columns]):
                x = _MARGIN + n * (_CELL_SIDE + _GAP)
                page.paste(_draw_cell(cell), (x, y))
                draw.text((x, y + _CELL_SIDE + 4), _shorten(cell.caption, font), _TEXT_COLOUR, font)
            y += row_height
    return page


def sheet_format(path: Path) -> str:
    """Return the image format of a sheet at ``path``: PNG, JPEG or WEBP.

    Raises:
        UserError: the extension is not supported, or the folder does not exist.
    """
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in ("PNG", "JPEG", "WEBP"):
        raise UserError(f"a contact sheet is a .png, .jpg or .webp file, not {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    return image_format


def write_sheet(page: Image.Image, path: Path) -> None:
    """Save ``page`` to ``path`` atomically, in the format of its extension.

    Raises:
        UserError: as :func:`sheet_format`, or the file cannot be written.
    """
    image_format = sheet_format(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        page.save(temporary, image_format)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _draw_cell(cell: Cell) -> Image.Image:
    """Return a square of ``_CELL_SIDE`` pixels with the resized image, its masks and its boxes."""
    height, width = cell.image.shape[1:]
    pixels = cell.image.expand(3, height, width).permute(1, 2, 0).numpy().astype(np.float64)
    for n, mask in enumerate(() if cell.masks is None else cell.masks):
        pixels[mask] = 0.72 * pixels[mask] + 0.28 * np.array(_tint(cell, n))
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    scale = _CELL_SIDE / max(height, width)
    resampling = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image = image.resize((round(width * scale), round(height * scale)), resampling)
    square = Image.new("RGB", (_CELL_SIDE, _CELL_SIDE), _PAGE_COLOUR)
    square.paste(image)
    draw = ImageDraw.Draw(square)
    font = ImageFont.load_default(12)
    for n, (*corners, label) in reversed(list(enumerate(cell.boxes))):
        is_highlighted = n == 0 and cell.tints is None
        colour = _tint(cell, n)
        x1, y1, x2, y2 = (round(corner * scale) for corner in corners)
        box = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(box, outline=colour, width=2 if is_highlighted else 1)
        if not label:
            continue
        tag_width = max(_MIN_TAG_WIDTH, round(font.getlength(label)) + 4)
        if x2 + tag_width < _CELL_SIDE:
            left = x2
        else:
            left = x1 - tag_width if x1 >= tag_width or tag_width == _MIN_TAG_WIDTH else max(0, x2 - tag_width)
        draw.rectangle((left, y1, left + tag_width, y1 + 13), fill=colour)
        draw.text((left + 2, y1 - 1), label, _TEXT_COLOUR, font)
    return square


def _tint(cell: Cell, n: int) -> tuple[int, int, int]:
    return _TINTS[min(n, 1) if cell.tints is None else cell.tints[n] % len(_TINTS)]


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        line = f"{lines[-1]} {word}".strip()
        if font.getlength(line) <= width or not lines[-1]:
            lines[-1] = line
        else:
            lines.append(word)
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= _CELL_SIDE:
        return text
    while text and font.getlength(text + "…") > _CELL_SIDE:
        text = text[:-1]
    return text + "…"
