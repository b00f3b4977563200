"""Loss, rows, scored classes and drawings of several labels per image, by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from saccade.data.samples import ImageColumn, ImageSet
from saccade.errors import UserError
from saccade.metrics.rows import is_finite, select_images
from saccade.recipe import Recipe
from saccade.study.pseudovalues import pseudo_values
from saccade.tasks.multilabel import Multilabel


def images(labels, groups=None, by=None):
    """Images whose value is their index, with these labels (N, K)."""
    labels = torch.tensor(labels).float()
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    column = None if by is None else ImageColumn("view", list(by))
    return ImageSet(pixels, list(labels), (0.0,), (1 / 255,), (), groups and list(map(str, groups)), column)


def task(test, train=None, recipe=None, **columns):
    classes = [f"class {k}" for k in range(len(test[0]))]
    data = SimpleNamespace(train=images(train or test), test=images(test, **columns), classes=classes, channels=1)
    return Multilabel(recipe or Recipe(), data)


class Fixed(nn.Module):
    """Gives row i of a table for image i."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, batch):
        return self.logits[batch[:, 0, 0, 0].round().long()]


def rows_of(kind, logits):
    batch, labels = zip(*[kind.data.test[i] for i in range(len(logits))], strict=True)
    with torch.no_grad():
        return kind.rows(Fixed(logits), torch.stack(batch), torch.stack(labels))


# Class 0 can be scored; 1 has 14 positives, 2 has 14 negatives, 3 has none, 4 is in all.
HALVES = [[i % 2, i < 14, i >= 14, 0, 1] for i in range(30)]


def test_a_class_needs_enough_of_both():
    kind = task(HALVES)
    assert rows_of(kind, [[0.0] * 5] * 30)["scored"].unique(dim=0).tolist() == [[True, False, False, False, False]]
    assert kind.applicable_metrics() == Multilabel.metrics
    assert kind.unscored() == [
        "Not scored, for lack of 15 test images with the label and 15 without: class 1 14, class 2 "
        "16, class 3 0, class 4 30, of 30 test images."
    ]
    with_more = [[1, 1, i >= 15, 0, 1] if i == 14 else row for i, row in enumerate(HALVES)]
    assert task(with_more).unscored()[0].endswith("class 3 0, class 4 30, of 30 test images.")


