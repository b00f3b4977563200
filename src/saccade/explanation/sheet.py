"""A sheet of explanations as one picture: a row per image, a column per network and layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from saccade.escaping import printable
from saccade.explanation.overlay import outlined, overlay, to_picture
from saccade.explanation.tiles import LEGEND, Tile, tiles_of
from saccade.heat_maps import COLOURS, draw_heat_map

if TYPE_CHECKING:
    from saccade.explanation.explanation import Explained, Explanation

__all__ = ["draw_sheet", "png_bytes"]

_PAPER, _INK, _SOFT, _RULE = "#ffffff", "#16191f", "#59616e", "#e2e5ea"
_SIDE = 224
"""Longest side of a tile in pixels; smaller pictures are enlarged."""
_GAP, _MARGIN, _LINE = 18, 32, 18
_MAX_LINES = 7
"""Lines of a caption; longer ones are cut."""


def draw_sheet(explanation: Explanation, opacity: float = 0.5, threshold: float = 0.0) -> Image.Image:
    """Draw all maps and gates beside their pictures.

    Args:
        explanation: the maps.
        opacity: opacity of the maps, from 0 to 1.
        threshold: values below it are not drawn.

    Raises:
        UserError: a number is outside 0 to 1.
    """
    tiles = [[tiles_of(cell) for cell in row] for row in explanation.rows]
    widths = [max(len(row[k]) for row in tiles) for k in range(len(explanation.networks))]
    title, text, small = (_font(size) for size in (17, 14, 12))
    step = _SIDE + _GAP
    width = max(2 * _MARGIN - _GAP + step * (1 + sum(widths)), 2 * _MARGIN + 2 * step)
    heights = [max(_tile_height(cell) for cell in row) for row in explanation.rows]
    captions = [_LINE * max(_caption_lines(tile, small) for cell in row for tile in cell) + 10 for row in tiles]
    legend = _wrapped(LEGEND.format(method=explanation.method), small, width - 2 * _MARGIN)
    notes = [line for note in explanation.notes for line in _wrapped(note, small, width - 2 * _MARGIN)]
    head = _MARGIN + 34
    body = sum(heights) + sum(captions) + _GAP * len(heights)
    height = head + body + _LINE * (len(legend) + len(notes)) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    x = _MARGIN + step
    for name, count in zip(explanation.networks, widths, strict=True):
        span = count * step - _GAP
        pen.text((x, _MARGIN - 6), _cut(printable(name), title, span), fill=_INK, font=title)
        pen.line((x, _MARGIN + 20, x + span, _MARGIN + 20), fill=_RULE, width=2)
        x += count * step
    y = head
    for image, row, row_tiles, row_height, caption in zip(
        explanation.images, explanation.rows, tiles, heights, captions, strict=True
    ):
        picture = _fitted(to_picture(row[0].pixels))
        sheet.paste(picture if row[0].region is None else outlined(picture, row[0].region.mask), (_MARGIN, y))
        _write(pen, _MARGIN, y + row_height + 6, printable(image), (), text, small)
        x = _MARGIN + step
        for cell, cell_tiles, count in zip(row, row_tiles, widths, strict=True):
            for n, tile in enumerate(cell_tiles):
                place = (x + n * step, y)
                sheet.paste(_drawn(cell, tile, opacity, threshold), place)
                bottom = place[1] + row_height + 6
                lines = list(tile.lines)
                if tile.ends is not None:
                    _ramp(pen, place[0] + _SIDE - 96, bottom + 4, tile.ends, small)
                _write(pen, place[0], bottom, tile.title, lines, text, small)
            x += count * step
        y += row_height + caption + _GAP
    for line in [*legend, *notes]:
        pen.text((_MARGIN, y), line, fill=_SOFT, font=small)
        y += _LINE
    return sheet


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont), "Pillow's default font has sizes"
    return font


def _fitted(picture: Image.Image) -> Image.Image:
    """Enlarge or shrink a picture to the side of a tile; enlarged pixels stay visible."""
    scale = _SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _tile_height(cell: Explained) -> int:
    height, width = cell.pixels.shape[1:]
    return max(1, round(height * _SIDE / max(height, width)))


def _drawn(cell: Explained, tile: Tile, opacity: float, threshold: float) -> Image.Image:
    if tile.over_picture:
        return _fitted(overlay(cell.pixels, tile.values, opacity, threshold if tile.ends is None else 0.0))
    rows = len(tile.values)
    return draw_heat_map(tile.values).resize((_SIDE, min(_SIDE, max(8, 160 // rows) * rows)), Image.Resampling.NEAREST)


def _write(
    pen: ImageDraw.ImageDraw, x: int, y: int, title: str, lines: Sequence[str], text: FreeTypeFont, small: FreeTypeFont
) -> None:
    pen.text((x, y), _cut(printable(title), text, _SIDE), fill=_INK, font=text)
    for n, line in enumerate(_caption(lines, small), 1):
        pen.text((x, y + _LINE * n), line, fill=_SOFT, font=small)


def _caption(lines: Sequence[str], font: FreeTypeFont) -> list[str]:
    """Return the lines under a title, wrapped to the width of a tile."""
    return [part for line in lines for part in _wrapped(printable(line), font, _SIDE)][: _MAX_LINES - 1]


def _caption_lines(tile: Tile, font: FreeTypeFont) -> int:
    return 1 + len(_caption(tile.lines, font))


def _ramp(pen: ImageDraw.ImageDraw, x: int, y: int, ends: tuple[float, float], font: FreeTypeFont) -> None:
    """Draw the colours of a gate's scale between the values at its ends."""
    low, high = (f"{value:.2f}" for value in ends)
    pen.text((x - 4, y - 2), low, fill=_SOFT, font=font, anchor="ra")
    for n, colour in enumerate(COLOURS):
        pen.rectangle((x + 6 * n, y, x + 6 * n + 5, y + 8), fill=colour)
    pen.text((x + 64, y - 2), high, fill=_SOFT, font=font)


def _wrapped(text: str, font: FreeTypeFont, width: int) -> list[str]:
    return wrap(text, max(8, int(width / (font.getlength("abcdefghij") / 10)))) or [""]


def _cut(text: str, font: FreeTypeFont, width: int) -> str:
    """Return ``text``, with an ellipsis if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
