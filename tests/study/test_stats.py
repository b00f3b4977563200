import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

import simulation
from saccade.errors import UserError
from saccade.study.blocks import (
    Design,
    fit,
    holm,
    image_floor,
    judge,
    paired_images,
    planned_detectable,
    seeds_needed,
    stated_detectable,
)
from saccade.study.stats import METHOD, analyse

# Worked by hand. Arm means 91, 93, 91; residuals six times 1/3 in size and three times 2/3, so their squares sum to 2
# with (3-1)(3-1) = 4 degrees of freedom: s² = 1/2, se = sqrt(2/3 · 1/2) = 0.57735, t of a = 3.4641.
BY_HAND = {"none": [90, 92, 91], "a": [92, 93, 94], "b": [89, 92, 92]}


def rows(analysis):
    return {row.name: row for row in analysis.differences}


def draw(seed, arms=4, seeds=3, sigma=0.8, gains=()):
    """Scores of a study of arms none, m1, m2, …; the last gains are zero."""
    rng = np.random.default_rng(seed)
    gain = np.zeros(arms)
    gain[: len(gains)] = gains
    table = 90 + gain[:, None] + rng.normal(0, 1.3, seeds) + rng.normal(0, sigma, (arms, seeds))
    return {"none" if a == 0 else f"m{a}": row for a, row in enumerate(table)}


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
        # t with 4 degrees of freedom in closed form: P(|T| < t) = sin θ (1 + cos² θ / 2) with tan θ = t / 2
        assert a.p == pytest.approx(1 - math.sqrt(3) / 2 * 1.125)
        assert a.p_holm == pytest.approx(2 * a.p)
        # t tables: 2.7764 (0.975), 3.4954 (0.9875), 0.9410 (0.8), all with 4 degrees of freedom
        assert a.low == pytest.approx(2 - 2.7764 * 0.57735, abs=1e-3)
        assert a.high == pytest.approx(2 + 2.7764 * 0.57735, abs=1e-3)
        assert a.detectable == pytest.approx((3.4954 + 0.9410) * 0.57735, abs=1e-3)
        assert a.verdict == "not decided"  # p = 0.0257, but 0.051 for two mechanisms

    def test_alone_the_same_difference_is_decided(self):
        a = rows(analyse(BY_HAND, controls={"b"}))["a"]
        assert a.p_holm == a.p == pytest.approx(1 - math.sqrt(3) / 2 * 1.125)
        assert a.verdict == "helps"


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
            assert row.difference == pytest.approx(difference)
            assert row.se == pytest.approx(se)
            assert row.se_from == "seeds"
            assert row.p == pytest.approx(2 * scipy.stats.t.sf(abs(difference) / se, df))
            assert (row.low, row.high) == pytest.approx(scipy.stats.t.interval(0.95, df, difference, se))

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
        design = Design.of(np.ones((5, 3)))
        fitted = fit(table, design)
        family = [True, True, True, False]
        tests = judge(fitted.differences[:, 1:], fitted.se[:, 1:], design.df, family=family, margin=1.0, alpha=0.05)
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


