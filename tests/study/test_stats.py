import json
import math

import numpy as np
import pytest
import scipy.stats
from example_studies import BY_HAND, analyse, draw, rows

from saccade.errors import UserError
from saccade.study.blocks import PRIOR_DF, Design, compute_verdicts, fit, holm, moderated_df


class TestByHand:
    def test_the_fit(self):
        analysis = analyse(BY_HAND)
        assert analysis.sigma == pytest.approx(math.sqrt(0.5))
        assert analysis.df == 4
        # seed means 271/3, 277/3, 277/3: variance 4/3, of which s²/3 = 1/6 is noise
        assert analysis.seed_sd == pytest.approx(math.sqrt(4 / 3 - 1 / 6))
        # a residual of 2/3 over s·sqrt(4/9)
        assert analysis.largest_residual == pytest.approx(math.sqrt(2))
        assert [arm.mean for arm in analysis.arms] == [91, 93, 91]
        assert analysis.arms[1].sd == pytest.approx(1)

    def test_the_difference(self):
        a = rows(analyse(BY_HAND))["a"]
        assert a.difference == pytest.approx(2)
        assert a.raw == (2, 1, 3)
        assert a.se == pytest.approx(math.sqrt(1 / 3))
        # Half the variance of its own differences 2, 1, 3 is 1/2, as is the pooled one. With 2 degrees of freedom they
        # weigh 2 / 12, which leaves 1 / ((1 - 1/36) / 4 + 1/36 / 2) = 144 / 37.
        assert a.df == pytest.approx(144 / 37)
        t = scipy.stats.t(144 / 37)
        assert a.p == pytest.approx(2 * t.sf(math.sqrt(12)))
        assert a.p_holm == pytest.approx(2 * a.p)
        assert (a.low, a.high) == pytest.approx((2 - t.isf(0.025) / math.sqrt(3), 2 + t.isf(0.025) / math.sqrt(3)))
        assert a.detectable == pytest.approx((t.isf(0.0125) + t.isf(0.2)) / math.sqrt(3))
        assert a.verdict == "not decided"  # p = 0.0267, but 0.053 for two mechanisms

    def test_its_own_runs_weigh_in(self):
        """Pooled: b's residuals are 0, ∓1, ±1 of which none and a take half each back. By hand, S = 3, A = 3."""
        scores = {"none": [90, 90, 90], "a": [91, 91, 91], "b": [89, 90, 94]}
        # b deviates from its mean by -2, -1, 3 (squares 14); two thirds of it are residual: s² = 14 · 2/3 / 4 = 7/3.
        analysis = analyse(scores)
        assert analysis.sigma == pytest.approx(math.sqrt(7 / 3))
        # a minus none never varies; b minus none has half its variance at 14 / 2 / 2 = 7/2.
        assert rows(analysis)["a"].se == pytest.approx(math.sqrt(2 / 3 * (10 / 12 * 7 / 3)))
        assert rows(analysis)["b"].se == pytest.approx(math.sqrt(2 / 3 * (10 / 12 * 7 / 3 + 2 / 12 * 7 / 2)))

    def test_alone_the_same_difference_is_decided(self):
        a = rows(analyse(BY_HAND, controls={"b"}))["a"]
        assert a.p_holm == a.p == pytest.approx(2 * scipy.stats.t.sf(math.sqrt(12), 144 / 37))
        assert a.verdict == "helps"


class TestModerated:
    def test_degrees_of_freedom_by_hand(self):
        # own 10 beside the pooled variance's ten: half and half
        assert moderated_df(40, 10) == pytest.approx(1 / (0.75 / 40 + 0.25 / 10))
        assert moderated_df(88, 2) == pytest.approx(1 / ((1 - 1 / 36) / 88 + 1 / 36 / 2))

    def test_nothing_to_moderate_with_leaves_the_pooled(self):
        assert moderated_df([7, 4, 0], [0, 4, 0]).tolist() == [7, 4, 0]

    def test_degrees_of_freedom_are_those_of_the_variance(self):
        """2 E[v]² / var(v), over studies drawn under the model; runs are missing."""
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

    def test_an_arm_that_shares_no_two_seeds_has_the_pooled(self):
        scores = {"none": [90.0, 91, 90, 92], "a": [91.0, 90, 92, 92], "b": [93.0, None, None, None]}
        analysis = analyse(scores)
        assert rows(analysis)["b"].df == analysis.df
        assert rows(analysis)["a"].df == analysis.df  # its own pairs are all there is
        assert rows(analysis)["a"].se == pytest.approx(analysis.sigma * math.sqrt(2 / 4))


