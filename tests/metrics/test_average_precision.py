"""Average precision by hand, against pycocotools, and without units against the rest of the images."""

import math

import numpy as np
import pytest
import torch

from coco_evaluation import boxes, evaluate, random_scenes
from saccade.metrics import average_precision
from saccade.metrics.average_precision import METRICS, by_class, score, score_without, scored_classes
from saccade.metrics.matching import match
from saccade.metrics.rows import select_images
from saccade.study.pseudovalues import pseudo_values

A, B, ELSEWHERE = (0, 0, 50, 50), (100, 0, 150, 50), (300, 300, 350, 350)
NOTHING = boxes(scores=[])
BY_HAND = {
    # predictions, truths, average precision: 51 recalls are at most 0.5, 50 are above
    "right, wrong, right": ([boxes(A, ELSEWHERE, B, scores=[0.9, 0.8, 0.7])], [boxes(A, B)], (51 + 50 * 2 / 3) / 101),
    "wrong, right, right": ([boxes(ELSEWHERE, A, B, scores=[0.9, 0.8, 0.7])], [boxes(A, B)], 2 / 3),
    "right, right, wrong": ([boxes(A, B, ELSEWHERE, scores=[0.9, 0.8, 0.7])], [boxes(A, B)], 1),
    "one of two": ([boxes(A, scores=[0.1])], [boxes(A, B)], 51 / 101),
    "one of three": ([boxes(A, scores=[0.1])], [boxes(A, B, ELSEWHERE)], 34 / 101),
    "a second detection is wrong": ([boxes(A, A, B, scores=[0.9, 0.8, 0.7])], [boxes(A, B)], (51 + 50 * 2 / 3) / 101),
    "IoU 0.72, five thresholds": ([boxes((0, 0, 50, 36), scores=[0.5])], [boxes(A)], 5 / 10),
    "an equal score, wrong first": ([boxes(A, scores=[0.5]), boxes(A, scores=[0.5])], [boxes(), boxes(A)], 1 / 2),
    "an equal score, right first": ([boxes(A, scores=[0.5]), boxes(A, scores=[0.5])], [boxes(A), boxes()], 1),
    "only wrong ones": ([boxes(ELSEWHERE, scores=[0.5])], [boxes(A)], 0),
    "no detection": ([NOTHING], [boxes(A)], 0),
    "two classes": ([boxes(A, scores=[0.5])], [boxes(A, B, labels=[0, 1])], 1 / 2),
    "a class without truths": ([boxes(A, B, labels=[0, 1], scores=[0.5, 0.5])], [boxes(A)], 1),
    "no truth": ([boxes(A, scores=[0.5])], [boxes()], math.nan),
    "nothing": ([NOTHING], [boxes()], math.nan),
    "a score that is no number": ([boxes(A, scores=[math.nan])], [boxes(A)], math.nan),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    predictions, truths, expected = BY_HAND[name]
    assert score(match(predictions, truths)) == pytest.approx(100 * expected, rel=1e-14, nan_ok=True)


def rows_with_scored(predictions, truths, n_classes):
    rows = match(predictions, truths)
    return rows | {"scored": scored_classes(rows, n_classes).repeat(len(truths), 1, 1)}


CASES = [
    {"seed": 0},
    {"seed": 1, "levels": 3},
    {"seed": 2, "levels": 1, "classes": 2},
    {"seed": 3, "classes": 30},
    {"seed": 4, "classes": 1, "truths": 40, "false": 150, "n": 6},
    {"seed": 5, "truths": 30, "false": 60, "levels": 20, "n": 8},
    {"seed": 6, "false": 0},
    {"seed": 7, "n": 1},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed {case['seed']}")
def test_equal_to_pycocotools_to_the_last_digit(case):
    predictions, truths = random_scenes(**case)
    rows, evaluator = match(predictions, truths), evaluate(predictions, truths)
    expected = [100 * value if value >= 0 else math.nan for value in evaluator.stats[:6]]
    assert [metric.score(rows) for metric in METRICS] == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert 0 < expected[0] < 100
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    labels = evaluator.params.catIds
    expected = [100 * p.mean() if p.min() >= 0 else math.nan for p in np.moveaxis(precision, 2, 0)]
    assert by_class(rows)[labels].tolist() == pytest.approx(expected, rel=1e-14, nan_ok=True)
    assert by_class(rows).isnan().sum() == len(by_class(rows)) - sum(value >= 0 for value in expected)


def test_the_metrics_have_the_names_of_coco():
    names = [metric.name for metric in METRICS]
    assert names == ["AP", "AP50", "AP75", "AP small", "AP medium", "AP large"]
    rows = match(*random_scenes(0))
    assert len({metric.compute(rows) for metric in METRICS}) == len(METRICS)
    assert METRICS[0].format(METRICS[0].compute(rows)).endswith(" %")


def without_slowly(metric, rows, units):
    """The score of the rest of the images, unit by unit."""
    return [
        metric.score(select_images(rows, torch.nonzero(units != unit)[:, 0])) for unit in range(int(units.max()) + 1)
    ]


@pytest.mark.parametrize("case", CASES[1:6], ids=lambda case: f"seed {case['seed']}")
@pytest.mark.parametrize("n_units", [None, 3])
@pytest.mark.parametrize("fixed", [True, False], ids=["scored", "not scored"])
def test_without_each_unit(case, n_units, fixed):
    predictions, truths = random_scenes(**{"n": 9, **case})
    n = len(truths)
    rows = rows_with_scored(predictions, truths, case.get("classes", 5)) if fixed else match(predictions, truths)
    units = torch.arange(n) if n_units is None else torch.from_numpy(np.random.default_rng(9).permutation(n) % n_units)
    for metric in METRICS:
        expected = without_slowly(metric, rows, units)
        assert metric.score_without(rows, units).tolist() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert len(set(without_slowly(METRICS[0], rows, units))) > 1


def test_without_the_only_image_of_a_class():
    predictions = [boxes(A, scores=[0.5]), boxes(A, B, labels=[0, 1], scores=[0.9, 0.5])]
    truths = [boxes(A), boxes(ELSEWHERE, B, labels=[0, 1])]
    free, fixed = match(predictions, truths), rows_with_scored(predictions, truths, 3)
    assert score(fixed) == score(free) == pytest.approx((50 * 51 / 101 + 100) / 2)
    # A class of the test part that the rest does not show counts as 0; without that list it is not scored.
    assert score_without(fixed, torch.arange(2)).tolist() == pytest.approx([50.0, 50.0])
    assert score_without(free, torch.arange(2)).tolist() == pytest.approx([50.0, 100.0])
    assert by_class(select_images(fixed, [0])).tolist() == pytest.approx([100.0, 0.0, math.nan], nan_ok=True)
    assert score_without(match(predictions[:1], truths[:1]), torch.zeros(1, dtype=torch.int64)).isnan().all()


def test_without_units_in_chunks(monkeypatch):
    rows = match(*random_scenes(5))
    at_once = score_without(rows, torch.arange(20))
    monkeypatch.setattr(average_precision, "_CHUNK", 3 * 5 * 10 * 101)
    assert score_without(rows, torch.arange(20)).tolist() == at_once.tolist()


def test_classes_that_are_scored():
    rows = match([NOTHING] * 2, [boxes(A, (0, 0, 200, 200), labels=[0, 3]), boxes((0, 0, 5, 5), labels=[3])])
    assert scored_classes(rows, 5).int().tolist() == [
        [1, 0, 1, 0], [0] * 4, [0] * 4, [1, 1, 0, 1], [0] * 4,
    ]  # fmt: skip
    assert scored_classes(match([NOTHING], [boxes()]), 2).tolist() == [[False] * 4] * 2
    assert by_class(rows).tolist() == pytest.approx([0, math.nan, math.nan, 0], nan_ok=True)
    assert by_class(match([NOTHING], [boxes()])).tolist() == []


def test_pseudo_values_are_those_of_the_slow_way():
    rows = rows_with_scored(*random_scenes(2), 5)
    metric = METRICS[0]
    without = np.array(without_slowly(metric, rows, torch.arange(20)))
    np.testing.assert_array_equal(pseudo_values(metric, rows), 20 * metric.score(rows) - 19 * without)
    grouped = pseudo_values(metric, rows | {"group": torch.arange(20) // 4})
    assert grouped.shape == (5,)
    assert grouped.std() > 0


def test_a_hit_that_is_ignored_counts_neither_way():
    """In the range of small objects, detections of larger truths are left out."""
    predictions = [boxes((0, 0, 200, 200), (300, 300, 310, 310), scores=[0.9, 0.8])]
    truths = [boxes((0, 0, 200, 200), (300, 300, 310, 310))]
    rows = match(predictions, truths)
    assert [metric.score(rows) for metric in METRICS] == pytest.approx([100, 100, 100, 100, math.nan, 100], nan_ok=True)
    rows["found/ignored"].zero_()
    rows["found/hit"][:, 1] = torch.tensor([0, 1023], dtype=torch.int16)
    assert METRICS[3].score(rows) == pytest.approx(50)
