"""Simulated tuned studies; the whole table takes ``benchmarks/simulated_tuning.py``."""

import numpy as np
import pytest

import simulated_tuning


def figures(curve="same", arms=4, values=3, repeats=1, seeds=5, gap=1.5, val=0.03, kind="normal", studies=2000):
    rng = np.random.default_rng(5)
    return simulated_tuning.simulate(curve, kind, arms, values, repeats, seeds, gap, val, studies, rng)


@pytest.mark.parametrize("curve", simulated_tuning.CURVES)
@pytest.mark.parametrize("arms", [2, 4])
def test_choosing_anew_for_each_seed_keeps_the_error(curve, arms):
    found = figures(curve, arms)
    assert found.any_false <= 6.5, "5.5 and two standard errors"
    assert found.one_for_all > 12, "one choice for all seeds would not"


def test_values_that_are_all_alike_cost_nothing():
    found = figures(gap=0.0)
    assert found.cost == 0
    assert found.any_false == found.one_for_all <= 6.5


def test_more_tuning_runs_cost_less():
    assert figures(repeats=3).cost < figures().cost


def test_what_each_value_is_worth():
    assert simulated_tuning.worth("same", 2, 3, 2.0).tolist() == [[-2, 0, -2]] * 2
    assert simulated_tuning.worth("shifted", 2, 3, 2.0).tolist() == [[0, -2, -4], [-2, 0, -2]]