class TestImages:
    """Standard error from the paired test images."""

    def test_by_hand(self):
        none = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=bool)
        arm = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
        # means over seeds 0, 1/2, 1, -1/2: variance 1.25/3; variances over seeds 0, 1/2, 0, 2/4... of d = (0,0), (0,1),
        # (1,1), (0,-1): 0, 1/2, 0, 1/2. In points² and over 4 images:
        lasting, passing = paired_images(arm, none)
        assert lasting + passing / 2 == pytest.approx(1e4 * 1.25 / 3 / 4)
        assert passing == pytest.approx(1e4 * 0.25 / 4)

    def test_one_seed_is_mcnemar(self):
        rng = np.random.default_rng(13)
        none, arm = rng.random((2, 1, 500)) < 0.85
        gained, lost = (arm & ~none).sum(), (none & ~arm).sum()
        variance = (gained + lost - (gained - lost) ** 2 / 500) / 499 / 500
        assert paired_images(arm, none) == pytest.approx((1e4 * variance, 0))

    def test_images_that_agree_leave_an_error(self):
        # two pseudo images beside two: d = 0, 0, +1, -1, mean 0, variance 2/4 over 4 images
        assert image_floor(2) == pytest.approx(1e4 * (2 / 4) / 4)
        right = np.ones((5, 2), dtype=bool)
        assert paired_images(right, right) == pytest.approx((1250, 0))
        assert paired_images(right[:, :1], right[:, :1]) == pytest.approx((2e4 / 9, 0))

    def test_the_floor_takes_the_place_of_what_the_seeds_average_away(self):
        none = np.ones((2, 1000), dtype=bool)
        arm = none.copy()
        arm[0, 0] = arm[1, 1] = False  # observed: two means of 1/2, far below two pseudo images
        assert paired_images(arm, none) == pytest.approx((2e4 / 1002**2, 0))
        arm[0, :20] = False
        lasting, passing = paired_images(arm, none)
        assert lasting >= image_floor(1000)
        assert passing > 0

    @pytest.mark.parametrize(("images", "verdict"), [(2, "not decided"), (100, "not decided"), (2000, "equal")])
    def test_a_handful_of_images_makes_nothing_equal(self, images, verdict):
        """se = 100 √2 / (n + 2) points, t(0.975, 4) = 2.776: ±98, ±3.8 and ±0.20 points."""
        right = np.ones((5, images), dtype=bool)
        row = rows(analyse({"none": [100] * 5, "a": [100] * 5}, correct={"none": right, "a": right}))["a"]
        assert row.verdict == verdict
        assert row.se_from == "images"
        assert row.high == -row.low == pytest.approx(2.776445 * 100 * math.sqrt(2) / (images + 2), rel=1e-6)

    def test_passing_scatter_never_exceeds_the_whole(self):
        none = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)
        lasting, passing = paired_images(~none, none)  # every image flips with the seed, none lastingly
        assert lasting >= 0
        assert passing >= 0

    def test_the_error_is_never_below(self):
        rng = np.random.default_rng(14)
        correct = {name: rng.random((3, 400)) < 0.9 for name in ("none", "a", "b")}
        scores = {"none": [90, 90.5, 91], "a": [90.5, 91, 91.5], "b": [90.6, 91, 91.4]}  # nearly no residual
        with_images, without = analyse(scores, correct=correct), analyse(scores)
        for name, guarded in rows(with_images).items():
            free = rows(without)[name]
            lasting, passing = paired_images(correct[name], correct["none"])
            assert guarded.se == pytest.approx(math.sqrt(lasting + passing / 3))
            assert guarded.se_from == "images"
            assert free.se_from == "seeds"
            assert guarded.low < free.low < free.high < guarded.high
            assert guarded.detectable > free.detectable
        assert (rows(with_images)["a"].verdict, rows(without)["a"].verdict) == ("not decided", "helps")
        assert with_images.images == 400
        assert without.images is None
        assert "more test images" in " ".join(with_images.notes)

    def test_a_larger_error_of_the_seeds_stands(self):
        rng = np.random.default_rng(15)
        none = rng.random((3, 100_000)) < 0.9
        scores = {"none": [88, 92, 90], "a": [92, 88, 91]}
        guarded = rows(analyse(scores, correct={"none": none, "a": none}))["a"]
        assert guarded == rows(analyse(scores))["a"]

    def test_rows_of_absent_runs_are_not_read(self):
        rng = np.random.default_rng(16)
        correct = {name: rng.random((3, 50)) < 0.7 for name in ("none", "a", "b")}
        scores = {"none": [70.0, 70, 71], "a": [70.0, 70, math.nan], "b": [71.0, 70, 71]}
        first = analyse(scores, correct=correct)
        correct["a"] = correct["a"] & np.array([[True], [True], [False]])
        assert analyse(scores, correct=correct) == first
        correct["a"] = correct["a"] & np.array([[True], [False], [True]])
        assert analyse(scores, correct=correct) != first


class TestVerdict:
    def verdict(self, difference, se=0.5, df=10, margin=1.0, others=()):
        d = np.array([difference, *others])
        tests = judge(d, np.full(len(d), se), df, family=np.ones(len(d)), margin=margin, alpha=0.05)
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

    def test_alpha_moves_interval_and_verdict_together(self):
        scores = draw(17, arms=2, seeds=8, gains=(0, 1.2))
        for alpha in (0.3, 0.1, 0.01, 0.0001):
            row = rows(analyse(scores, alpha=alpha))["m1"]
            assert (row.verdict == "helps") == (row.low > 0)
        assert rows(analyse(scores, alpha=0.3))["m1"].verdict == "helps"
        assert rows(analyse(scores, alpha=0.0001))["m1"].verdict == "not decided"


