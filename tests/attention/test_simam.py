"""SimAM by hand. σ(ln k) = k / (1 + k)."""

from math import exp

from by_hand import equals, gates, image
from saccade import create


def test_simam_of_four_values():
    # mean 1, d = (1, 1, 1, 9), v = 12/3 = 4; with λ = 2: E = d/24 + 1/2 = 13/24 three times, and 21/24
    y = create("simam", 1, e_lambda=2.0)(image([[0, 0], [0, 4]]))
    equals(y, [[[[0, 0], [0, 4 / (1 + exp(-21 / 24))]]]])
    shifted = image([[1, 1], [1, 5]])
    low, high = 1 / (1 + exp(-13 / 24)), 1 / (1 + exp(-21 / 24))
    equals(gates(create("simam", 1, e_lambda=2.0)(shifted), shifted), [[low, low, low, high]])


def test_simam_of_a_constant_map_and_of_one_pixel_is_its_least_gate():
    least = 1 / (1 + exp(-1 / 2))
    for x in (image([[3, 3], [3, 3]]), image([[3]])):
        equals(gates(create("simam", 1)(x), x), [[least] * x.numel()])


def test_simam_learns_nothing():
    assert list(create("simam", 8).state_dict()) == []
