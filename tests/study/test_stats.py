import json
import math

import numpy as np
import pytest
import scipy.stats
from example_studies import BY_HAND, analyse, draw, rows

from saccade.errors import UserError
from saccade.study.blocks import PRIOR_DF, Design, compute_verdicts, fit


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

    def test_the_paired_variance_is_weighed_in(self):
        """By hand, for 3 seeds and 3 arms."""
        scores = {"none": [90, 90, 90], "a": [91, 91, 91], "b": [89, 90, 94]}
        # b deviates from its mean by -2, -1, 3 (squares 14); two thirds of it are residual: s² = 14 · 2/3 / 4 = 7/3.
        analysis = analyse(scores)
        assert analysis.sigma == pytest.approx(math.sqrt(7 / 3))
        # a minus none never varies; b minus none has half its variance at 14 / 2 / 2 = 7/2.
        assert rows(analysis)["a"].se == pytest.approx(math.sqrt(2 / 3 * (10 / 12 * 7 / 3)))
        assert rows(analysis)["b"].se == pytest.approx(math.sqrt(2 / 3 * (10 / 12 * 7 / 3 + 2 / 12 * 7 / 2)))

    def test_a_single_mechanism_needs_no_correction(self):
        a = rows(analyse(BY_HAND, controls={"b"}))["a"]
        assert a.p_holm == a.p == pytest.approx(2 * scipy.stats.t.sf(math.sqrt(12), 144 / 37))
        assert a.verdict == "helps"


def least_squares(scores, baseline):
    """Return ({arm: (difference, se)}, df) of an independent fit: full-rank dummies, lstsq, textbook covariance."""
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

    def test_a_missing_run_uses_the_other_arms(self):
        scores = draw(6, arms=3, seeds=4)
        scores["m1"][2] = np.nan
        row = rows(analyse(scores))["m1"]
        assert row.seeds == len(row.raw) == 3
        assert row.difference != pytest.approx(np.nanmean(scores["m1"]) - scores["none"].mean())
        assert row.difference != pytest.approx(np.mean(row.raw))  # m2 tells how hard seed 2 was for none
        del scores["m2"]
        row = rows(analyse(scores))["m1"]
        assert row.difference == pytest.approx(np.mean(row.raw))  # alone, the pairs are all there is

    def test_a_batch_of_studies_gives_the_same_as_one(self):
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

    def test_seed_effects_cancel(self):
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

    def test_two_seeds_with_one_missing(self):
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
        assert "Without a score: m2 at every seed. " in "\n".join(analysis.notes)
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
        assert "No chain of shared seeds connects this arm with the baseline none." in rows(analysis)["b"].sentence()
        assert rows(analysis)["a"].difference == pytest.approx(0.5)
        assert analysis.seed_sd is None
        # the twin: one arm that reaches over
        bridged = analyse({"none": none, "a": a, "b": b, "c": [90, 90, 91, 91]})
        assert rows(bridged)["b"].difference is not None
        assert rows(bridged)["b"].raw == ()

    def test_missing_runs_are_reported(self):
        analysis = analyse({"none": [90, 91, 92], "a": [91, math.inf, 92], "b": [None, 90, None]}, seeds=[4, 7, 9])
        assert "Without a score: a at seed 7; b at seed 4, 9. " in "\n".join(analysis.notes)
        assert analysis.arms[1].scores == (91, None, 92)

    def test_first_look(self):
        assert analyse(draw(20, seeds=3)).first_look
        assert "3 seeds are a first look" in " ".join(analyse(draw(20, seeds=3)).notes)
        assert not analyse(draw(20, seeds=4)).first_look
        assert "first look" not in " ".join(analyse(draw(20, seeds=4)).notes)


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
    def test_wrong_arguments_are_refused(self, change, message):
        with pytest.raises(UserError, match=message):
            analyse(change.pop("scores", BY_HAND), **change)
