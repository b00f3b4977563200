"""Statistics of metrics other than top-1: units, directions, bounds, trivial predictor, intervals without verdicts."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from example_studies import BY_HAND, PIXELS, TOP1, analyse, draw, rows

from saccade.metrics.metric import Metric
from saccade.study.precision import image_df, image_floor, image_sd, squared_image_error, squared_image_error_of
from saccade.study.stats import intervals

RNG = np.random.default_rng(40)
PLAIN = Metric(name="AUROC", unit="", margin=0.01, low=0.0, high=1.0, digits=4, score=len)


def errors(seed, arms=4, seeds=3, images=60, gains=()):
    """Per-image errors in pixels (arms, seeds, images), and their means; lower is better."""
    rng = np.random.default_rng(seed)
    gain = np.zeros(arms)
    gain[: len(gains)] = gains
    values = 5 - gain[:, None, None] + rng.normal(0, 0.1, (arms, seeds, 1)) + rng.gamma(2, 1, images)
    values = values + rng.normal(0, 0.3, (arms, 1, images)) + rng.normal(0, 0.3, (arms, seeds, images))
    names = ["none", *(f"m{a}" for a in range(1, arms))]
    return dict(zip(names, values.mean(axis=2), strict=True)), dict(zip(names, values, strict=True))


class TestDirection:
    def test_lower_errors_give_positive_differences(self):
        scores, values = errors(1, gains=(0, 1.0, -1.0))
        analysis = analyse(scores, metric=PIXELS, values=values)
        found = rows(analysis)
        assert (found["m1"].verdict, found["m2"].verdict) == ("helps", "hurts")
        assert found["m1"].difference == pytest.approx(scores["none"].mean() - scores["m1"].mean())
        assert found["m1"].raw == pytest.approx(tuple(scores["none"] - scores["m1"]))
        assert analysis.arms[1].mean == pytest.approx(scores["m1"].mean())
        assert analysis.arms[1].scores == pytest.approx(tuple(scores["m1"]))

    def test_negated_scores_with_the_other_direction_give_the_same(self):
        """Negating the scores and the direction changes nothing."""
        scores, values = errors(2, gains=(0, 0.3))
        scores["m3"][1] = math.nan
        lower = analyse(scores, metric=PIXELS, values=values)
        turned = {name: -row for name, row in scores.items()}, {name: -row for name, row in values.items()}
        higher = analyse(turned[0], metric=replace(PIXELS, higher_is_better=True), values=turned[1])
        for one, other in zip(lower.differences, higher.differences, strict=True):
            assert replace(one, higher_is_better=True) == other
        assert lower.sigma == higher.sigma
        wrong = analyse(turned[0], metric=PIXELS, values=turned[1])
        for one, other in zip(lower.differences, wrong.differences, strict=True):
            assert one.difference == pytest.approx(-other.difference)  # turned once

    def test_sentences_of_an_error(self):
        scores, values = errors(1, gains=(0, 1.0, -1.0))
        found = rows(analyse(scores, metric=PIXELS, values=values))
        words = found["m1"].sentence()
        assert words.startswith(f"m1: helps. {found['m1'].difference:.2f} px better (95 % interval +")
        assert ", + is better, 3 seeds, Holm p" in words
        assert f"{-found['m2'].difference:.2f} px worse (95 % interval -" in found["m2"].sentence()
        assert "+ is better" not in rows(analyse(BY_HAND))["a"].sentence()
        one = analyse({"none": [5.0], "a": [4.5]}, metric=PIXELS).differences[0]
        assert one.sentence().startswith("a: not decided. 0.50 px better against none.")


class TestUnit:
    def test_sentences_of_a_metric_without_a_unit(self):
        scores = {name: np.array(row) / 100 for name, row in BY_HAND.items()}
        analysis = analyse(scores, metric=PLAIN)
        assert analysis.differences[0].sentence() == (
            "a: not decided. +0.020 (95 % interval +0.004 to +0.036, 3 seeds); the interval excludes zero, but the "
            "difference is not significant after correction for 2 comparisons; this study could have detected "
            "differences of 0.026; about 5 seeds would "
            "decide."
        )
        assert analysis.diagnostics().startswith("Residual SD 0.0071 with 4 degrees")
        equal = replace(analysis.differences[0], verdict="equal", low=-0.004, high=0.008, difference=0.002)
        assert "equal to none within ±0.01. +0.002 (" in equal.sentence()

    def test_the_scale_does_not_matter(self):
        """Top-1 as a fraction: all figures are a hundredth, all tests the same."""
        rng = np.random.default_rng(41)
        correct = {name: rng.random((3, 90)) < 0.5 + 0.4 * rng.random(90) for name in ("none", "m1", "m2")}
        scores = {name: 100 * right.mean(axis=1) for name, right in correct.items()}
        points = analyse(scores, correct=correct)
        shares = analyse(
            {name: row / 100 for name, row in scores.items()},
            metric=PLAIN,
            values={name: right.astype(float) for name, right in correct.items()},
        )
        for one, other in zip(points.differences, shares.differences, strict=True):
            assert (one.p, one.p_holm, one.df) == pytest.approx((other.p, other.p_holm, other.df))
            assert (one.se, one.low) == pytest.approx((100 * other.se, 100 * other.low))
            assert (one.verdict, one.seeds_needed, one.images_needed) == (
                other.verdict, other.seeds_needed, other.images_needed
            )  # fmt: skip

    def test_small_scores_are_not_treated_as_rounding_error(self):
        """Zero is relative: differences of 1e-11 count where scores are of that size, and not beside 90."""
        tiny = {name: 1e-11 * np.array(row) for name, row in draw(42).items()}
        assert analyse(tiny, metric=replace(PIXELS, margin=1e-13)).sigma > 0
        rounded = {"none": [90.0, 91, 90], "a": [90.0 + 1e-13, 91, 90]}
        assert analyse(rounded).sigma == 0

    def test_margin(self):
        assert analyse(BY_HAND, metric=PIXELS).margin == 0.25
        assert analyse(BY_HAND, metric=PIXELS, margin=2).margin == 2
        with pytest.raises(Exception, match="margin must be a positive number of px, got 0"):
            analyse(BY_HAND, metric=PIXELS, margin=0)
        with pytest.raises(Exception, match="margin must be a positive number, got 0"):
            analyse(BY_HAND, metric=PLAIN, margin=0)

    def test_json(self):
        plain = analyse(BY_HAND, metric=PIXELS).to_json()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert (plain["unit"], plain["differences"][0]["higher_is_better"]) == ("px", False)


class TestFloor:
    def test_by_span(self):
        assert image_floor(2, 1.0) == pytest.approx(2 / 16)

    def test_of_an_unbounded_metric_by_the_sd_of_the_baseline(self):
        """Arms that agree on all images: se² = 2 SD² / (n + 2)², SD² the mean variance of the baseline's rows."""
        values = np.array([[1.0, 2.0, 6.0, 3.0], [2.0, 2.0, 4.0, 4.0]])
        scores = {"none": values.mean(axis=1), "a": values.mean(axis=1)}
        row = rows(analyse(scores, metric=PIXELS, values={"none": values, "a": values}))["a"]
        sd2 = (values[0].var(ddof=1) + values[1].var(ddof=1)) / 2
        assert row.se == pytest.approx(math.sqrt(2 * sd2) / 6)
        bounded = replace(PIXELS, high=10.0)
        row = rows(analyse(scores, metric=bounded, values={"none": values, "a": values}))["a"]
        assert row.se == pytest.approx(math.sqrt(2) * 10 / 6)

    def test_blocks_count_their_images(self):
        """Forty blocks of 25 images have the floor of a thousand images and the SD of one image."""
        values = np.random.default_rng(43).normal(0, 2, (3, 1000))
        blocks = values.reshape(3, 40, 25).mean(axis=2)
        assert image_sd(blocks, 1000) == pytest.approx(image_sd(values, 1000), rel=0.2)
        scores = {"none": values.mean(axis=1), "a": values.mean(axis=1)}
        analysis = analyse(scores, metric=PIXELS, values={"none": blocks, "a": blocks}, sizes=[25] * 40)
        assert analysis.images == 1000
        assert rows(analysis)["a"].se == pytest.approx(math.sqrt(image_floor(1000, image_sd(blocks, 1000))))
        assert rows(analysis)["a"].df == pytest.approx(39)


