"""Non-local block by hand: softmax(ln 3, 0) = (3/4, 1/4)."""

from math import log

import pytest

from by_hand import equals, image, unmoved, with_values
from saccade import create
from saccade.catalog import load

LN3 = log(3)


NARROW = {"theta__weight": [1, 0], "phi__weight": [0, 1], "g__weight": [4, 0], "out__weight": [1, 2]}


def test_nl_of_two_pixels():
    # θ = (1, 0), φ = (ln 3, 0): rows (3/4, 1/4) and (1/2, 1/2); g = (4, 0); t = (3, 2), added as (t, 2t)
    nl = unmoved(with_values(create("nl", 2), **NARROW))
    equals(nl(image([[1, 0]], [[LN3, 0]])), [[[[4, 2]], [[LN3 + 6, 4]]]])


def test_nl_divides_by_the_root_of_its_width():
    # c = 4, all four the same: 4 · ln 3 / 2 · 1/√4 = ln 3
    values = {"theta__weight": [[1, 0]] * 4, "phi__weight": [[0, 1 / 2]] * 4, "g__weight": [[4, 0]] * 4}
    nl = unmoved(with_values(create("nl", 2, rd_ratio=2.0), **values, out__weight=[[1, 0, 0, 0], [0, 0, 0, 2]]))
    equals(nl(image([[1, 0]], [[LN3, 0]])), [[[[4, 2]], [[LN3 + 6, 4]]]])


def test_nl_of_dot_products_divides_by_their_number():
    # θ φ / 2 = 1 · 6 / 2 for the first pixel with itself, else 0: t = (12, 0)
    nl = unmoved(with_values(create("nl", 2, instantiation="dot_product"), **NARROW))
    equals(nl(image([[1, 0]], [[6, 0]])), [[[[13, 0]], [[30, 0]]]])


def test_nl_that_pools_sees_the_largest_of_four():
    # one window, so one key, whose g is 4 · 7; the odd column does not count
    nl = unmoved(with_values(create("nl", 2, pool=True), **NARROW))
    x = image([[1, 7, 9], [0, 2, 9]], [[0, 0, 0], [0, 0, 0]])
    equals((nl(x) - x)[0, 0], [[28] * 3] * 2)
    equals((nl(x[..., 2:]) - x[..., 2:])[0, 1], [[72]] * 2)  # of one column every pixel is a window's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 4 \* 0.1"),
        ({"instantiation": "concatenation"}, "'softmax' or 'dot_product', got 'concatenation'"),
    ],
)
def test_nl_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("nl")(4, **options)