def least_squares(scores, baseline):
    """An independent fit: full-rank dummies, lstsq, textbook covariance. Returns {arm: (difference, se)}, df."""
    arms = [baseline, *(name for name in scores if name != baseline)]
    seeds = len(scores[baseline])
    dummies, present = [], []
    for a, name in enumerate(arms):
        for s in range(seeds):
            if not np.isnan(scores[name][s]):
                dummies.append([1, *(a == k for k in range(1, len(arms))), *(s == k for k in range(1, seeds))])
                present.append(scores[name][s])
    x, y = np.array(dummies, dtype=float), np.array(present)
    beta, squares, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    df = len(y) - rank
    covariance = squares[0] / df * np.linalg.inv(x.T @ x)
    return {name: (beta[k], math.sqrt(covariance[k, k])) for k, name in enumerate(arms) if k}, df


class TestAgainstLeastSquares:
    @pytest.mark.parametrize("missing", [[], [("m1", 2)], [("none", 0), ("m2", 3), ("m3", 3), ("c", 1)]])
    def test_estimates_errors_and_tests(self, missing):
        scores = dict(zip(["none", "m1", "c", "m2", "m3"], draw(5, arms=5, seeds=5).values(), strict=True))
        for name, seed in missing:
            scores[name][seed] = np.nan
        expected, df = least_squares(scores, "none")
        analysis = analyse(scores, controls={"c"})
        assert analysis.df == df
        assert df == 16 - len(missing)
        for name, row in rows(analysis).items():
            difference, se = expected[name]
            pairs = scores[name] - scores["none"]
            own = np.nanvar(pairs, ddof=1) / 2
            weight = (row.seeds - 1) / (PRIOR_DF + row.seeds - 1)
            se *= math.sqrt(1 - weight + weight * own / analysis.sigma**2)
            expected_df = 1 / ((1 - weight**2) / df + weight**2 / (row.seeds - 1))
            assert row.difference == pytest.approx(difference)
            assert (row.se, row.df) == pytest.approx((se, expected_df))
            assert (row.se_from, row.se_images) == ("seeds", 0)
            assert row.p == pytest.approx(2 * scipy.stats.t.sf(abs(difference) / se, expected_df))
            assert (row.low, row.high) == pytest.approx(scipy.stats.t.interval(0.95, expected_df, difference, se))

    def test_a_missing_run_still_speaks_through_the_other_arms(self):
        scores = draw(6, arms=3, seeds=4)
        scores["m1"][2] = np.nan
        row = rows(analyse(scores))["m1"]
        assert row.seeds == len(row.raw) == 3
        assert row.difference != pytest.approx(np.nanmean(scores["m1"]) - scores["none"].mean())
        assert row.difference != pytest.approx(np.mean(row.raw))  # m2 tells how hard seed 2 was for none
        del scores["m2"]
        row = rows(analyse(scores))["m1"]
        assert row.difference == pytest.approx(np.mean(row.raw))  # alone, the pairs are all there is

    def test_one_study_and_many_go_through_the_same_lines(self):
        studies = [draw(seed, arms=5, seeds=3, gains=(0, 2)) for seed in range(20)]
        table = np.array([list(study.values()) for study in studies])
        design = Design.from_present(np.ones((5, 3)))
        fitted = fit(table, design)
        family = [True, True, True, False]
        df = design.difference_df[1:]
        tests = compute_verdicts(fitted.differences[:, 1:], fitted.se[:, 1:], df, family=family, margin=1.0, alpha=0.05)
        for i, study in enumerate(studies):
            analysis = analyse(study, controls={"m4"})
            assert analysis.sigma == pytest.approx(fitted.sigma[i])
            for j, row in enumerate(analysis.differences):
                seen = (row.low, row.high, row.p, row.p_holm)
                assert seen == pytest.approx((tests.low[i, j], tests.high[i, j], tests.p[i, j], tests.p_holm[i, j]))
                assert row.verdict == tests.verdict[i, j]
        assert {"helps", "not decided"} <= set(tests.verdict.ravel().tolist())

    def test_with_two_arms_it_is_the_paired_t_test(self):
        scores = draw(7, arms=2, seeds=6)
        paired = scipy.stats.ttest_rel(scores["m1"], scores["none"])
        assert rows(analyse(scores))["m1"].p == pytest.approx(paired.pvalue)
        assert rows(analyse(scores))["m1"].df == analyse(scores).df == 5