class TestUnits:
    def test_degrees_of_freedom(self):
        assert image_df([1] * 50) == pytest.approx(49)
        assert image_df([7] * 9) == pytest.approx(8)
        assert image_df([5]) == image_df([5, 9]) == 1
        # sizes 1, 1, 2: squares 1, 1, 4, Σ 6, Σ of their squares 18; γ = 3 (3 · 18 / 36 - 1) = 1.5
        assert image_df([1, 1, 2]) == pytest.approx(2 / (1.5 / 3 + 2 / 2))
        assert image_df([3, 4, 6, 7, 8, 9, 10, 12, 13]) == pytest.approx(4.8, abs=0.1)

    def test_group_sizes_change_the_interval(self):
        _, values = errors(3, arms=2, images=5)
        scores = {name: row.mean(axis=1) for name, row in values.items()}
        even, uneven = (
            rows(analyse(scores, metric=PIXELS, values=values, sizes=sizes))["m1"]
            for sizes in ([4] * 5, [1, 1, 2, 2, 14])
        )
        assert uneven.df < even.df

    def test_units_without_a_score_are_left_out_and_reported(self):
        scores, values = errors(4)
        whole = analyse(scores, metric=PIXELS, values=values)
        broken = {name: row.copy() for name, row in values.items()}
        broken["m1"][0, [3, 7]] = math.nan
        broken["none"][:, 9] = math.nan
        found = analyse(scores, metric=PIXELS, values=broken)
        d = np.delete(values["m1"] - values["none"], [3, 7, 9], axis=1)
        assert rows(found)["m1"].se_images == pytest.approx(math.sqrt(squared_image_error_of(d)))
        assert rows(found)["m1"].se_images != pytest.approx(rows(whole)["m1"].se_images, rel=1e-6)
        assert "The score is undefined without 3 of 60 test images or groups" in "\n".join(found.notes)
        assert "score is undefined" not in "\n".join(whole.notes)

    def test_a_run_without_values_is_left_out_of_the_image_error(self):
        scores, values = errors(5)
        values["m1"][1] = math.nan
        found = analyse(scores, metric=PIXELS, values=values)
        d = (values["m1"] - values["none"])[[0, 2]]
        assert rows(found)["m1"].se_images == pytest.approx(math.sqrt(squared_image_error_of(d)))
        assert "score is undefined" not in "\n".join(found.notes)

    def test_without_units_only_the_seeds_count(self):
        scores, values = errors(5, arms=2)
        values["m1"] = np.full_like(values["m1"], math.nan)
        assert math.isnan(squared_image_error_of(values["m1"]))
        row = rows(analyse(scores, metric=PIXELS, values=values))["m1"]
        assert row.se == pytest.approx(rows(analyse(scores, metric=PIXELS))["m1"].se)

    def test_rows_of_runs_without_a_score_may_hold_nan(self):
        scores, values = errors(6)
        scores["m1"][1], values["m1"][1] = math.nan, math.nan
        analysis = analyse(scores, metric=PIXELS, values=values)
        assert rows(analysis)["m1"].se_images > 0
        assert "score is undefined" not in "\n".join(analysis.notes)


