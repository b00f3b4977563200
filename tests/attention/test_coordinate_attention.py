"""Coordinate Attention by hand. σ(ln k) = k / (1 + k)."""

from math import exp, log

import pytest

from by_hand import equals, image, unmoved, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def _coord(shift):
    """C = 1: the first of the 8 units carries mean + ``shift``, the others are silent."""
    first = [1, 0, 0, 0, 0, 0, 0, 0]
    coord = with_values(create("coord", 1), squeeze__weight=first, squeeze__bias=[shift * one for one in first],
                  rows__weight=[LN3 / 4 * one for one in first], columns__weight=[LN2 / 2 * one for one in first],
                  rows__bias=[-3 * LN3 / 4], columns__bias=[-2 * LN2])  # fmt: skip
    return unmoved(coord)


def test_coord_gates_rows_and_columns():
    # Means of the rows (2, 6), of the columns (3, 5); plus 1: (3, 7), (4, 6), from 3 on h-swish is the identity.
    # g^h = σ((f − 3) ln 3 / 4) = σ(0, ln 3) = (1/2, 3/4); g^w = σ((f − 4) ln 2 / 2) = σ(0, ln 2) = (1/2, 2/3)
    equals(_coord(1)(image([[1, 3], [5, 7]])), [[[[0.25, 1], [1.875, 3.5]]]])


def test_coord_bends_below_three():
    # A map of one pixel, 1, shift 0: f = 1 · ReLU6(4)/6 = 2/3 for row and column
    def sigmoid(z):
        return 1 / (1 + exp(-z))

    equals(_coord(0)(image([[1]])), [[[[sigmoid((2 / 3 - 3) * LN3 / 4) * sigmoid((2 / 3 - 4) * LN2 / 2)]]]])


@pytest.mark.parametrize(("channels", "width"), [(1, 8), (256, 8), (287, 8), (288, 9), (960, 30)])
def test_coord_has_eight_units_or_more(channels, width):
    assert create("coord", channels).squeeze.out_channels == width
