"""A sheet of explanations as HTML: a self-contained page, or a fragment for a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from saccade.errors import UserError
from saccade.escaping import printable
from saccade.explanation.overlay import outlined, to_picture
from saccade.explanation.tiles import LEGEND, Tile, tiles_of
from saccade.heat_maps import COLOURS, draw_heat_map

if TYPE_CHECKING:
    from saccade.explanation.explanation import Explained, Explanation

__all__ = ["render_fragment", "render_page"]

_MAX_SIDE = 320
"""Longest side of an embedded picture; larger ones are reduced."""
_STYLE = """
.explained { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif;
  color: inherit; font-variant-numeric: tabular-nums; --opacity: OPACITY; }
.explained .scroll { overflow-x: auto; }
.explained table { border-collapse: collapse; margin: 0; }
.explained th, .explained td { text-align: left; vertical-align: top; padding: 0.45rem 1.1rem 0.9rem 0; border: 0;
  background: none; font-weight: 400; }
.explained thead th { font-weight: 600; padding-bottom: 0.3rem; border-bottom: 2px solid rgba(128, 128, 128, 0.3); }
.explained figure { margin: 0; width: 12.5rem; }
.explained .plane { position: relative; display: block; }
.explained .plane img { display: block; width: 100%; border-radius: 2px; }
.explained .plane img + img { position: absolute; inset: 0; height: 100%; opacity: var(--opacity); }
.explained .plane:has(img + img) img:first-child { filter: grayscale(1); }
.explained .pixelated img:first-child, .explained img.pixelated { image-rendering: pixelated; }
.explained figcaption { margin-top: 0.35rem; font-size: 0.92em; overflow-wrap: anywhere; }
.explained figcaption span { display: block; font-size: 0.88em; opacity: 0.72; }
.explained .ends { display: flex; gap: 0.4em; align-items: center; }
.explained .ramp { flex: none; width: 4.5em; height: 0.6em; border-radius: 2px; background: RAMP;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.explained .how { max-width: 46rem; margin: 0.6rem 0 0; font-size: 0.92em; opacity: 0.78; }
.explained .bar { display: flex; gap: 0.7rem; align-items: center; margin: 0 0 1rem; font-size: 0.92em; }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --paper: #ffffff; --ink: #16191f; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --paper: #14161a; --ink: #e9ebef; }} }}
body {{ margin: 0 auto; max-width: 84rem; padding: 2.4rem clamp(1rem, 4vw, 2.5rem); background: var(--paper);
  color: var(--ink); }}
h1 {{ margin: 0 0 1.2rem; font: 680 clamp(1.5rem, 1.1rem + 1.6vw, 2.1rem)/1.2 system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif; letter-spacing: -0.018em; text-wrap: balance; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<script>
for (const slider of document.querySelectorAll(".explained input"))
  slider.addEventListener("input", () => slider.closest(".explained").style.setProperty("--opacity", slider.value));
</script>
</body>
</html>
"""


def render_page(explanation: Explanation, opacity: float = 0.5, threshold: float = 0.0) -> str:
    """Return a page with a slider for the opacity of the maps, which loads nothing from elsewhere.

    Args:
        explanation: the maps.
        opacity: opacity at first, from 0 to 1.
        threshold: values below it are not drawn.

    Raises:
        UserError: a number is outside 0 to 1.
    """
    networks = explanation.networks
    looks = f"{networks[0]} looks" if len(networks) == 1 else f"{len(networks)} networks look"
    slider = (f'<label class="bar">opacity of the maps <input type="range" min="0" max="1" step="0.01" '
              f'value="{opacity:g}"></label>')  # fmt: skip
    body = render_fragment(explanation, opacity, threshold, before=slider)
    return _PAGE.format(title=_text(f"Where {looks}"), body=body)


def render_fragment(explanation: Explanation, opacity: float = 0.5, threshold: float = 0.0, before: str = "") -> str:
    """Return a self-contained ``div``, with the HTML ``before`` above the table; arguments as for the page.

    Raises:
        UserError: a number is outside 0 to 1.
    """
    for name, value in (("opacity", opacity), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be from 0 to 1, got {value:g}")
    tiles = [[tiles_of(cell) for cell in row] for row in explanation.rows]
    widths = [max(len(row[k]) for row in tiles) for k in range(len(explanation.networks))]
    heads = "".join(
        f'<th scope="colgroup" colspan="{count}">{_text(name)}</th>'
        for name, count in zip(explanation.networks, widths, strict=True)
    )
    rows = []
    for image, row, row_tiles in zip(explanation.images, explanation.rows, tiles, strict=True):
        cells = [f"<td>{_picture(row[0], image)}</td>"]
        for name, cell, cell_tiles, count in zip(explanation.networks, row, row_tiles, widths, strict=True):
            cells += [f"<td>{_figure(cell, tile, f'{image}, {name}', threshold)}</td>" for tile in cell_tiles]
            cells += ["<td></td>"] * (count - len(cell_tiles))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    style = _STYLE.replace("RAMP", f"linear-gradient(90deg, {', '.join(COLOURS)})").replace("OPACITY", f"{opacity:g}")
    sentences = [LEGEND.format(method=explanation.method), *explanation.notes]
    notes = "".join(f'<p class="how">{_text(sentence)}</p>' for sentence in sentences)
    return (
        f'<div class="explained"><style>{style}</style>{before}<div class="scroll"><table><thead><tr><th></th>{heads}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{notes}</div>"
    )


def _text(value: str) -> str:
    return escape(printable(value))


def _picture(cell: Explained, name: str) -> str:
    image = to_picture(cell.pixels)
    if cell.region is not None:
        scale = max(1, _MAX_SIDE // max(image.size))
        image = outlined(image.resize((scale * image.width, scale * image.height), 0), cell.region.mask)
    return (f'<figure><div class="plane{_pixelated(image)}">{_img(image, name)}</div>'
            f"<figcaption>{_text(name)}</figcaption></figure>")  # fmt: skip


def _figure(cell: Explained, tile: Tile, name: str, threshold: float) -> str:
    """Return a map over its picture, or a strip, with its caption."""
    label = f"{name}: {tile.title}, {', '.join(tile.lines)}"
    heat = draw_heat_map(tile.values)
    if tile.over_picture:
        image = to_picture(cell.pixels)
        if tile.ends is None and threshold > 0:
            alpha = (255 * (tile.values >= threshold)).to(torch.uint8)
            heat.putalpha(Image.fromarray(alpha.numpy()))
        drawn = f'<div class="plane{_pixelated(image)}">{_img(image, label)}{_img(heat, "")}</div>'
    else:
        rows = len(tile.values)
        drawn = _img(heat, label, f'class="pixelated" width="100%" height="{min(200, max(8, 160 // rows) * rows)}"')
    ends = ""
    if tile.ends is not None:
        low, high = (f"{value:.2f}" for value in tile.ends)
        ends = f'<span class="ends">{low} <i class="ramp"></i> {high}</span>'
    lines = "".join(f"<span>{_text(line)}</span>" for line in tile.lines)
    return f"<figure>{drawn}<figcaption>{_text(tile.title)}{ends}{lines}</figcaption></figure>"


def _pixelated(image: Image.Image) -> str:
    return " pixelated" if max(image.size) <= _MAX_SIDE // 4 else ""


def _img(image: Image.Image, label: str, attributes: str = "") -> str:
    """Return an element that embeds ``image``: photographs as JPEG, small pictures and maps as PNG."""
    image = image.copy()
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    kind: Literal["PNG", "JPEG"] = "JPEG" if label and max(image.size) > _MAX_SIDE // 4 else "PNG"
    file = io.BytesIO()
    image.save(file, kind, optimize=True, quality=90)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img src="data:image/{kind.lower()};base64,{data}" alt="{_text(label)}" {attributes}>'