class TestPower:
    @pytest.mark.parametrize(("seeds", "arms", "mechanisms"), [(2, 2, 1), (3, 4, 3), (5, 5, 3), (20, 9, 7)])
    def test_planned_is_the_noncentral_t(self, seeds, arms, mechanisms):
        df = (arms - 1) * (seeds - 1)
        shift = planned_detectable(0.7, seeds, arms, mechanisms) / (0.7 * math.sqrt(2 / seeds))
        critical = scipy.stats.t.isf(0.05 / (2 * mechanisms), df)
        assert scipy.stats.nct.sf(critical, df, shift) == pytest.approx(0.8, abs=1e-6)

    def test_planned_by_table(self):
        # two arms, many seeds: z 1.95996 + 0.84162, known from every table of sample sizes
        assert planned_detectable(1.0, 20_000, 2, 1) == pytest.approx(2.80158 * math.sqrt(2 / 20_000), rel=1e-4)

    def test_planned_grows_and_shrinks_as_it_must(self):
        by_seeds = [planned_detectable(1.0, seeds, 4, 3) for seeds in range(2, 12)]
        assert by_seeds == sorted(by_seeds, reverse=True)
        assert planned_detectable(2.0, 3, 4, 3) == pytest.approx(2 * planned_detectable(1.0, 3, 4, 3))
        assert planned_detectable(1.0, 3, 6, 5) > planned_detectable(1.0, 3, 6, 4)  # a larger family
        assert planned_detectable(1.0, 3, 6, 3) < planned_detectable(1.0, 3, 4, 3)  # more controls, more residual
        assert planned_detectable(1.0, 1, 4, 3) == math.inf

    def test_planned_with_few_images(self):
        free = planned_detectable(0.6, 3, 4, 3)
        se = 0.6 * math.sqrt(2 / 3)
        assert planned_detectable(0.6, 3, 4, 3, images=0.99 * se**2) == free
        assert planned_detectable(0.6, 3, 4, 3, images=4 * se**2) == pytest.approx(2 * free)

    def test_stated_lies_below_planned_and_meets_it(self):
        for seeds in (2, 3, 5):
            assert stated_detectable(3 * (seeds - 1), 3) * math.sqrt(2 / seeds) < planned_detectable(1, seeds, 4, 3)
        assert stated_detectable(30_000, 3) * math.sqrt(2 / 10_001) == pytest.approx(
            planned_detectable(1, 10_001, 4, 3), rel=1e-4
        )

    def power(self, difference, seeds, sigma, arms, mechanisms, margin):
        """Either way of deciding, from scipy.stats."""
        se, df = sigma * math.sqrt(2 / seeds), (arms - 1) * (seeds - 1)
        t = scipy.stats.t.isf(0.025, df)
        found = scipy.stats.nct.sf(scipy.stats.t.isf(0.025 / mechanisms, df), df, difference / se)
        inside = scipy.stats.nct.cdf(-t, df, (difference - margin) / se) - scipy.stats.nct.cdf(
            t, df, (difference + margin) / se
        )
        return max(found, inside)

    @pytest.mark.parametrize(("difference", "sigma"), [(0.0, 0.9), (0.3, 0.8), (1.0, 1.0), (1.4, 1.2), (-2.0, 2.5)])
    def test_seeds_needed_is_the_smallest_that_decides(self, difference, sigma):
        needed = seeds_needed(difference, sigma=sigma, seeds=2, arms=4, mechanisms=3, margin=1.0)
        assert needed is not None
        assert needed > 3
        assert self.power(abs(difference), needed, sigma, 4, 3, 1.0) >= 0.8
        assert self.power(abs(difference), needed - 1, sigma, 4, 3, 1.0) < 0.8

    def test_seeds_needed_is_monotone(self):
        def needed(difference, sigma):
            return seeds_needed(difference, sigma=sigma, seeds=2, arms=4, mechanisms=3, margin=1.0) or math.inf

        by_noise = [needed(0.4, sigma) for sigma in np.linspace(0.3, 3, 12)]
        assert by_noise == sorted(by_noise)
        assert by_noise[0] < by_noise[-1] == math.inf
        by_size = [needed(difference, 1.5) for difference in np.linspace(1, 5, 12)]
        assert by_size == sorted(by_size, reverse=True)
        assert needed(-0.4, 1.0) == needed(0.4, 1.0)

    def test_seeds_do_not_replace_images(self):
        def needed(images):
            return seeds_needed(1.0, sigma=0.5, images=images, seeds=3, arms=4, mechanisms=3, margin=1.0)

        assert needed((0.0, 1.0)) > needed((0.0, 0.0)) > 3
        assert needed((0.3, 0.0)) is None  # 0.55 points remain at any number of seeds

    def test_an_undecided_study_asks_for_more_seeds_and_could_not_have_seen_its_difference(self):
        undecided = [
            row
            for seed in range(300)
            for row in rows(analyse(draw(seed, sigma=0.6, gains=(0, 1.5, 0.7)))).values()
            if row.verdict == "not decided"
        ]
        assert len(undecided) > 100
        assert all(abs(row.difference) < row.detectable for row in undecided)
        assert all(row.seeds_needed is None or row.seeds_needed > 3 for row in undecided)
        assert any(row.seeds_needed is not None for row in undecided)


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
            "a: not decided. +1.0 points against none. One seed measures no spread between runs: take two or more."
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