class TestReference:
    def test_a_baseline_within_noise_of_the_trivial_answer_gets_no_verdicts(self):
        """By hand: scores 11, 9, 13 have the mean 11 and s² = 4, so 2 se = 2 √(4/3) = 2.31 without images."""
        scores = {"none": [11.0, 9.0, 13.0], "a": [31.0, 29.0, 33.1], "b": [None, 9.0, 12.0]}
        free = analyse(scores)
        assert rows(free)["a"].verdict == "helps"
        assert analyse(scores, trivial=("always cat", 8.6)) == free
        withheld = analyse(scores, trivial=("always cat", 8.8))
        assert {row.verdict for row in withheld.differences} == {None}
        assert rows(withheld)["b"].sentence().startswith("b: not judged. -0.5 points (95 % interval")
        a = rows(withheld)["a"]
        assert (a.low, a.high, a.raw, a.seeds_needed) == (rows(free)["a"].low, rows(free)["a"].high, a.raw, None)
        assert a.sentence().startswith("a: not judged. +20.0 points (95 % interval ")
        assert a.sentence().endswith("3 seeds).")
        assert withheld.not_learnt == (
            "none scores 11.00 %, the trivial answer (always cat) 8.80 %: the host has not learnt the task, so no arm "
            "is judged (two standard errors are 2.31 %)."
        )
        assert (withheld.notes, free.not_learnt) == (free.notes, None)
        plain = withheld.to_json()
        assert (plain["not_learnt"], plain["differences"][0]["verdict"]) == (withheld.not_learnt, None)

    def test_the_image_error_adds_to_the_noise(self):
        rng = np.random.default_rng(44)
        right = {name: np.stack([rng.random(50) < 0.5] * 3) for name in ("none", "a")}
        scores = {name: 100 * row.mean(axis=1) for name, row in right.items()}
        noise = 2 * math.sqrt(right["none"][0].var(ddof=1) / 50) * 100
        just = scores["none"][0] - noise
        assert analyse(scores, correct=right, trivial=("chance", just - 0.1)).not_learnt is None
        assert analyse(scores, correct=right, trivial=("chance", just + 0.1)).not_learnt is not None

    def test_trivial_score_of_an_error_metric(self):
        scores, values = errors(7)
        mean = scores["none"].mean()
        for trivial, learnt in ((mean + 5, True), (mean + 0.01, False), (mean - 5, False)):
            found = analyse(scores, metric=PIXELS, values=values, trivial=("zero", trivial))
            assert (found.not_learnt is None) == learnt

    def test_a_host_that_learnt_is_judged(self):
        assert analyse(BY_HAND, trivial=("always 3", 10.0)) == analyse(BY_HAND)


