"""Squeeze-and-Excitation by hand. σ(ln k) = k / (1 + k)."""

from math import log

import pytest

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_se_with_nothing_but_biases():
    # z = (1, 3); W₁z + b₁ = 2·1 − 1·3 + 0.5 = −0.5, which the ReLU closes; s = σ(b₂) = σ(0, ln 3) = (1/2, 3/4)
    se = with_values(create("se", 2, rd_ratio=0.5), squeeze__weight=[2, -1], squeeze__bias=[0.5], excite__weight=[5, 7],
               excite__bias=[0, LN3])  # fmt: skip
    x = image([[0.5, 1.5]], [[2, 4]])
    equals(se(x), [[[[0.25, 0.75]], [[1.5, 3]]]])


def test_se_through_an_open_unit():
    # z = (1, 3); W₁z + b₁ = 1 + 3 − 1 = 3; logits 3 · (ln 2 / 3, −ln 4 / 3) = (ln 2, −ln 4); s = (2/3, 1/5)
    se = with_values(create("se", 2, rd_ratio=0.5), squeeze__weight=[1, 1], squeeze__bias=[-1],
               excite__weight=[LN2 / 3, -2 * LN2 / 3])  # fmt: skip
    x = image([[0, 2], [3, -1]], [[3, 3], [5, 1]])
    equals(se(x), [[[[0, 4 / 3], [2, -2 / 3]], [[0.6, 0.6], [1, 0.2]]]])


def test_se_without_bias_at_zero_halves():
    se = with_values(create("se", 3, rd_ratio=1.0, bias=False))
    assert {name for name, _ in se.named_parameters()} == {"squeeze.weight", "excite.weight"}
    equals(se(image([[2]], [[-4]], [[6]])), [[[[1]], [[-2]], [[3]]]])


def test_se_rounds_its_bottleneck_down():
    # 47 / 16 = 2.94: two units. 2·47·2 weights and 47 + 2 biases.
    assert sum(p.numel() for p in create("se", 47).parameters()) == 2 * 47 * 2 + 49


X = image([[1, 3]], [[2, -1]])


def _se(**options):
    # the unit holds the first channel's squeeze: its mean 2 or its maximum 3
    return with_values(
        create("se", 2, rd_ratio=0.5, **options), squeeze__weight=[1, 0], excite__weight=[LN3 / 6, -LN3 / 6]
    )


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        # logits ± ln 3 / 6 times the unit: of the mean ± ln 3 / 3, of the maximum ± ln 3 / 2
        ({}, [1 / (1 + 3 ** (-1 / 3)), 1 / (1 + 3 ** (1 / 3))]),
        ({"squeeze": "max"}, [1 / (1 + 3**-0.5), 1 / (1 + 3**0.5)]),
        ({"excitation": "relu"}, [LN3 / 3, 0]),
        ({"squeeze": "max", "excitation": "relu"}, [LN3 / 2, 0]),
        ({"squeeze": "max", "excitation": "tanh"}, [0.5, -0.5]),  # tanh(ln 3 / 2) = (3 − 1)/(3 + 1)
    ],
    ids=str,
)
def test_se_squeezes_and_excites_as_it_is_told(options, gate):
    equals(gates(_se(**options)(X), X), [[g, g] for g in gate])