class TestSentence:
    def sentence(self, **changes):
        return replace(rows(analyse(BY_HAND))["b"], **changes).sentence()

    def test_as_analysed(self):
        a, b = analyse(BY_HAND).differences
        assert a.sentence() == (
            "a: not decided. +2.0 points (95 % interval +0.4 to +3.6, 3 seeds); zero is outside, but not after "
            "correction for 2 comparisons; this study could have seen differences of 2.6 points; "
            "about 4 seeds would decide."
        )
        assert b.sentence() == (
            "b: not decided. +0.0 points (95 % interval -1.6 to +1.6, 3 seeds); this study could have seen "
            "differences of 2.6 points; about 12 seeds would decide."
        )

    def test_each_verdict(self):
        decided = {"detectable": 1.0, "seeds_needed": None}
        assert self.sentence(verdict="helps", difference=1.9, low=1.1, high=2.7, p_holm=0.0021, **decided) == (
            "b: helps. +1.9 points (95 % interval +1.1 to +2.7, 3 seeds, Holm p = 0.002)."
        )
        assert self.sentence(verdict="hurts", difference=-0.5, low=-0.8, high=-0.2, p_holm=1e-5, **decided) == (
            "b: hurts. -0.5 points (95 % interval -0.8 to -0.2, 3 seeds, Holm p < 0.001); "
            "the loss is real but lies within ±1.0 points."
        )
        assert self.sentence(verdict="equal", difference=0.1, low=-0.6, high=0.8, **decided) == (
            "b: equal to none within ±1.0 points. "
            "+0.1 points (95 % interval -0.6 to +0.8, 3 seeds): it can be left out."
        )
        assert self.sentence(difference=0.4, low=-0.7, high=1.5, detectable=1.6, seeds_needed=9) == (
            "b: not decided. +0.4 points (95 % interval -0.7 to +1.5, 3 seeds); "
            "this study could have seen differences of 1.6 points; about 9 seeds would decide."
        )
        assert self.sentence(seeds_needed=None).endswith("more than 100 seeds would be needed to decide.")
        assert self.sentence(seeds_needed=None, se_from="images").endswith(
            "more than 100 seeds or more test images would be needed to decide."
        )

    def test_a_control(self):
        said = self.sentence(is_control=True, comparisons=1, verdict="equal", difference=0.1, low=-0.6, high=0.8)
        assert said.startswith("b (control): equal to none")
        assert "left out" not in said
        said = self.sentence(
            is_control=True, comparisons=1, verdict="helps", difference=2.0, low=1.5, high=2.5, p_holm=0.01
        )
        assert ", p = 0.010)" in said

    def test_rounding_never_contradicts_the_verdict(self):
        assert "+0.04 to +2.00" in self.sentence(verdict="helps", difference=1.02, low=0.04, high=2.0)
        assert "-0.96 to +0.97" in self.sentence(verdict="equal", difference=0.005, low=-0.96, high=0.97)
        assert "-0.0 " not in self.sentence(difference=-0.001)

    def test_the_line_of_the_fit(self):
        line = analyse(BY_HAND).diagnostics()
        assert line.startswith("Residual SD 0.71 points with 4 degrees of freedom; SD between seeds 1.08; ")
        assert "largest standardised residual 1.4 (" in line
        assert analyse({"none": [1], "a": [2]}).diagnostics().startswith("No residual")

    def test_json_is_plain_and_holds_the_sentences(self):
        analysis = analyse({**BY_HAND, "c": [None, 91, 92], "d": [None] * 3}, seeds=[1, 2, 3])
        plain = analysis.to_json()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert [row["sentence"] for row in plain["differences"]] == [row.sentence() for row in analysis.differences]
        assert plain["diagnostics"] == analysis.diagnostics()
        assert plain["arms"][3]["scores"] == [None, 91, 92]

    def test_the_method_is_short(self):
        assert 90 <= len(METHOD.split()) <= 150
        assert "\n" not in METHOD