def test_a_class_needs_enough_groups():
    label = [[i % 2] for i in range(60)]
    assert task(label, groups=[i // 2 for i in range(60)]).unscored() == []
    assert task(label, groups=[i // 6 for i in range(60)]).unscored() == []
    few = task(label, groups=[i // 7 for i in range(60)])
    assert few.unscored()[0].endswith(": class 0 30 (groups: 9), of 60 test images.")
    with pytest.raises(UserError, match=r"at least one needs 15 .* 10 groups; there are class 0 30 \(groups: 9\)"):
        few.primary_metric()


def test_no_class_is_an_error_that_lists_the_counts():
    with pytest.raises(UserError, match="there are class 0 2, class 1 0, of 3 test images"):
        task([[1, 0], [1, 0], [0, 0]]).primary_metric()


def test_scores_are_means_over_the_scored_classes():
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    logits[:, 0] = torch.tensor([float(i % 2) for i in range(30)])
    logits[1, 0] = -1.0  # the lowest of 15 positives, below 15 negatives
    rows = rows_of(task(HALVES), logits.tolist())
    area, precision = Multilabel.metrics
    assert area.compute(rows) == pytest.approx(14 / 15)
    assert precision.compute(rows) == pytest.approx((14 + 15 / 30) / 15)
    assert area.by_class(rows).isnan().tolist() == [False, True, True, True, True]
    other = {**rows, "scored": torch.tensor([True, True, False, False, False]).expand(30, 5)}
    assert area.compute(other) == pytest.approx((14 / 15 + float(area.by_class(other)[1])) / 2)
    assert area.compute(other) != area.compute(rows)


def test_a_jackknife_of_four_images_by_hand():
    """Logits 3 2 1 0 and labels + − + −: 3 of 4 pairs are in order."""
    rows = {
        "logits": torch.tensor([[3.0], [2.0], [1.0], [0.0]]),
        "label": torch.tensor([[True], [False], [True], [False]]),
        "scored": torch.ones(4, 1, dtype=torch.bool),
    }
    area, precision = Multilabel.metrics
    # AUROC without each image: 1/2, 1, 1, 1/2; pseudo-value 4 · 3/4 − 3 · s
    assert pseudo_values(area, rows).tolist() == [1.5, 0.0, 0.0, 1.5]
    # average precision (1 + 2/3)/2; without each image: 1/2, 1, 1, (1 + 2/3)/2
    full = (1 + 2 / 3) / 2
    expected = [4 * full - 3 * rest for rest in (1 / 2, 1.0, 1.0, full)]
    assert pseudo_values(precision, rows).tolist() == pytest.approx(expected, abs=1e-12)
    grouped = {**rows, "group": torch.tensor([5, 5, 9, 9])}
    assert all(math.isnan(value) is False for value in pseudo_values(area, grouped))
    assert pseudo_values(area, grouped).tolist() == [2 * 3 / 4 - 1, 2 * 3 / 4 - 1]


def test_the_jackknife_is_the_same_with_and_without_the_fast_form():
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(80, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.02])
    groups = [i // 2 for i in range(80)]
    kind = task(labels.int().tolist(), groups=groups)
    rows = rows_of(kind, torch.randn(80, 3, generator=generator).tolist()) | kind.data.test.codes()
    assert rows["scored"][0].tolist() == [True, True, False]
    for metric in Multilabel.metrics:
        values = pseudo_values(metric, rows)
        assert (values.shape, bool(torch.from_numpy(values).isfinite().all())) == ((40,), True)
        slow = pseudo_values(replace(metric, score_without=None), rows)
        assert values.tolist() == pytest.approx(slow.tolist(), abs=1e-12)
        images_alone = pseudo_values(metric, {key: value for key, value in rows.items() if key != "group"})
        assert images_alone.shape == (80,)


def test_a_value_is_scored_over_the_classes_that_it_has_enough_of():
    # 40 images of each view; class 0 is balanced in both, class 1 in AP alone; LL has 2 images, one has no view
    views = ["AP", "PA"] * 40 + ["LL", "LL", ""]
    labels = [[i // 2 % 2, i // 2 % 2 if view == "AP" else 0] for i, view in enumerate(views)]
    kind = task(labels, by=views)
    needed = "15 test images with the label and 15 without"
    assert kind.unscored() == [
        "view = AP (40 test images): the mean is over class 0, class 1.",
        f"view = LL (2 test images) is not scored: no class has {needed}.",
        "view = PA (40 test images): the mean is over class 0.",
    ]
    generator = torch.Generator().manual_seed(0)
    rows = rows_of(kind, torch.randn(83, 2, generator=generator).tolist()) | kind.data.test.codes()
    metrics = {metric.name: metric for metric in kind.metrics_by(kind.metrics, "view", kind.data.test.by.levels, rows)}
    assert list(metrics) == ["AUROC (view = AP)", "mAP (view = AP)", "AUROC (view = PA)", "mAP (view = PA)"]
    for view, scored in (("AP", [True, True]), ("PA", [True, False])):
        part = select_images(rows, [i for i, other in enumerate(views) if other == view])
        expected = Multilabel.metrics[0].compute({**part, "scored": torch.tensor(scored).expand(40, 2)})
        assert metrics[f"AUROC (view = {view})"].compute(rows) == expected
        assert torch.from_numpy(pseudo_values(metrics[f"AUROC (view = {view})"], rows)).isfinite().all()
    assert metrics["AUROC (view = AP)"].compute(rows) != metrics["AUROC (view = PA)"].compute(rows)


def test_the_loss_is_binary_cross_entropy():
    labels = [[1, 0], [0, 0], [1, 0], [0, 1]]
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-0.3, 0.1], [0.0, 1.0]])
    batch, targets = torch.stack([images(labels)[i][0] for i in range(4)]), torch.tensor(labels).float()

    def loss(settings, train):
        kind = task(HALVES, train=train, recipe=Recipe().with_overrides(settings))
        return float(kind.loss(Fixed(logits.tolist()), batch, targets)["cross-entropy"].detach())

    probabilities = logits.sigmoid()
    terms = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())
    plain = loss({}, labels)
    assert plain == pytest.approx(float(terms.mean()), rel=1e-6)
    smooth = targets * 0.8 + 0.1
    expected = -(smooth * probabilities.log() + (1 - smooth) * (1 - probabilities).log()).mean()
    assert loss({"training.label_smoothing": 0.2}, labels) == pytest.approx(float(expected), rel=1e-6)
    # three negatives for one positive of class 0; class 1 has no positive to train on
    rare = [[1, 0], [0, 0], [0, 0], [0, 0]]
    weighted = terms * torch.where(targets > 0, torch.tensor([3.0, 1.0]), 1.0)
    balanced = loss({"task.class_weights": "balanced"}, rare)
    assert balanced == pytest.approx(float(weighted.mean()), rel=1e-6)
    assert balanced != plain


def test_what_is_no_number_is_divergence():
    rows = rows_of(task(HALVES), [[math.nan] * 5] * 30)
    assert not is_finite(rows)
    assert Multilabel.metrics[0].compute(rows) is None
    assert is_finite(rows_of(task(HALVES), [[1.0] * 5] * 30))


def test_the_trivial_answer():
    kind = task(HALVES)
    name, rows = kind.trivial_baseline()
    assert name == "the same answer for every image"
    assert kind.scores(rows) == {"AUROC": 0.5, "mAP": 0.5}
    rare = [[i < 15] for i in range(60)]
    assert task(rare).scores(task(rare).trivial_baseline()[1]) == {"AUROC": 0.5, "mAP": 0.25}


def test_the_output_is_logits():
    kind, batch = task(HALVES), torch.zeros(2, 1, 8, 8)
    logits = torch.full((2, 5), 0.4, requires_grad=True)
    assert kind.output_problem(logits, batch) is None
    assert kind.output_problem(logits.exp(), batch) is None
    assert kind.output_problem(logits.sigmoid().detach(), batch) is None  # may be logits
    assert "remove the sigmoid" in kind.output_problem(logits.sigmoid(), batch)
    assert "remove the softmax" in kind.output_problem(logits.softmax(1), batch)
    assert "logits of shape (2, 5) are needed" in kind.output_problem(logits[:, :4], batch)


def test_drawings_name_what_is_found():
    kind = task([[1, 0, 1], [0, 0, 0]])
    assert [drawing.caption for drawing in kind.draw([0, 1], None)] == ["class 0, class 2", "none"]
    odds = [math.log(p / (1 - p)) for p in (0.8, 0.3, 0.9)]
    first, second = kind.draw([0, 1], Fixed([odds, [-1.0, 0.1, -2.0]]))
    assert (first.caption, first.right) == ("class 2 90\u202f%, class 0 80\u202f%", True)
    assert (second.caption, second.right) == ("class 1 52\u202f%", False)
    assert kind.draw([1], Fixed([odds, [-1.0, -1.0, -1.0]]))[0].caption == "none"