class TestIntervals:
    def test_intervals_equal_those_of_analyse(self):
        scores, values = errors(8, gains=(0, 1.0))
        judged = analyse(scores, metric=PIXELS, values=values)
        found = intervals(scores, metric=PIXELS, values=values)
        for one, other in zip(judged.differences, found, strict=True):
            plain = asdict(other)
            assert plain == {name: value for name, value in asdict(one).items() if name in plain}
            assert not {"verdict", "p", "p_holm"} & plain.keys()
        assert found[0].sentence() == (
            f"m1: {judged.differences[0].difference:.2f} px better (95 % interval {found[0].low:+.2f} to "
            f"{found[0].high:+.2f}, + is better, 3 seeds)."
        )

    def test_without_an_interval(self):
        one, none = intervals({"none": [90.0], "a": [91.0], "b": [None]}, metric=TOP1)
        assert one.sentence().startswith("a: +1.0 points against none. One seed")
        assert none.sentence() == "b: No run of b has a score."


def test_squared_image_error_of_complete_units():
    d = RNG.normal(0, 1, (3, 40))
    of_unit = d.mean(axis=0)
    rest = d - of_unit - d.mean(axis=1, keepdims=True) + d.mean()
    expected = squared_image_error(of_unit.var(ddof=1), np.square(rest).sum() / (2 * 39), 3, 40)
    assert squared_image_error_of(d) == pytest.approx(expected)