class TestInvariance:
    def test_order_of_arms_and_seeds(self):
        scores = draw(8, seeds=5)
        order = [3, 0, 4, 1, 2]
        names = ["m2", "none", "m3", "m1"]
        first = rows(analyse(scores))
        second = rows(analyse({name: scores[name][order] for name in names}))
        for name, row in first.items():
            assert second[name].p == pytest.approx(row.p)
            assert second[name].p_holm == pytest.approx(row.p_holm)
            assert second[name].raw == pytest.approx(tuple(np.array(row.raw)[order]))
        assert list(second) == ["m2", "m3", "m1"]
        scores["m1"] = scores["m1"][order]  # the twin: seeds mixed up in one arm
        assert rows(analyse(scores))["m1"].p != pytest.approx(first["m1"].p)

    def test_what_a_seed_does_to_all_arms_cancels(self):
        scores = draw(9)
        moved = {name: row + np.array([5, -20, 11]) for name, row in scores.items()}
        first, second = analyse(scores), analyse(moved)
        assert first.seed_sd is not None
        assert second.seed_sd is not None
        for one, other in zip(first.differences, second.differences, strict=True):
            assert (other.difference, other.se, other.p_holm) == pytest.approx((one.difference, one.se, one.p_holm))
        assert first.seed_sd < 10 < second.seed_sd

    def test_a_difference_turns_its_sign_with_the_baseline(self):
        scores = draw(10)
        there = rows(analyse(scores))["m2"]
        back = rows(analyse(scores, baseline="m2"))["none"]
        assert (back.difference, back.se, back.p) == pytest.approx((-there.difference, there.se, there.p))
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


class TestHolm:
    def test_by_hand(self):
        assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
        # 0.02·2 = 0.04, then 0.03·1 = 0.03 is raised to 0.04
        assert holm(np.array([0.03, 0.02])) == pytest.approx([0.04, 0.04])
        assert holm(np.array([0.9, 0.8, 0.7])) == pytest.approx([1, 1, 1])
        assert holm(np.array([])).shape == (0,)

    def test_what_was_not_tested_is_no_member(self):
        adjusted = holm(np.array([[0.04, np.nan, 0.01], [0.01, 0.04, 0.03]]))
        assert adjusted[0] == pytest.approx([0.04, np.nan, 0.02], nan_ok=True)
        assert adjusted[1] == pytest.approx([0.03, 0.06, 0.06])

    def test_is_the_step_down_procedure(self):
        p = np.random.default_rng(11).uniform(0, 0.06, (200, 4))
        rejected = holm(p) < 0.05
        for row, seen in zip(p, rejected, strict=True):
            expected = np.zeros(4, dtype=bool)
            for step, k in enumerate(np.argsort(row)):  # smallest first, against alpha / (those left); stop at a miss
                if row[k] >= 0.05 / (4 - step):
                    break
                expected[k] = True
            assert (seen == expected).all()
        assert rejected.any(axis=1).mean() > rejected.all(axis=1).mean() > 0

    def test_controls_stand_outside_but_feed_the_residual(self):
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


