"""AUROC and average precision by hand, against two libraries, and without units against a new computation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from saccade.metrics.ranking import auroc, auroc_without, average_precision, average_precision_without

NAN = np.nan
BY_HAND = {
    # logits, labels, AUROC, average precision
    "right order": ([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], 1.0, 1.0),
    "wrong order": ([0.0, 1.0, 2.0, 3.0], [1, 1, 0, 0], 0.0, (1 / 3 + 2 / 4) / 2),
    "one pair of four is wrong": ([3.0, 1.0, 2.0, 0.0], [1, 1, 0, 0], 3 / 4, (1 + 2 / 3) / 2),
    "a tie counts one half": ([1.0, 1.0, 0.0], [1, 0, 0], 3 / 4, 1 / 2),
    "all are tied": ([5.0, 5.0, 5.0, 5.0], [1, 0, 0, 0], 1 / 2, 1 / 4),
    "ties of both labels": ([2.0, 1.0, 1.0, 1.0, 0.0], [1, 1, 0, 1, 0], 5 / 6, (1 + 2 * 3 / 4) / 3),
    "one positive, second of three": ([2.0, 1.0, 0.0], [0, 1, 0], 1 / 2, 1 / 2),
    "infinity is a large logit": ([np.inf, 1.0, -np.inf], [1, 0, 1], 1 / 2, (1 + 2 / 3) / 2),
    "no positive": ([2.0, 1.0, 0.0], [0, 0, 0], NAN, NAN),
    "all positive": ([2.0, 1.0, 0.0], [1, 1, 1], NAN, NAN),
    "a logit that is no number": ([2.0, NAN, 0.0], [1, 0, 0], NAN, NAN),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    logits, labels, area, precision = BY_HAND[name]
    logits, labels = np.array(logits), np.array(labels, dtype=bool)
    assert auroc(logits, labels) == pytest.approx(area, nan_ok=True, abs=1e-15)
    assert average_precision(logits, labels) == pytest.approx(precision, nan_ok=True, abs=1e-15)


def random_rows(seed, n=60, classes=5, levels=None):
    """Logits (n, classes), rounded so that ``levels`` values remain, and labels."""
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(n, classes)), random.random((n, classes)) < 0.3
    logits += labels
    return (logits if levels is None else np.round(logits * levels / 4) / levels), labels


@pytest.mark.parametrize("levels", [None, 3, 1])
def test_equal_to_torchmetrics_and_scikit_learn(levels):
    logits, labels = random_rows(levels or 0, levels=levels)
    # torchmetrics passes what is outside of 0 to 1 through a sigmoid, in float32
    probabilities, truth = torch.from_numpy(logits).sigmoid(), torch.from_numpy(labels).long()
    for ours, torchs, learns in (
        (auroc, multilabel_auroc, roc_auc_score),
        (average_precision, multilabel_average_precision, average_precision_score),
    ):
        values = np.array([ours(logits[:, k], labels[:, k]) for k in range(5)])
        np.testing.assert_allclose(values, torchs(probabilities, truth, 5, average=None), rtol=1e-6)
        np.testing.assert_allclose(values, learns(labels, logits, average=None), rtol=1e-12)
        assert values.std() > 0.01


@pytest.mark.parametrize("n_units", [60, 12, 2])
@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize(("full", "without"), [(auroc, auroc_without), (average_precision, average_precision_without)])
def test_without_each_unit(full, without, levels, n_units):
    logits, labels = (values[:, 0] for values in random_rows(7, levels=levels))
    units = np.random.default_rng(3).permutation(60) % n_units
    expected = np.array([full(logits[units != unit], labels[units != unit]) for unit in range(n_units)])
    np.testing.assert_allclose(without(logits, labels, units), expected, rtol=1e-14)
    assert expected.std() > 0


def test_without_a_unit_that_holds_every_positive():
    logits, labels, units = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False]), np.array([0, 0, 1, 2])
    for without in (auroc_without, average_precision_without):
        assert without(logits, labels, units).tolist() == pytest.approx([NAN, 1.0, 1.0], nan_ok=True)


def test_without_units_in_chunks(monkeypatch):
    logits, labels = (values[:, 0] for values in random_rows(5))
    at_once = average_precision_without(logits, labels, np.arange(60))
    monkeypatch.setattr("saccade.metrics.ranking._CHUNK", 7 * 60)
    assert average_precision_without(logits, labels, np.arange(60)).tolist() == at_once.tolist()
