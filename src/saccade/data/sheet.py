"""Contact sheets: pictures in rows, each with its label and, where they are known, its boxes and masks."""

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

__all__ = ["Cell", "check_path", "contact_sheet", "spread", "write"]

_PAPER, _INK, _FAINT = (250, 250, 248), (32, 33, 36), (110, 112, 118)
_TARGET, _OTHER = (255, 176, 0), (86, 180, 233)
_TINTS = (
    _TARGET, _OTHER, (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167), (0, 0, 0)
)  # fmt: skip
"""Told apart by every kind of colour vision (Okabe and Ito)."""
_CELL, _GAP, _MARGIN, _LINE = 160, 12, 28, 24


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        picture: uint8 (C, H, W).
        caption: written below it.
        boxes: (x1, y1, x2, y2, label), without a tag where the label is empty; the first is drawn as the target unless
            there are tints.
        masks: bool (n, H, W), tinted.
        tints: for each box or mask the number of its colour; None tints masks like the boxes.
    """

    picture: Tensor
    caption: str
    boxes: Sequence[tuple[float, float, float, float, str]] = ()
    masks: NDArray[np.bool_] | None = field(default=None, compare=False)
    tints: Sequence[int] | None = None


def spread(things: Sequence[T], count: int) -> list[T]:
    """Up to ``count`` of ``things``, evenly spaced, so that sorted ones show each kind."""
    shown = min(count, len(things))
    return [things[n * len(things) // shown] for n in range(shown)]


def contact_sheet(rows: Sequence[tuple[str, Sequence[Cell]]], title: str, columns: int = 10) -> Image.Image:
    """A page with a title and named groups of cells, ``columns`` of them in a row.

    It is set in the typeface Pillow brings along, which knows Latin letters and no multiplication sign.
    """
    shown = min(columns, max(len(cells) for _, cells in rows))
    width = 2 * _MARGIN + shown * (_CELL + _GAP) - _GAP
    title_font, font = (ImageFont.load_default(size) for size in (19, 14))
    lines = _wrapped(title.replace("×", "x"), title_font, width - 2 * _MARGIN)
    deep = sum(_LINE + 10 + -(-len(cells) // columns) * (_CELL + _LINE + _GAP) for _, cells in rows)
    page = Image.new("RGB", (width, 2 * _MARGIN + _LINE * len(lines) + 8 + deep), _PAPER)
    draw = ImageDraw.Draw(page)
    y = _MARGIN
    for line in lines:
        draw.text((_MARGIN, y), line, _INK, title_font)
        y += _LINE
    y += 8
    for name, cells in rows:
        draw.text((_MARGIN, y + 8), name, _FAINT, font)
        y += _LINE + 10
        for start in range(0, len(cells), columns):
            for n, cell in enumerate(cells[start : start + columns]):
                x = _MARGIN + n * (_CELL + _GAP)
                page.paste(_picture(cell), (x, y))
                draw.text((x, y + _CELL + 4), _shortened(cell.caption, font), _INK, font)
            y += _CELL + _LINE + _GAP
    return page


def check_path(path: Path) -> str:
    """The format a sheet at ``path`` would have.

    Raises:
        UserError: the ending names none, or there is no such folder.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise UserError(f"a contact sheet is a .png, .jpg or .webp file, not {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    return kind


def write(page: Image.Image, path: Path) -> None:
    """Save ``page`` whole or not at all, in the format the ending of ``path`` names.

    Raises:
        UserError: as :func:`check_path`, or the file cannot be written.
    """
    kind = check_path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        page.save(temporary, kind)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _picture(cell: Cell) -> Image.Image:
    """A square of _CELL pixels: the picture in whole-number magnification where it is small, masks and boxes on top."""
    height, width = cell.picture.shape[1:]
    pixels = cell.picture.expand(3, height, width).permute(1, 2, 0).numpy().astype(np.float64)
    for n, mask in enumerate(() if cell.masks is None else cell.masks):
        tint = min(n, 1) if cell.tints is None else cell.tints[n] % len(_TINTS)
        pixels[mask] = 0.72 * pixels[mask] + 0.28 * np.array(_TINTS[tint])
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    scale = _CELL / max(height, width)
    near = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image = image.resize((round(width * scale), round(height * scale)), near)
    square = Image.new("RGB", (_CELL, _CELL), _PAPER)
    square.paste(image)
    draw = ImageDraw.Draw(square)
    font = ImageFont.load_default(12)
    for n, (*corners, label) in reversed(list(enumerate(cell.boxes))):
        first = n == 0 and cell.tints is None
        colour = _TINTS[min(n, 1) if cell.tints is None else cell.tints[n] % len(_TINTS)]
        x1, y1, x2, y2 = (round(c * scale) for c in corners)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2 if first else 1)
        if not label:
            continue
        wide = max(11, round(font.getlength(label)) + 4)
        left = x2 if x2 + wide < _CELL else x1 - wide if x1 >= wide or wide == 11 else max(0, x2 - wide)
        tag = (left, y1, left + wide, y1 + 13)
        draw.rectangle(tag, fill=colour)
        draw.text((tag[0] + 2, tag[1] - 1), label, _INK, font)
    return square


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= _CELL:
        return text
    while text and font.getlength(text + "…") > _CELL:
        text = text[:-1]
    return text + "…"
