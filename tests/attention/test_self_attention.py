"""Self-attention of SAGAN by hand. σ(ln k) = k / (1 + k)."""

from math import log

from by_hand import equals, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_self_attention_of_two_pixels():
    # The query is channel 0, (1, 2); the key is channel 1, (ln 3, 0); the value is channel 2, (8, 16), into channel 2.
    # Logits of pixel 1: (ln 3, 0), weights (3/4, 1/4), o = 6 + 4 = 10. Of pixel 2: (ln 9, 0), weights (9/10, 1/10),
    # o = 7.2 + 1.6 = 8.8. With γ = 1/2, y = (8 + 5, 16 + 4.4).
    layer = with_values(create("self_attention", 3, rd_ratio=1 / 3), query__weight=[1, 0, 0], key__weight=[0, 1, 0],
                  value__weight=[0, 0, 0, 0, 0, 0, 0, 0, 1], gamma=[0.5])  # fmt: skip
    equals(layer(image([[1, 2]], [[LN3, 0]], [[8, 16]])), [[[[1, 2]], [[LN3, 0]], [[13, 20.4]]]])


def test_self_attention_that_asks_nothing_adds_the_mean():
    # logits 0: every pixel takes the mean 3 of (1, 2, 6) twice (γ = 2)
    layer = with_values(create("self_attention", 1, rd_ratio=1.0), key__weight=[1], value__weight=[1], gamma=[2])
    equals(layer(image([[1], [2], [6]])), [[[[7], [8], [12]]]])
