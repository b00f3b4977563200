"""Pseudo-values: by hand, against each other, and against the bootstrap."""

import numpy as np
import pytest

from saccade.study.pseudovalues import BLOCKS, MAX_UNITS, from_values, jackknife, unit_sizes

GROUPS = ["b", "a", "b", "c", "a", "b"]
VALUES = np.array([1.0, 4.0, 3.0, 8.0, 0.0, 5.0])


class TestByHand:
    def test_per_image_values_are_their_pseudo_values(self):
        assert from_values(VALUES).tolist() == VALUES.tolist()
        assert unit_sizes(6, jackknifed=False).tolist() == [1] * 6

    def test_groups_of_unequal_size(self):
        # s = 21/6 = 3.5; without a (4, 0): 17/4 = 4.25; without b (1, 3, 5): 12/3 = 4; without c (8): 13/5 = 2.6
        expected = [3 * 3.5 - 2 * 4.25, 3 * 3.5 - 2 * 4, 3 * 3.5 - 2 * 2.6]
        assert from_values(VALUES, GROUPS) == pytest.approx(expected)
        assert unit_sizes(6, GROUPS, jackknifed=True).tolist() == [2, 3, 1]

    def test_groups_of_equal_size_are_their_means(self):
        assert from_values(VALUES, [0, 0, 1, 1, 2, 2]) == pytest.approx([2.5, 5.5, 2.5])

    def test_a_score_that_is_not_a_mean(self):
        # the range of 1, 4, 9: 8; without 1: 5, without 4: 8, without 9: 3
        values = np.array([1.0, 4.0, 9.0])
        assert jackknife(lambda kept: np.ptp(values[kept]), 3).tolist() == [3 * 8 - 2 * 5, 8, 3 * 8 - 2 * 3]

    @pytest.mark.parametrize("groups", [None, GROUPS])
    def test_the_jackknife_of_a_mean_is_its_values(self, groups):
        seen = jackknife(lambda kept: VALUES[kept].mean(), 6, groups)
        assert seen == pytest.approx(from_values(VALUES, groups), abs=1e-12)

    def test_one_unit_is_the_score(self):
        assert jackknife(lambda kept: VALUES[kept].mean(), 1).tolist() == [1]
        assert jackknife(lambda kept: VALUES[kept].mean(), 6, ["a"] * 6).tolist() == [3.5]
        assert from_values(VALUES, ["a"] * 6).tolist() == [3.5]

    def test_groups_of_another_length(self):
        with pytest.raises(ValueError, match=r"each of 6 images, got \(5,\)"):
            from_values(VALUES, GROUPS[:5])


class TestBlocks:
    @pytest.mark.parametrize(
        ("n", "units"), [(1, 1), (29, 29), (MAX_UNITS, MAX_UNITS), (MAX_UNITS + 1, BLOCKS), (2000, BLOCKS)]
    )
    def test_number_of_units(self, n, units):
        kept = []
        assert len(jackknife(lambda index: kept.append(index) or 1.0, n)) == units
        sizes = unit_sizes(n, jackknifed=True)
        assert (len(sizes), sizes.sum()) == (units, n)
        assert sizes.max() - sizes.min() <= 1
        if units > 1:
            left = [np.setdiff1d(np.arange(n), index) for index in kept[1:]]
            assert sorted(np.concatenate(left).tolist()) == list(range(n))  # each image is left out once
            assert [len(out) for out in left] == sizes.tolist()
        assert [index for index in kept if (np.diff(index) <= 0).any()] == []

    def test_blocks_are_random_and_reproducible(self):
        kept = []
        for _ in range(2):
            jackknife(lambda index: kept.append(index) or 1.0, 1000)
        first = np.setdiff1d(np.arange(1000), kept[1])
        assert first.tolist() == np.setdiff1d(np.arange(1000), kept[52]).tolist()
        assert len(set(np.diff(first).tolist())) > 5

    def test_groups_are_not_split(self):
        groups = np.arange(1800) // 3
        kept = []
        assert len(jackknife(lambda index: kept.append(index) or 1.0, 1800, groups)) == BLOCKS
        for index in kept[1:]:
            assert not set(groups[index]) & set(groups[np.setdiff1d(np.arange(1800), index)])
        assert unit_sizes(1800, groups, jackknifed=True).tolist() == [36] * BLOCKS
        assert unit_sizes(1800, groups, jackknifed=False).tolist() == [3] * 600

    def test_blocks_give_the_variance_of_single_images(self):
        """Of the mean: variance / units estimates the same by either; 49 degrees of freedom scatter by a fifth."""
        values = np.random.default_rng(3).exponential(1.0, 5000)
        blocks = jackknife(lambda kept: values[kept].mean(), 5000)
        assert blocks.var(ddof=1) / BLOCKS == pytest.approx(values.var(ddof=1) / 5000, rel=0.5)
        assert blocks.mean() == pytest.approx(values.mean())


def average_precision(confidence, hit, of, objects):
    """Score of the images at an index, each as often as it is there: area under the step curve, per cent.

    Detections are ragged: ``of`` is the image of each.
    """
    order = np.argsort(-confidence)

    def score(index):
        times = np.bincount(index, minlength=len(objects))
        weight = times[of[order]]
        found = np.cumsum(hit[order] * weight)
        return 100 * (hit[order] * weight * found / np.maximum(np.cumsum(weight), 1)).sum() / (times @ objects)

    return score


class TestAgainstTheBootstrap:
    @pytest.mark.parametrize("images", [72, 150])
    def test_the_paired_error_of_ap(self, images):
        """Two detectors on the same images; the bootstrap resamples images 400 times."""
        rng = np.random.default_rng(images)
        objects = rng.poisson(1.5, images) + 1
        counts = objects + rng.poisson(1.0, images)
        of = np.repeat(np.arange(images), counts)
        hit = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) < objects[of]
        skill = 1 + rng.standard_normal(images)[of] + 0.7 * rng.standard_normal(len(of))
        one, other = (
            average_precision(np.where(hit, 1, -1) * (skill + 0.8 * rng.standard_normal(len(of))), hit, of, objects)
            for _ in range(2)
        )
        error = (jackknife(one, images) - jackknife(other, images)).std(ddof=1) / np.sqrt(images)
        drawn = [one(index) - other(index) for index in rng.integers(0, images, (400, images))]
        assert error == pytest.approx(np.std(drawn), rel=0.2)
        unpaired = np.hypot(*(jackknife(arm, images).std(ddof=1) for arm in (one, other))) / np.sqrt(images)
        assert unpaired > 1.5 * error  # the twin: what pairing takes away


class TestAScoreThatFails:
    def test_a_unit_that_cannot_be_left_out_is_nan(self):
        """The share of positives above all negatives, with one negative: without it nothing is below."""
        values, positive = np.array([3.0, 1.0, 2.0, 0.5]), np.array([True, True, False, True])

        def score(kept):
            below = values[kept][~positive[kept]]
            return np.nan if len(below) == 0 else float((values[kept][positive[kept]] > below.max()).mean())

        found = jackknife(score, 4)
        assert np.isnan(found).tolist() == [False, False, True, False]
        assert found[0] == pytest.approx(4 / 3 - 0)

    def test_infinite_scores_are_nan(self):
        assert np.isnan(jackknife(lambda kept: 1.0 if 0 in kept else np.inf, 3)).tolist() == [True, False, False]