class TestWrongUse:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"baseline": "nome"}, "'nome' is no arm of this study: none, a, b. Did you mean 'none'"),
            ({"controls": {"c"}}, "'c' is no arm of this study"),
            ({"correct": {"x": np.ones((3, 5))}}, "'x' is no arm of this study"),
            ({"correct": {"a": np.ones((2, 5))}}, r"correct\['a'\] is \(2, 5\); every arm needs \(3 seeds"),
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


class TestSimulation:
    """Of a thousand studies, a share of p per cent has a standard error of sqrt(p(100-p)/1000): 0.7 at 5, 1.3 at 80."""

    def figures(self, kind="normal", seeds=3, **changes):
        return simulation.simulate(kind, seeds, 1000, simulation.Scale(), np.random.default_rng(22), **changes)

    @pytest.mark.parametrize("seeds", [3, 5])
    @pytest.mark.parametrize("kind", ["normal", "t5", "skewed"])
    def test_keeps_its_word(self, kind, seeds):
        figures = self.figures(kind, seeds)
        assert 1.5 < figures.any_false <= 7
        assert 93.5 <= figures.coverage <= 96.5
        assert 75 <= figures.found_planned <= 85
        assert 75 <= figures.found_stated <= 85
        assert figures.false_equal <= 4
        assert 1 <= figures.false_inside <= 4

    @pytest.mark.parametrize("seeds", [2, 3])
    def test_controls_do_not_make_it_lie(self, seeds):
        figures = self.figures(seeds=seeds, controls=2)
        assert figures.any_false <= 7
        assert 93.5 <= figures.coverage <= 96.5
        assert 75 <= figures.found_stated <= 85

    def test_without_holm_it_would_lie(self):
        def uncorrected(*args, family, **rest):
            return judge(*args, family=np.zeros_like(family), **rest)

        assert self.figures(judging=uncorrected).any_false > 9

    def test_with_the_normal_instead_of_t_it_would_lie(self):
        def normal(differences, se, df, **rest):
            return judge(differences, se, 10**7, **rest)

        figures = self.figures(judging=normal)
        assert figures.coverage < 92
        assert figures.any_false > 8

    def test_with_runs_counted_as_degrees_of_freedom_it_would_lie(self):
        wrong = replace(Design.of(np.ones((4, 3))), df=4 * 3 - 1)
        figures = self.figures(design=wrong)
        assert figures.coverage < 90
        assert figures.any_false > 8

    def test_the_seeds_named_would_decide(self):
        """With the seeds asked for, four studies in five decide, by difference or by equality."""
        scale = simulation.Scale(sigma=0.8)
        for difference, ways in ((1.3, {"helps"}), (0.1, {"equal", "helps", "hurts"})):
            seeds = seeds_needed(difference, sigma=scale.sigma, seeds=3, arms=4, mechanisms=3, margin=1.0)
            design = Design.of(np.ones((4, seeds)))
            noise = scale.sigma * simulation.noise("normal", (1000, 4, seeds), np.random.default_rng(23))
            noise[:, 1] += difference
            fitted = fit(noise, design)
            tests = judge(
                fitted.differences[:, 1:], fitted.se[:, 1:], design.df, family=np.ones(3), margin=1.0, alpha=0.05
            )
            assert 0.76 <= np.isin(tests.verdict[:, 0], list(ways)).mean() <= 0.90

    def test_images_alone_would_fool_a_study_without_the_floor(self):
        figures = simulation.simulate_images(5, 200, 400, np.random.default_rng(24), taste=1.0, run_sd=0.0)
        assert figures["any false, no floor"] > 12
        assert figures["any false, floor"] < 6
        assert figures["coverage, floor"] > 94
        assert figures["floor binds"] > 80

    def test_the_scale_of_a_measured_study(self, tmp_path):
        rng = np.random.default_rng(25)
        correct = {name: rng.random((10, 300)) < 0.9 for name in ("none", "m1", "m2", "m3")}
        analysis = analyse(draw(25, seeds=10, sigma=0.6), correct=correct)
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"analysis": analysis.to_json()}))
        scale = simulation.measured(path, None)
        assert (scale.sigma, scale.seed_sd, scale.images) == (analysis.sigma, analysis.seed_sd, 300)
        path.write_text(json.dumps({"analysis": analyse(draw(25, seeds=9)).to_json()}))
        with pytest.raises(SystemExit, match="9 seeds"):
            simulation.measured(path, 300)
        with pytest.raises(SystemExit, match="gives no scale"):
            simulation.measured(tmp_path / "nowhere.json", None)
