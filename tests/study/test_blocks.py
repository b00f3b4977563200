"""Least squares, Holm and verdicts of a block design."""

import math

import numpy as np
import pytest
import scipy.stats
from example_studies import analyse, draw, rows

from saccade.study.blocks import Design, compute_verdicts, fit, holm, moderated_df


class TestModerated:
    def test_degrees_of_freedom_by_hand(self):
        # own 10 beside the pooled variance's ten: half and half
        assert moderated_df(40, 10) == pytest.approx(1 / (0.75 / 40 + 0.25 / 10))
        assert moderated_df(88, 2) == pytest.approx(1 / ((1 - 1 / 36) / 88 + 1 / 36 / 2))

    def test_without_paired_df_the_pooled_is_kept(self):
        assert moderated_df([7, 4, 0], [0, 4, 0]).tolist() == [7, 4, 0]

    def test_degrees_of_freedom_match_the_variance_of_simulated_studies(self):
        """df = 2 E[v]² / var(v) over studies simulated under the model, with missing runs."""
        present = np.ones((5, 4), dtype=bool)
        present[[2, 4], [0, 3]] = False
        design = Design.from_present(present)
        fitted = fit(np.random.default_rng(30).normal(0, 1.5, (200_000, 5, 4)), design)
        variances = np.square(fitted.moderated_sd)
        assert variances.mean(axis=0) == pytest.approx(2.25, rel=0.01)
        drawn = 2 * variances.mean(axis=0) ** 2 / variances.var(axis=0)
        assert drawn == pytest.approx(design.difference_df, rel=0.02)
        assert design.difference_df[0] == design.df
        assert (design.difference_df[1:] < design.df).all()

    def test_an_arm_with_one_shared_seed_has_the_pooled_variance(self):
        scores = {"none": [90.0, 91, 90, 92], "a": [91.0, 90, 92, 92], "b": [93.0, None, None, None]}
        analysis = analyse(scores)
        assert rows(analysis)["b"].df == analysis.df
        assert rows(analysis)["a"].df == analysis.df  # its own pairs are all there is
        assert rows(analysis)["a"].se == pytest.approx(analysis.sigma * math.sqrt(2 / 4))


class TestHolm:
    def test_by_hand(self):
        assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
        # 0.02·2 = 0.04, then 0.03·1 = 0.03 is raised to 0.04
        assert holm(np.array([0.03, 0.02])) == pytest.approx([0.04, 0.04])
        assert holm(np.array([0.9, 0.8, 0.7])) == pytest.approx([1, 1, 1])
        assert holm(np.array([])).shape == (0,)

    def test_nan_is_not_a_member(self):
        adjusted = holm(np.array([[0.04, np.nan, 0.01], [0.01, 0.04, 0.03]]))
        assert adjusted[0] == pytest.approx([0.04, np.nan, 0.02], nan_ok=True)
        assert adjusted[1] == pytest.approx([0.03, 0.06, 0.06])

    def test_holm_is_the_step_down_procedure(self):
        p = np.random.default_rng(11).uniform(0, 0.06, (200, 4))
        rejected = holm(p) < 0.05
        for row, seen in zip(p, rejected, strict=True):
            expected = np.zeros(4, dtype=bool)
            for step, k in enumerate(np.argsort(row)):  # smallest first, against alpha / (those left); stop at a miss
                if row[k] >= 0.05 / (4 - step):
                    break
                expected[k] = True
            np.testing.assert_array_equal(seen, expected)
        assert rejected.any(axis=1).mean() > rejected.all(axis=1).mean() > 0

    def test_controls_are_not_corrected_but_add_to_the_residual(self):
        scores = draw(12, arms=5, seeds=4, gains=(0, 1.5, 0.5))
        outside, inside = analyse(scores, controls={"m4"}), analyse(scores)
        without = analyse({name: row for name, row in scores.items() if name != "m4"})
        assert rows(outside)["m1"].p_holm == pytest.approx(3 * rows(outside)["m1"].p)
        assert rows(inside)["m1"].p_holm == pytest.approx(4 * rows(inside)["m1"].p)
        assert rows(outside)["m4"].is_control
        assert rows(outside)["m4"].p_holm == rows(outside)["m4"].p
        assert outside.df == 12 > without.df == 9
        assert rows(outside)["m1"].detectable < rows(inside)["m1"].detectable
        assert rows(outside)["m4"].detectable < rows(outside)["m1"].detectable


class TestVerdict:
    def verdict(self, difference, se=0.5, df=10, margin=1.0, others=()):
        d = np.array([difference, *others])
        tests = compute_verdicts(d, np.full(len(d), se), df, family=np.ones(len(d)), margin=margin, alpha=0.05)
        return str(tests.verdict[0])

    def test_at_the_edge_of_significance(self):
        edge = 0.5 * scipy.stats.t.isf(0.025, 10)
        assert self.verdict(edge * 1.0001) == "helps"
        assert self.verdict(edge * 0.9999) == "not decided"
        assert self.verdict(-edge * 1.0001) == "hurts"
        assert self.verdict(edge * 1.0001, others=[0.0]) == "not decided"  # two mechanisms ask for more
        assert self.verdict(0.5 * scipy.stats.t.isf(0.0125, 10) * 1.0001, others=[0.0]) == "helps"

    def test_at_the_edge_of_the_margin(self):
        half = 0.1 * scipy.stats.t.isf(0.025, 10)
        assert self.verdict(0.05, se=0.1, margin=half + 0.0501) == "equal"
        assert self.verdict(0.05, se=0.1, margin=half + 0.0499) == "not decided"
        assert self.verdict(-0.05, se=0.1, margin=half + 0.0501) == "equal"
        assert self.verdict(-0.05, se=0.1, margin=half + 0.0499) == "not decided"

    def test_significant_is_never_equal(self):
        assert self.verdict(0.4, se=0.1, margin=1.0) == "helps"

    def test_each_difference_has_its_own_degrees_of_freedom(self):
        tests = compute_verdicts(
            np.array([2.0, 2.0, 2.0]),
            np.ones(3),
            np.array([2.5, 40.0, 0.0]),
            family=np.zeros(3),
            margin=1.0,
            alpha=0.05,
        )
        assert tests.p[:2] == pytest.approx(2 * scipy.stats.t.sf(2, [2.5, 40]))
        assert tests.high[:2] - 2 == pytest.approx(scipy.stats.t.isf(0.025, [2.5, 40]))
        assert np.isnan(tests.p[2])  # no degrees of freedom, no test

    def test_alpha_moves_interval_and_verdict_together(self):
        scores = draw(17, arms=2, seeds=8, gains=(0, 1.2))
        for alpha in (0.3, 0.1, 0.01, 0.0001):
            row = rows(analyse(scores, alpha=alpha))["m1"]
            assert (row.verdict == "helps") == (row.low > 0)
        assert rows(analyse(scores, alpha=0.3))["m1"].verdict == "helps"
        assert rows(analyse(scores, alpha=0.0001))["m1"].verdict == "not decided"
