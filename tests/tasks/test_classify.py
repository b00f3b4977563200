"""Rows of classification by hand and against libraries."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from saccade.metrics.rows import is_finite, select_images
from saccade.recipe import Recipe
from saccade.tasks.classify import Classify

NAN = math.nan


class Part:
    """Images of one colour with these labels."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return torch.full((1, 8, 8), float(i)), self.labels[i]

    def target(self, i):
        return self.labels[i]


def task(train=(0,), test=(0,), classes="abcdefg"):
    return Classify(Recipe(), SimpleNamespace(train=Part(train), test=Part(test), classes=list(classes), channels=1))


class Fixed(nn.Module):
    """Answers image i with row i of a table."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def rows_of(logits, labels, classes="abcdefg"):
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).float()
    return task(classes=classes).rows(Fixed(logits), images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("logits", "label", "predicted", "rank", "nll"),
    [
        ([2.0, 1.0, 0.0], 0, 0, 0, math.log(math.e**2 + math.e + 1) - 2),
        ([0.0, -1.0, 3.0], 1, 2, 2, math.log(1 + math.exp(-1) + math.e**3) + 1),
        ([1.0, 1.0, 0.0], 0, 0, 0, math.log(2 * math.e + 1) - 1),  # of equal logits the first is the answer
        ([1.0, 1.0, 0.0], 1, 0, 1, math.log(2 * math.e + 1) - 1),
        ([5.0, 5.0, 5.0], 2, 0, 2, math.log(3)),
        ([0.0, -math.inf, 0.0], 1, 0, 2, math.inf),
        ([-math.inf, 0.0, -math.inf], 2, 1, 2, math.inf),
        ([NAN, 0.0, 1.0], 1, 0, 2, NAN),  # what is no number comes before the label
        ([NAN, 0.0, 1.0], 2, 0, 1, NAN),
        ([1.0, NAN, 0.0], 0, 1, 1, NAN),
        ([0.0, NAN, 0.0], 1, 1, 3, NAN),  # and is never among the best, wherever it stands
    ],
)
def test_rows_by_hand(logits, label, predicted, rank, nll):
    rows = rows_of([logits], [label], "abc")
    assert rows["nll"].item() == pytest.approx(nll, rel=1e-6, nan_ok=True)
    assert {key: rows[key].tolist() for key in ("predicted", "label", "rank")} == {
        "predicted": [predicted], "label": [label], "rank": [rank],
    }  # fmt: skip
    assert is_finite(rows) == math.isfinite(nll)


def test_only_the_prediction_has_rank_0():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (200, 7), generator=draw).float()  # full of ties
    labels = torch.randint(0, 7, (200,), generator=draw)
    rows = rows_of(logits.tolist(), labels.tolist())
    torch.testing.assert_close(rows["rank"] == 0, rows["predicted"] == rows["label"], rtol=0, atol=0)
    assert rows["rank"].unique().tolist() == list(range(7))


def test_scores_are_those_of_torchmetrics():
    draw = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(300, 7, generator=draw), torch.randint(0, 7, (300,), generator=draw)
    scores = task().scores(rows_of(logits.tolist(), labels.tolist()))
    for name, k in (("top-1", 1), ("top-5", 5)):
        known = MulticlassAccuracy(7, top_k=k, average="micro")(logits, labels)
        assert scores[name] == pytest.approx(100 * known.item(), rel=1e-6)
    assert scores["NLL"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert scores["top-5"] > scores["top-1"] + 30


def test_the_score_of_each_class():
    rows = rows_of([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]], [0, 2, 2], "abcd")
    by_class = Classify.metrics[0].by_class(rows)
    assert by_class[[0, 2]].tolist() == [100.0, 50.0]
    assert math.isnan(by_class[1])
    assert Classify.metrics[0].by_class(select_images(rows, [0])).tolist() == [100.0]


@pytest.mark.parametrize(("classes", "names"), [("abcde", ["top-1", "NLL"]), ("abcdef", ["top-1", "top-5", "NLL"])])
def test_top_5_needs_more_than_five_classes(classes, names):
    assert [metric.name for metric in task(classes=classes).applicable_metrics()] == names


def test_the_most_frequent_class_is_the_trivial_answer():
    words, rows = task(train=[0, 1, 1, 2, 2], test=[1, 2, 3, 1], classes="abcd").trivial_baseline()
    assert words == "the most frequent class"
    assert rows["predicted"].tolist() == [1] * 4
    assert rows["rank"].tolist() == [0, 1, 3, 0]
    assert rows["nll"].tolist() == pytest.approx([math.log(5 / 2), math.log(5 / 2), math.inf, math.log(5 / 2)])
    assert task(classes="abcd").scores(rows) == {"top-1": 50.0, "NLL": None}


def test_drawings():
    three = task(test=[1, 2, 0], classes="abc")
    network = Fixed([[0.0, math.log(3), -math.inf]] * 3)
    found = three.draw([0, 1], network)
    assert [(drawing.caption, drawing.right) for drawing in found] == [
        ("b · 75\u202f%", True),
        ("b · 75\u202f%", False),
    ]
    assert [drawing.caption for drawing in three.draw([2, 1], None)] == ["a", "c"]


def test_wrong_outputs_are_described():
    images = torch.zeros(2, 1, 8, 8)
    assert task(classes="abc").output_problem(torch.zeros(2, 3), images) is None
    assert "gives shape (2, 4) for 2 images; logits of shape (2, 3)" in task(classes="abc").output_problem(
        torch.zeros(2, 4), images
    )
    assert "gives a tuple" in task().output_problem((), images)


def test_balanced_class_weights():
    network, images = Fixed([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]), torch.arange(2).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    labels, train = torch.tensor([0, 1]), [0, 0, 0, 1, 1, 2]
    data = SimpleNamespace(train=Part(train), test=Part([0]), classes=list("abc"), channels=1)
    losses = [
        float(Classify(Recipe().with_overrides(settings), data).loss(network, images, labels)["cross-entropy"])
        for settings in ({}, {"task.class_weights": "balanced"})
    ]
    terms = F.cross_entropy(network.logits, labels, reduction="none")
    weights = torch.tensor([6 / (3 * 3), 6 / (3 * 2)])
    assert losses[0] == pytest.approx(float(terms.mean()))
    assert losses[1] == pytest.approx(float((weights * terms).sum() / weights.sum()))
    assert losses[0] != pytest.approx(losses[1])


def test_label_smoothing_and_a_class_without_training_images():
    settings = {"task.class_weights": "balanced", "training.label_smoothing": 0.1}
    network, images = Fixed([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]), torch.arange(2).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    data = SimpleNamespace(train=Part([0, 0, 0, 1] * 1000), test=Part([0]), classes=list("abc"), channels=1)
    labels, weights = torch.tensor([0, 1]), torch.tensor([4 / 9, 4 / 3, 1.0])
    loss = Classify(Recipe().with_overrides(settings), data).loss(network, images, labels)["cross-entropy"]
    wanted = F.cross_entropy(network.logits, labels, weights, label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(wanted))
