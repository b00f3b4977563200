"""Measures of salient objects by hand, against PySODMetrics, and on degenerate maps."""

import numpy as np
import pytest
import torch

from saccade.metrics.salient_objects import adaptive_f, f_curve, mean_absolute_error, s_measure, scale_to_range

KNOWN = [
    [0.6223564994478011, 0.9305263157894736, 0.265573804168079,
     0.16774193548387098, 0.9454545454545454, 0.26292134831460673, 0.14462299134734238],
    [0.6968205890394348, 0.8965517241379312, 0.26139339968569936,
     0.05990783410138249, 0.9536679536679538, 0.3854748603351955, 0.21787709497206706],
    [0.811919289184886, 0.7859733978234584, 0.19011082693947146,
     0.7859733978234584, 0.9648048967100228, 0.4841134267167749, 0.3344347415624263],
    [0.5579294283991433, 0.0, 0.4420705716008567, 0.0, 0.0, 0.0, 0.0],
    [0.5064452182130055, 0.010989010989010992, 0.4935547817869945,
     0.010989010989010992, 0.7208507406000759, 0.9283451133317087, 1.0],
]  # fmt: skip
"""For each ``scene``: S-measure, adaptive F, MAE, and F at 255, 155, 75 and 0, by ``step(prediction, 255 * truth)`` of
Smeasure, Fmeasure and MAE of PySODMetrics 1.6.2."""


def scene(i):
    """A prediction, uint8 (17, 23), and a disc; 2 has few grey levels, 3 an empty and 4 a full truth."""
    draw = np.random.default_rng(i)
    y, x = np.mgrid[:17, :23]
    truth = (y - 5 - i) ** 2 + (x - 8) ** 2 < (4 + i) ** 2
    prediction = np.clip(120 * truth + draw.integers(0, 130, truth.shape), 0, 255).astype(np.uint8)
    if i == 2:
        prediction = prediction // 64 * 64
    truth[:] = {3: False, 4: True}.get(i, truth)
    return torch.from_numpy(prediction / 255), torch.from_numpy(truth)


def scenes():
    predictions, truths = (torch.stack(maps) for maps in zip(*map(scene, range(5)), strict=True))
    return predictions, truths, torch.ones_like(truths)


def measures(predictions, truths, labelled):
    maps = scale_to_range(predictions, labelled)
    arguments = maps, truths, labelled
    curve = f_curve(*arguments)[:, [0, 100, 180, 255]]
    others = s_measure(*arguments), adaptive_f(*arguments), mean_absolute_error(*arguments)
    return torch.cat([torch.stack(others, 1), curve], 1)


def test_the_measures_are_those_of_pysodmetrics():
    found = measures(*scenes())
    assert found.tolist() == [pytest.approx(row, rel=1e-12) for row in KNOWN]
    predictions, truths, labelled = scenes()
    other = s_measure(predictions, truths, labelled)  # the twin: not scaled to the range
    assert (other - found[:, 0]).abs()[:2].min() > 1e-4


def test_f_by_hand():
    prediction = torch.tensor([[[0.0, 0.4, 0.6, 1.0]]], dtype=torch.float64)
    truth = torch.tensor([[[False, True, False, True]]])
    arguments = prediction, truth, torch.ones_like(truth)
    # 2 mean = 1: one pixel, precision 1, recall 1/2
    assert adaptive_f(*arguments).item() == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))
    curve = f_curve(*arguments)[0]
    assert curve.shape == (256,)
    assert curve[255 - 102].item() == pytest.approx(1.3 * 2 / 3 / (0.3 * 2 / 3 + 1))  # 0.4 · 255 = 102
    assert curve[255 - 103].item() == pytest.approx(1.3 * 0.5 * 0.5 / (0.3 * 0.5 + 0.5))
    assert curve[255].item() == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))
    assert mean_absolute_error(*arguments).item() == pytest.approx((0 + 0.6 + 0.6 + 0) / 4)


def test_the_s_measure_by_hand():
    prediction = torch.tensor([[[0.0, 0.5], [1.0, 1.0]]], dtype=torch.float64)
    truth = torch.tensor([[[False, False], [True, True]]])
    arguments = prediction, truth, torch.ones_like(truth)
    # object: 2·1/(1 + 1) inside; 1 − S is 1 and 0.5 outside: 2·0.75/(0.75² + 1 + √0.125)
    of_object = 0.5 * 1 + 0.5 * 1.5 / (0.5625 + 1 + 0.125**0.5)
    # the centroid (1, 0.5) is rounded to (1, 0): columns {0} and {1} of both rows
    left = 4 * 0.5 * 0.5 * 0.5 / ((0.25 + 0.25) * (0.5 + 0.5))
    right = 4 * 0.75 * 0.5 * 0.25 / ((0.5625 + 0.25) * (0.125 + 0.5))
    assert s_measure(*arguments).item() == pytest.approx((of_object + (left + right) / 2) / 2)


def test_a_perfect_and_an_inverted_prediction():
    _, truth = scene(0)
    arguments = truth[None].double(), truth[None], torch.ones_like(truth)[None]
    assert measures(*arguments)[0].tolist() == pytest.approx([1, 1, 0, 1, 1, 1, measures(*arguments)[0, 6].item()])
    worst = measures(1 - arguments[0], *arguments[1:])[0]
    assert worst[:4].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-9)


def test_constant_predictions_are_not_scaled():
    truth = torch.stack([scene(0)[1], torch.zeros(17, 23, dtype=torch.bool), torch.ones(17, 23, dtype=torch.bool)])
    found = measures(torch.full(truth.shape, 0.3, dtype=torch.float64), truth, torch.ones_like(truth))
    share = truth[0].double().mean().item()
    assert found[:, 2].tolist() == pytest.approx([0.7 * share + 0.3 * (1 - share), 0.3, 0.7])
    assert found[1:, 0].tolist() == pytest.approx([0.7, 0.3])
    assert found.isfinite().all()
    zeros = measures(torch.zeros(1, 17, 23, dtype=torch.float64), truth[:1], torch.ones_like(truth[:1]))
    everything = 1.3 * share / (0.3 * share + 1)  # each pixel is at the threshold 0
    assert zeros[0, 1:4].tolist() == pytest.approx([everything, share, 0])


def test_objects_in_the_last_row_and_of_one_pixel():
    """Two of the four rectangles are empty, where PySODMetrics gives NaN."""
    truth = torch.zeros(2, 6, 7, dtype=torch.bool)
    truth[0, 5, 1:4] = truth[1, 0, 0] = True
    found = s_measure(truth.double(), truth, torch.ones_like(truth))
    assert found.tolist() == pytest.approx([1, 1])


def test_void_pixels_change_nothing():
    predictions, truths, labelled = scenes()
    labelled = torch.rand(labelled.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    changed = torch.where(labelled, predictions, 2.0), torch.where(labelled, truths, ~truths)
    torch.testing.assert_close(measures(*changed, labelled), measures(predictions, truths, labelled), rtol=0, atol=0)
    everything = measures(predictions, truths, torch.ones_like(labelled))
    assert (measures(predictions, truths, labelled) - everything).abs().max() > 1e-3
    # Without the void pixels of a whole border, the measures are those of the inner image.
    inner = torch.zeros_like(labelled)
    inner[:, 2:15, 1:20] = True
    cut = [maps[:, 2:15, 1:20] for maps in (predictions, truths)]
    expected = measures(*cut, torch.ones_like(cut[1]))
    torch.testing.assert_close(measures(predictions, truths, inner), expected, rtol=1e-12, atol=1e-12)
