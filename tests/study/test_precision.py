"""Error from the test images, its sum with that from the seeds, and the power of a study."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from example_studies import analyse, draw, rows

from saccade.study.blocks import moderated_df
from saccade.study.precision import (
    ImageError,
    detectable_multiplier,
    image_floor,
    more_images_needed,
    planned_detectable,
    satterthwaite,
    seeds_needed,
    squared_image_error,
    standard_error,
    variance_components,
)


def difference(arm, none):
    """Return the differences of right answers, in points."""
    return 100.0 * arm - 100.0 * none


class TestImages:
    """Standard error from the paired test images."""

    def test_by_hand(self):
        none = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=bool)
        arm = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], dtype=bool)
        # d is 0, 0, 1, 0 and 0, 1, 1, -1: means over seeds 0, 1/2, 1, -1/2 with squares of deviations 1.25, over 3;
        # both seeds have the mean 1/4, so what is left are four halves, whose squares are 1, over 3 · 1.
        between, within = variance_components(difference(arm, none))
        assert (between, within) == pytest.approx((1e4 * 1.25 / 3, 1e4 / 3))
        assert squared_image_error(between, within, 2, 4) == pytest.approx(1e4 * (1.25 / 3 - 1 / 6) / 4)

    def test_one_seed_is_mcnemar(self):
        rng = np.random.default_rng(13)
        none, arm = rng.random((2, 1, 500)) < 0.85
        gained, lost = (arm & ~none).sum(), (none & ~arm).sum()
        variance = (gained + lost - (gained - lost) ** 2 / 500) / 499
        assert variance_components(difference(arm, none)) == pytest.approx((1e4 * variance, 0))

    def test_a_shift_of_all_images_adds_no_image_error(self):
        none = np.ones((2, 30), dtype=bool)
        arm = none.copy()
        arm[1] = False
        assert variance_components(difference(arm, none)) == (0, 0)
        arm[1, 0] = True  # the twin: one image that does not follow
        assert min(variance_components(difference(arm, none))) > 0

    @pytest.mark.parametrize("apart", [True, False])
    def test_the_image_error_is_unbiased(self, apart):
        """The probability to be right is uniform per image and arm; the difference of two has the variance 1/6."""
        rng = np.random.default_rng(31)
        found = []
        for _ in range(400):
            of_none = rng.random(200)
            of_arm = rng.random(200) if apart else of_none
            between, within = variance_components(
                difference(rng.random((3, 200)) < of_arm, rng.random((3, 200)) < of_none)
            )
            found.append(between - within / 3)
        assert np.mean(found) == pytest.approx(1e4 / 6 if apart else 0, abs=1e4 * 0.006)  # four standard errors

    def test_the_image_error_is_never_negative(self):
        none = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)
        between, within = variance_components(
            difference(~none, none)
        )  # every image flips with the seed, none lastingly
        assert between - within / 2 < 0
        assert squared_image_error(between, within, 2, 4) == 0

    def test_agreeing_images_still_have_an_error(self):
        # two pseudo images beside two: d = 0, 0, +1, -1, mean 0, variance 2/4 over 4 images
        assert image_floor(2, 100) == pytest.approx(1e4 * (2 / 4) / 4)
        right = np.ones((5, 1), dtype=bool)
        assert variance_components(difference(right, right)) == (0, 0)
        row = rows(analyse({"none": [100] * 5, "a": [100] * 5}, correct={"none": right, "a": right}))["a"]
        assert row.se == pytest.approx(math.sqrt(2e4) / 3)

    @pytest.mark.parametrize(("images", "verdict"), [(2, "not decided"), (100, "not decided"), (2000, "equal")])
    def test_few_images_never_give_equal(self, images, verdict):
        """se = 100 √2 / (n + 2) points, t with n - 1 degrees of freedom: ±449, ±2.75 and ±0.14 points."""
        right = np.ones((5, images), dtype=bool)
        row = rows(analyse({"none": [100] * 5, "a": [100] * 5}, correct={"none": right, "a": right}))["a"]
        assert row.verdict == verdict
        assert row.se_from == "images"
        assert row.df == pytest.approx(images - 1)
        half = scipy.stats.t.isf(0.025, images - 1) * 100 * math.sqrt(2) / (images + 2)
        assert row.high == -row.low == pytest.approx(half)

    def test_both_errors_add_up(self):
        rng = np.random.default_rng(14)
        correct = {name: (rng.random(400) < 0.9) ^ (rng.random((3, 400)) < 0.02) for name in ("none", "a", "b")}
        scores = {"none": [90, 90.5, 91], "a": [93.5, 94, 95.5], "b": [90.6, 91, 91.4]}
        with_images, without = analyse(scores, correct=correct), analyse(scores)
        for name, row in rows(with_images).items():
            free = rows(without)[name]
            lasting = squared_image_error(*variance_components(difference(correct[name], correct["none"])), 3, 400)
            assert row.se == pytest.approx(math.sqrt(free.se**2 + lasting))
            assert row.se_images == pytest.approx(math.sqrt(lasting))
            assert row.df == pytest.approx(float(satterthwaite(free.se**2, free.df, lasting, 399)))
            assert row.p == pytest.approx(2 * scipy.stats.t.sf(abs(row.difference) / row.se, row.df))
            assert (row.se_from, free.se_from, free.se_images) == ("images", "seeds", 0)
            assert row.low < free.low < free.high < row.high
            assert row.detectable > free.detectable
        assert (rows(with_images)["a"].verdict, rows(without)["a"].verdict) == ("not decided", "helps")
        assert with_images.images == 400
        assert without.images is None
        assert "For a, b the larger part of the standard error comes from the test images" in with_images.notes[-1]

    def test_images_without_a_difference_change_nothing(self):
        rng = np.random.default_rng(15)
        none = rng.random((3, 100_000)) < 0.9
        scores = {"none": [88, 92, 90], "a": [92, 88, 91]}
        assert analyse(scores, correct={"none": none, "a": none}).differences == analyse(scores).differences
        lasting = {"none": np.stack([none[0]] * 3), "a": np.zeros_like(none)}  # the twin: the same tenth at every seed
        assert analyse(scores, correct=lasting).differences != analyse(scores).differences

    def test_an_arm_without_pseudo_values_has_the_error_of_its_seeds(self):
        rng = np.random.default_rng(17)
        correct = {name: rng.random((3, 300)) < 0.6 + 0.3 * rng.random(300) for name in ("none", "a")}
        scores = {"none": [70.0, 72, 71], "a": [73.0, 72, 71], "b": [71.0, 70, 73]}
        found, free = rows(analyse(scores, correct=correct)), rows(analyse(scores))
        assert replace(found["b"], p_holm=None) == replace(free["b"], p_holm=None)
        assert found["a"].se > free["a"].se

    def test_rows_of_absent_runs_are_not_read(self):
        rng = np.random.default_rng(16)
        correct = {name: rng.random((3, 50)) < 0.7 for name in ("none", "a", "b")}
        scores = {"none": [70.0, 70, 71], "a": [70.0, 70, math.nan], "b": [71.0, 70, 71]}
        first = analyse(scores, correct=correct)
        correct["a"] = correct["a"] & np.array([[True], [True], [False]])
        assert analyse(scores, correct=correct) == first
        correct["a"] = correct["a"] & np.array([[True], [False], [True]])
        assert analyse(scores, correct=correct) != first


class TestStandardError:
    def test_degrees_of_freedom_by_hand(self):
        # parts 4 and 1 with 4 and 10 degrees of freedom enter as 4 · 3/2 = 6 and 1 · 6/5 = 1.2: 7.2² / (36/4 + 1.44/10)
        assert satterthwaite(4, 4, 1, 10) == pytest.approx(51.84 / 9.144)
        assert satterthwaite(1, 10, 4, 4) == pytest.approx(51.84 / 9.144)

    def test_df_lies_between_those_of_the_parts(self):
        assert satterthwaite([3, 0, 0], 4, [0, 3, 0], 50).tolist() == pytest.approx([4, 50, 4])
        shares = satterthwaite(np.linspace(1, 0, 20), 4, np.linspace(0, 1, 20), 4000)
        assert (np.diff(shares) > 0).all()

    def test_equal_parts_with_many_degrees_of_freedom_add(self):
        assert satterthwaite(2, 500, 2, 500) == pytest.approx(1000)

    def test_df_agrees_with_welch(self):
        rng = np.random.default_rng(32)
        x, y = rng.normal(0, 1, 3000), rng.normal(0, 3, 4000)
        df = satterthwaite(x.var(ddof=1) / 3000, 2999, y.var(ddof=1) / 4000, 3999)
        assert df == pytest.approx(scipy.stats.ttest_ind(x, y, equal_var=False).df, rel=1e-3)

    def test_without_image_error_only_the_seeds_count(self):
        seeds, df = np.array([0.5, 0.7, np.nan]), np.array([4.0, 3.9, 0.0])
        for images in (None, ImageError(0.0, 99_999)):
            se, whole_df, lasts = standard_error(seeds, df, images)
            assert se == pytest.approx(seeds, nan_ok=True)
            assert whole_df[:2].tolist() == df[:2].tolist()
            assert lasts[:2].tolist() == [0, 0]

    def test_the_floor_bounds_the_total_error(self):
        low = math.sqrt(image_floor(1000, 100))
        assert standard_error(2 * low, 4, ImageError(0.0, 999, low**2))[0] == pytest.approx(2 * low)
        se, df, lasts = standard_error(0.6 * low, 4, ImageError(0.0, 999, low**2))
        assert (se, lasts) == (pytest.approx(low), pytest.approx(0.8 * low))
        assert 4 < df < 999


class TestPower:
    @pytest.mark.parametrize(("seeds", "arms", "mechanisms"), [(2, 2, 1), (3, 4, 3), (5, 5, 3), (20, 9, 7)])
    def test_planned_is_the_noncentral_t(self, seeds, arms, mechanisms):
        df = float(moderated_df((arms - 1) * (seeds - 1), seeds - 1))
        shift = planned_detectable(0.7, seeds, arms, mechanisms) / (0.7 * math.sqrt(2 / seeds))
        critical = scipy.stats.t.isf(0.05 / (2 * mechanisms), df)
        assert scipy.stats.nct.sf(critical, df, shift) == pytest.approx(0.8, abs=1e-6)

    def test_planned_by_table(self):
        # two arms, many seeds: z 1.95996 + 0.84162, known from every table of sample sizes
        assert planned_detectable(1.0, 20_000, 2, 1) == pytest.approx(2.80158 * math.sqrt(2 / 20_000), rel=1e-4)

    def test_planned_is_monotone(self):
        by_seeds = [planned_detectable(1.0, seeds, 4, 3) for seeds in range(2, 12)]
        assert by_seeds == sorted(by_seeds, reverse=True)
        assert planned_detectable(2.0, 3, 4, 3) == pytest.approx(2 * planned_detectable(1.0, 3, 4, 3))
        assert planned_detectable(1.0, 3, 6, 5) > planned_detectable(1.0, 3, 6, 4)  # a larger family
        assert planned_detectable(1.0, 3, 6, 3) < planned_detectable(1.0, 3, 4, 3)  # more controls, more residual
        assert planned_detectable(1.0, 1, 4, 3) == math.inf

    def test_planned_with_images(self):
        free = planned_detectable(0.6, 3, 4, 3)
        seeds = 0.6**2 * 2 / 3
        assert planned_detectable(0.6, 3, 4, 3, image_error=ImageError(0.0, 9999)) == free
        df = float(satterthwaite(seeds, moderated_df(6, 2), 3 * seeds, 999))
        shift = planned_detectable(0.6, 3, 4, 3, image_error=ImageError(3 * seeds, 999)) / math.sqrt(4 * seeds)
        assert scipy.stats.nct.sf(scipy.stats.t.isf(0.025 / 3, df), df, shift) == pytest.approx(0.8, abs=1e-6)
        # so many seeds leave the images alone, with 999 degrees of freedom
        alone = planned_detectable(0.6, 10**7, 2, 1, image_error=ImageError(0.04, 999))
        assert alone == pytest.approx(0.2 * (1.9623 + 0.8420), rel=1e-3)
        floor = image_floor(100, 100)
        assert planned_detectable(0.0, 3, 4, 3, image_error=ImageError(0.0, 99, floor)) > 2.8 * math.sqrt(floor)

    def test_stated_lies_below_planned_and_meets_it(self):
        for seeds in (2, 3, 5):
            stated = detectable_multiplier(moderated_df(3 * (seeds - 1), seeds - 1), 3)
            assert stated * math.sqrt(2 / seeds) < planned_detectable(1, seeds, 4, 3)
        assert detectable_multiplier(30_000, 3) * math.sqrt(2 / 10_001) == pytest.approx(
            planned_detectable(1, 10_001, 4, 3), rel=1e-4
        )

    def power(self, difference, seeds, sigma, arms, mechanisms, margin):
        """Return the probability of deciding in either way, from scipy.stats."""
        se, df = sigma * math.sqrt(2 / seeds), moderated_df((arms - 1) * (seeds - 1), seeds - 1)
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

    def test_more_seeds_do_not_replace_images(self):
        known = {"mechanisms": 3, "margin": 1.0}

        def error(lasting):
            return ImageError(lasting, 1999, image_floor(2000, 100))

        def needed(lasting):
            return seeds_needed(1.0, sigma=0.5, image_error=error(lasting), seeds=3, arms=4, **known)

        assert needed(0.05) > needed(0.0) > 3
        assert needed(0.3) is None  # 0.55 points remain at any number of seeds
        assert more_images_needed(1.0, image_error=error(0.3), **known)
        assert not more_images_needed(1.0, image_error=error(0.05), **known)
        assert not more_images_needed(1.0, image_error=None, **known)
        assert (
            seeds_needed(1.0, sigma=9.0, image_error=error(0.05), seeds=3, arms=4, **known) is None
        )  # the seeds' own fault

    def test_the_limit_of_more_seeds(self):
        """With many seeds the error is normal; 3 mechanisms need 2.394 + 0.842 standard errors."""
        known = {"mechanisms": 3, "margin": 0.01}
        assert not more_images_needed(1.0, image_error=ImageError((0.999 / 3.2356) ** 2, 10**6), **known)
        assert more_images_needed(1.0, image_error=ImageError((1.001 / 3.2356) ** 2, 10**6), **known)

    def test_few_images_need_more_images(self):
        rng = np.random.default_rng(33)
        lasting = {name: rng.random(150) < 0.8 for name in ("none", "a")}
        correct = {name: np.stack([row] * 4) for name, row in lasting.items()}
        scores = {name: 100 * row.mean() + rng.normal(0, 0.3, 4) for name, row in lasting.items()}
        row = rows(analyse(scores, correct=correct))["a"]
        assert (row.verdict, row.seeds_needed, row.images_needed) == ("not decided", None, True)
        assert row.sentence().endswith("; no number of seeds would decide, more test images would.")
        free = rows(analyse(scores))["a"]
        assert not free.images_needed

    def test_an_undecided_difference_is_below_the_detectable(self):
        undecided = [
            row
            for seed in range(300)
            for row in rows(analyse(draw(seed, sigma=0.6, gains=(0, 1.5, 0.7)))).values()
            if row.verdict == "not decided"
        ]
        assert len(undecided) > 100
        assert [row for row in undecided if abs(row.difference) >= row.detectable] == []
        assert [row for row in undecided if row.seeds_needed is not None and row.seeds_needed <= 3] == []
        assert [row for row in undecided if row.seeds_needed is not None]
