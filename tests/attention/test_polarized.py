"""Polarized self-attention in cases small enough to be worked out on paper. σ(ln k) = k / (1 + k)."""

from math import exp, log, sqrt

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create
from saccade.errors import UserError

LN2, LN3 = log(2), log(3)
FOUR = image([[1, 2]], [[3, 4]], [[5, 6]], [[7, 8]])


def sigma(z):
    return 1 / (1 + exp(-z))


def test_nothing_but_zeros():
    # A = B = 1/2: their sum leaves the map as it is, their product is a quarter
    equals(with_values(create("polarized", 4))(FOUR), FOUR.tolist())
    equals(with_values(create("polarized", 4, layout="sequential"))(FOUR), (FOUR / 4).tolist())


def test_gate_of_channels():
    # A = σ(0, ln 3, −ln 3, ln 2), B = 1/2
    polarized = with_values(create("polarized", 4), expand__1__bias=[0, LN3, -LN3, LN2])
    equals(gates(polarized(FOUR), FOUR), [[1, 1], [5 / 4, 5 / 4], [3 / 4, 3 / 4], [7 / 6, 7 / 6]])


def test_where_to_look():
    # m = softmax(ln 3, 0) = (3/4, 1/4); Σ m x = (·, 3, 1, ·); W_v takes these two: z = (3, 1).
    # W_z z = (3, −3, 3, −3), of mean 0 and variance 9: LN = ± 1/√(1 + ε/9), its scale makes that ± ln 3. B = 1/2
    polarized = with_values(
        create("polarized", 4),
        mask__weight=[1, 0, 0, 0],
        value__weight=[[0, 1, 0, 0], [0, 0, 1, 0]],
        expand__0__weight=[[1, 0], [-1, 0], [0, 3], [0, -3]],
        expand__1__weight=[LN3 * sqrt(1 + 1e-5 / 9)] * 4,
    )
    x = image([[LN3, 0.0]], [[4, 0]], [[1, 1]], [[2, 5]])
    equals(polarized(x)[0, 2:], [[[5 / 4, 5 / 4]], [[3 / 2, 15 / 4]]])


def test_gate_of_places():
    # The mean of channel 1 is ln 3: t = softmax(ln 3, 0) = (3/4, 1/4). Σ t W_v' x = 3/4 · 4/3 · x_0 = (ln 3, −ln 3)
    values = {"query__weight": [[0, 1, 0, 0], [0] * 4], "key__weight": [[4 / 3, 0, 0, 0], [0] * 4]}
    x = image([[LN3, -LN3]], [[0.5 * LN3, 1.5 * LN3]], [[1, 1]], [[2, -3]])
    y = with_values(create("polarized", 4), **values)(x)
    equals(gates(y, x), [[5 / 4, 3 / 4]] * 4)


def test_the_second_gate_reads_what_the_first_has_gated():
    # A = (3/4, 1/2, 1/2, 1/2), t = (1/2, 1/2): Σ t W_v'(x ⊙ A) = 1/2 · 8/3 · 3/4 · x_0 = x_0; B = (3/4, 1/4)
    values = {"expand__1__bias": [LN3, 0, 0, 0], "key__weight": [[8 / 3, 0, 0, 0], [0] * 4]}
    x = image([[LN3, -LN3]], [[1, 1]], [[1, 2]], [[2, -3]])
    y = with_values(create("polarized", 4, layout="sequential"), **values)(x)
    equals(gates(y, x), [[9 / 16, 3 / 16], *[[3 / 8, 1 / 8]] * 3])


def test_official_parallel_has_its_softmax_over_places_and_no_norm():
    # W_z W_v Σ m x = ln 3 · mean x_2 in channel 0: A = (3/4, 1/2, …). The means weigh: 1 · (ln 3, 0) -> (3/4, 1/4)
    values = {
        "value__weight": [[0, 0, 1, 0], [0] * 4],
        "expand__0__weight": [[LN3, 0], [0, 0], [0, 0], [0, 0]],
        "query__weight": [[0, 1, 0, 0], [0] * 4],
        "key__weight": [[1, 0, 0, 0], [0] * 4],
    }
    x = image([[LN3, 1e-30]], [[0.5, 1.5]], [[1, 1]], [[2, -3]])
    y = with_values(create("polarized", 4, variant="official"), **values)(x)
    of_place = [sigma(3 / 4), sigma(1 / 4)]
    equals(gates(y, x), [[3 / 4 + b for b in of_place], *[[1 / 2 + b for b in of_place]] * 3])


def test_official_sequential_has_its_softmax_in_each_channel():
    # A = 1/2. W_q' (mean of x_1 / 2) = 2 · 1/2 = 1 for unit 0; softmax of W_v' x_0/2 = (ln 3, 0) is (3/4, 1/4)
    rows = torch.zeros(2, 8, 16)
    rows[0, 0, 1] = rows[1, 0, 0] = 2
    module = create("polarized", 16, layout="sequential", variant="official")
    module = with_values(module, query__weight=rows[0].tolist(), key__weight=rows[1].tolist())
    x = torch.ones(1, 16, 1, 2, dtype=torch.float64)
    x[0, 0, 0] = torch.tensor([LN3, 1e-30], dtype=torch.float64)
    equals(gates(module(x), x), [[sigma(3 / 4) / 2, sigma(1 / 4) / 2]] * 16)


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (3, {}, "polarized: channels must be at least 4 with .* got 3"),
        (15, {"layout": "sequential", "variant": "official"}, "polarized: channels must be at least 16 with .* got 15"),
        (64, {"layout": "both"}, "layout must be 'parallel' or 'sequential', got 'both'"),
        (64, {"variant": "code"}, "variant must be 'paper' or 'official', got 'code'"),
    ],
)
def test_mistakes(channels, options, message):
    with pytest.raises(UserError, match=message):
        create("polarized", channels, **options)
