"""Arms whose runs vary more, and outlying runs."""

import numpy as np
from example_studies import analyse, draw

from saccade.study.blocks import Design
from saccade.study.diagnostics import most_variable_arm


def test_an_arm_that_varies_more_is_named():
    scores = {name: [90.0, 91.0, 92.5] for name in ("none", "a", "b", "c")}
    for row, noise in zip(scores.values(), ([0.2, 0, 0], [0, 0.3, 0], [0, 0, 0.2], [0, 0, 0]), strict=True):
        row[:] = [score + e for score, e in zip(row, noise, strict=True)]
    assert "vary more" not in " ".join(analyse(scores).notes)
    scores["b"] = [86.0, 92.0, 90.0]
    (note,) = (note for note in analyse(scores).notes if "vary more" in note)
    without = analyse({name: row for name, row in scores.items() if name != "b"}).sigma
    assert "The runs of b vary more than those of the other arms" in note
    assert f"{analyse(scores).sigma:.2f} points, and {without:.2f} without b." in note


def test_one_study_in_twenty_names_an_arm_by_chance():
    rng = np.random.default_rng(0)
    design = Design.from_present(np.ones((6, 3), dtype=bool))
    named = [most_variable_arm(rng.normal(90, 1, (6, 3)), design) is not None for _ in range(1500)]
    assert 0.02 < np.mean(named) < 0.065


def test_too_few_runs_name_no_arm():
    analysis = analyse({"none": [90, 90.1, 90], "a": [90, 90, 90.1], "b": [80, 95, 90]})
    assert "vary more" not in " ".join(analysis.notes)


class TestThin:
    def test_an_outlying_run_is_named(self):
        scores = draw(21, seeds=6, sigma=0.3)
        assert "fits the others badly" not in " ".join(analyse(scores).notes)
        scores["m2"][4] -= 8
        analysis = analyse(scores, seeds=range(10, 16))
        assert analysis.largest_residual_at == ("m2", 14)
        assert "m2 at seed 14 fits the others badly" in " ".join(analysis.notes)

    def test_too_few_runs_name_no_outlier(self):
        scores = {"none": [90.0, 90.0, 90.0], "a": [90.0, 90.0, 90.6]}
        assert "fits the others badly" not in " ".join(analyse(scores).notes)
