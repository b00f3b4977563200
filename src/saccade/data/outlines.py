"""Rasterise polygons and run-length encodings (RLE) to masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saccade.data.annotations import Polygon, Rle

__all__ = ["polygon_mask", "rle_mask"]


def polygon_mask(polygons: Sequence[Polygon | NDArray[np.float64]], height: int, width: int) -> NDArray[np.uint8]:
    """Return a mask (height, width) that is 1 if the centre of a pixel is inside a polygon, by the even-odd rule.

    Args:
        polygons: polygons as x1, y1, x2, y2, … in pixels; parts outside the mask are clipped.
        height: height in pixels.
        width: width in pixels.
    """
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
        next_x, next_y = np.roll(x, -1), np.roll(y, -1)
        # Edge i crosses the centre lines of the rows first_row[i] to end_row[i] - 1.
        first_row, end_row = (
            np.clip(np.ceil(bound - 0.5), 0, height).astype(np.int64)
            for bound in (np.minimum(y, next_y), np.maximum(y, next_y))
        )
        n_rows = end_row - first_row
        edge = np.repeat(np.arange(len(x)), n_rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first_row[edge]
        fraction = (row + 0.5 - y[edge]) / (next_y - y)[edge]
        crossing_x = x[edge] + fraction * (next_x - x)[edge]
        column = np.clip(np.ceil(crossing_x - 0.5), 0, width).astype(np.int64)
        crossings = np.zeros((height, width + 1), np.int64)
        np.add.at(crossings, (row, column), 1)
        mask |= (np.cumsum(crossings, 1)[:, :width] & 1).astype(np.uint8)
    return mask


def rle_mask(rle: Rle) -> NDArray[np.uint8]:
    """Return the upright mask (H, W) of 0 and 1."""
    counts = np.asarray(rle.counts, np.int64)
    mask = np.repeat(np.arange(len(counts), dtype=np.uint8) & 1, counts).reshape(rle.width, rle.height).T
    if rle.orientation == 6:
        return np.rot90(mask, -1)
    if rle.orientation == 8:
        return np.rot90(mask)
    if rle.orientation >= 5:
        return (mask if rle.orientation == 5 else mask[::-1, ::-1]).T
    return mask