class TestThin:
    """Few runs, or nothing that varies."""

    def test_one_seed(self):
        analysis = analyse({"none": [90], "a": [91], "b": [89]})
        assert analysis.df == 0
        assert analysis.sigma is None
        assert analysis.first_look
        for row in analysis.differences:
            assert (row.low, row.high, row.se, row.p, row.p_holm, row.detectable, row.seeds_needed) == (None,) * 7
            assert row.verdict == "not decided"
        assert rows(analysis)["a"].difference == pytest.approx(1)
        assert analysis.differences[0].sentence() == (
            "a: not decided. +1.0 points against none. One seed does not measure the variation between runs: use two "
            "or more."
        )

    def test_one_seed_with_images_is_still_one_seed(self):
        right = np.ones((1, 50), dtype=bool)
        assert rows(analyse({"none": [90], "a": [91]}, correct={"none": right, "a": ~right}))["a"].low is None

    def test_two_seeds_of_which_one_is_gone(self):
        row = rows(analyse({"none": [90, 91], "a": [91, None]}))["a"]
        assert (row.difference, row.low) == (pytest.approx(1), None)
        assert "no degrees of freedom" in row.sentence()

    def test_no_variance_and_no_difference_is_equal(self):
        row = rows(analyse({"none": [90, 90, 90], "a": [90, 90, 90]}))["a"]
        assert (row.verdict, row.difference, row.low, row.high, row.se, row.p) == ("equal", 0, 0, 0, 0, 1)

    def test_no_variance_but_a_difference_is_not_decided(self):
        analysis = analyse({"none": [90, 91, 90], "a": [93.3, 94.3, 93.3], "b": [90, 91, 90]})
        assert rows(analysis)["a"].verdict == "not decided"
        assert rows(analysis)["a"].low is None
        assert "the error of this difference is unknown" in rows(analysis)["a"].sentence()
        assert rows(analysis)["b"].verdict == "equal"
        assert "check that seeds change the runs" in " ".join(analysis.notes)

    def test_no_variance_but_images(self):
        rng = np.random.default_rng(18)
        correct = {name: rng.random((3, 200)) < 0.9 for name in ("none", "a")}
        row = rows(analyse({"none": [90, 90, 90], "a": [93, 93, 93]}, correct=correct))["a"]
        assert row.se_from == "images"
        assert row.low < 3 < row.high

    def test_an_arm_without_a_score(self):
        scores = draw(19, arms=4)
        scores["m2"][:] = np.nan
        analysis = analyse(scores)
        assert rows(analysis)["m2"].sentence() == "m2: not decided. No run of m2 has a score."
        assert any(note.startswith("Without a score: m2 at every seed. ") for note in analysis.notes)
        del scores["m2"]
        others = analyse(scores)
        assert rows(analysis)["m1"] == rows(others)["m1"]
        assert analysis.df == others.df == 4
        assert analysis.arms[2].mean is None

    def test_a_baseline_without_a_score(self):
        analysis = analyse({"none": [None, None], "a": [90, 91], "b": [None, None]})
        assert {row.reason for row in analysis.differences} == {"No run of none has a score."}
        assert analysis.sigma is None
        json.dumps(analysis.to_json(), allow_nan=False)

    def test_an_arm_that_shares_no_seed(self):
        none, a, b = [90, 91, None, None], [90, 92, None, None], [None, None, 93, 94]
        analysis = analyse({"none": none, "a": a, "b": b})
        assert rows(analysis)["b"].difference is None
        assert "shares no seed with none" in rows(analysis)["b"].sentence()
        assert rows(analysis)["a"].difference == pytest.approx(0.5)
        assert analysis.seed_sd is None
        # the twin: one arm that reaches over
        bridged = analyse({"none": none, "a": a, "b": b, "c": [90, 90, 91, 91]})
        assert rows(bridged)["b"].difference is not None
        assert rows(bridged)["b"].raw == ()

    def test_a_lost_run_is_told(self):
        analysis = analyse({"none": [90, 91, 92], "a": [91, math.inf, 92], "b": [None, 90, None]}, seeds=[4, 7, 9])
        assert any(note.startswith("Without a score: a at seed 7; b at seed 4, 9. ") for note in analysis.notes)
        assert analysis.arms[1].scores == (91, None, 92)

    def test_first_look(self):
        assert analyse(draw(20, seeds=3)).first_look
        assert "3 seeds are a first look" in " ".join(analyse(draw(20, seeds=3)).notes)
        assert not analyse(draw(20, seeds=4)).first_look
        assert "first look" not in " ".join(analyse(draw(20, seeds=4)).notes)

    def test_a_score_that_stands_out(self):
        scores = draw(21, seeds=6, sigma=0.3)
        assert "fits the others badly" not in " ".join(analyse(scores).notes)
        scores["m2"][4] -= 8
        analysis = analyse(scores, seeds=range(10, 16))
        assert analysis.largest_residual_at == ("m2", 14)
        assert "m2 at seed 14 fits the others badly" in " ".join(analysis.notes)

    def test_too_few_runs_name_no_outlier(self):
        scores = {"none": [90.0, 90.0, 90.0], "a": [90.0, 90.0, 90.6]}
        assert "fits the others badly" not in " ".join(analyse(scores).notes)


class TestWrongUse:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"baseline": "nome"}, "'nome' is not an arm of this study: none, a, b. Did you mean 'none'"),
            ({"controls": {"c"}}, "'c' is not an arm of this study"),
            ({"correct": {"x": np.ones((3, 5))}}, "'x' is not an arm of this study"),
            ({"correct": {"a": np.ones((2, 5))}}, r"values\['a'\] is \(2, 5\); every arm needs \(3 seeds"),
            ({"correct": {"a": np.ones((3, 5)), "b": np.ones((3, 6))}}, "the same test images"),
            ({"margin": 0}, "margin must be a positive number of points, got 0"),
            ({"margin": math.nan}, "margin must be a positive number of points, got nan"),
            ({"alpha": 5}, "alpha must lie between 0 and 0.5, got 5"),
            ({"seeds": [0, 1]}, "2 seeds are named, but every arm has 3 scores"),
            ({"scores": {**BY_HAND, "b": [1, 2]}}, "b has 2 scores and none has 3"),
        ],
    )
    def test_says_what_is_wrong(self, change, message):
        with pytest.raises(UserError, match=message):
            analyse(change.pop("scores", BY_HAND), **change)
