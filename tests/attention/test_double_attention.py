"""Double attention by hand: softmax(ln 3, 0) = (3/4, 1/4)."""

from math import log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create
from saccade.catalog import load
from saccade.cost import count_macs

LN3 = log(3)


GATHER = {"feature__weight": [[1, 0], [0, 0]], "gather__weight": [[0, 1], [0, 0]], "distribute__bias": [LN3, 0],
          "out__weight": [[1, 0], [0, 1]], "out__bias": [0, 7]}  # fmt: skip


def test_a2_of_two_descriptors():
    # One looks with (3/4, 1/4), the other with (1/2, 1/2), at (4, 0): 3 and 2. Each pixel wants 3/4 and 1/4 of them.
    a2 = with_values(create("a2", 2, rd_ratio=1.0), **GATHER)
    equals(a2(image([[4, 0]], [[LN3, 0]])), [[[[6.75, 2.75]], [[LN3 + 7, 7]]]])


def test_a2_number_of_descriptors():
    # a third, which looks everywhere as the second does: wanted (3, 1, 1)/5
    more = GATHER | {"gather__weight": [[0, 1], [0, 0], [0, 0]], "distribute__bias": [LN3, 0, 0]}
    a2 = with_values(create("a2", 2, rd_ratio=1.0, descriptors=3), **more)
    equals(a2(image([[4, 0]], [[LN3, 0]])), [[[[6.6, 2.6]], [[LN3 + 7, 7]]]])


@pytest.mark.parametrize(("pixels", "multiply_adds"), [((2, 2), 2 * 3 * 4 * 10), ((5, 4), 2 * 6 * 4 * 23)])
def test_a2_takes_the_order_with_fewer_products_and_either_is_the_equations(pixels, multiply_adds):
    # C = 6, m = 3, n = 4: both layers on N pixels are 2mN(C + n) products, on descriptors 2Cn(N + m).
    c, n, size = 6, 4, pixels[0] * pixels[1]
    torch.manual_seed(0)
    a2, x = create("a2", c, descriptors=n).double(), torch.randn(2, c, *pixels, dtype=torch.float64)
    for p in a2.parameters():
        torch.nn.init.normal_(p)
    where, which = a2.gather(x).flatten(2).softmax(2), a2.distribute(x).flatten(2).softmax(1)
    z = a2.out((a2.feature(x).flatten(2) @ where.mT @ which).unflatten(2, pixels))
    equals(a2(x), (x + z).tolist(), within=1e-10)
    assert count_macs(a2, x) == 2 * c * n * size + multiply_adds


def test_a2_with_a_norm_starts_as_the_identity():
    x = torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(create("a2", 8, norm=True)(x), x, rtol=0, atol=0)
    assert not torch.equal(create("a2", 8)(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 8 \* 0.1"),
        ({"rd_ratio": 0.2}, "at least 2 descriptors, got 1"),
        ({"descriptors": 1}, "at least 2 descriptors, got 1"),
    ],
)
def test_a2_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("a2")(8, **options)
