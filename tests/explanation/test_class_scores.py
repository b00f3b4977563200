"""Scores of a class for each form of output, worked by hand, and that their gradient is that of the score."""

from types import SimpleNamespace

import pytest
import torch

from saccade.errors import UserError
from saccade.explanation.class_scores import class_count, class_scores, predicted_classes, targets_of

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 4.0]])
# Image 0: class 1 is largest at the first pixel, class 0 at the two others.
PIXELS = torch.tensor([[[[0.0, 2.0, 3.0]], [[4.0, 1.0, -1.0]], [[-1.0, -2.0, -3.0]]]])
FOUND = [
    {"boxes": torch.zeros(3, 4), "labels": torch.tensor([2, 1, 2]), "scores": torch.tensor([0.9, 0.5, 0.25])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)},
]


@pytest.mark.parametrize(
    ("output", "classes", "scores"),
    [
        (LOGITS, [2, 0], [2.0, 5.0]),
        (LOGITS, [None, None], [3.0, 5.0]),
        (PIXELS, [0], [2.0 + 3.0]),
        (PIXELS, [1], [4.0]),
        (PIXELS, [2], [-6.0]),  # largest nowhere: over all pixels
        (PIXELS, [None], [5.0]),  # class 0 has the most pixels
        ({"aux": PIXELS * 9, "out": PIXELS}, [1], [4.0]),
        (SimpleNamespace(logits=LOGITS), [1, 1], [3.0, -1.0]),
        ((LOGITS, LOGITS * 9), [0, 0], [1.0, 5.0]),
        (PIXELS[:, :1], [None], [5 / 3]),
        (PIXELS[:, 0], [0], [5 / 3]),
        (torch.tensor([0.5, -2.0]), [None, None], [0.5, -2.0]),
        (FOUND, [2, 2], [0.9 + 0.25, 0.0]),
        (FOUND, [1, None], [0.5, 0.0]),
        (FOUND, [None, None], [1.15, 0.0]),
    ],
)
def test_scores_by_hand(output, classes, scores):
    assert class_scores(output, classes).tolist() == pytest.approx(scores)


def test_the_score_of_one_box():
    assert class_scores(FOUND[:1], [None], boxes=[3]).tolist() == pytest.approx([0.25])
    assert class_scores(FOUND[:1], [None], boxes=[1]).tolist() == pytest.approx([0.9])
    assert class_scores(FOUND[:1], [1], boxes=[1]).tolist() == pytest.approx([0.5]), "the first of its class"
    assert targets_of(FOUND[:1], [None], [3]) == ([2], [2])
    assert targets_of(FOUND[:1], [None], [2]) == ([1], [1]), "not the class of the best box"
    assert targets_of(FOUND, [None, None]) == ([2, None], [None, None])


def test_predicted_classes():
    assert predicted_classes(LOGITS) == [1, 0]
    assert predicted_classes(PIXELS) == [0]
    assert predicted_classes(FOUND) == [2, None]
    assert [class_count(output) for output in (LOGITS, PIXELS, PIXELS[:, :1], FOUND)] == [3, 3, 1, None]


def test_the_gradient_is_one_at_the_logits_of_the_score():
    pixels = PIXELS.clone().requires_grad_()
    class_scores(pixels, [0]).sum().backward()
    expected = torch.zeros_like(PIXELS)
    expected[0, 0, 0, 1:] = 1
    torch.testing.assert_close(pixels.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("output", "classes", "boxes", "message"),
    [
        (LOGITS, [3, 0], None, "there is no class 3; the network has 3"),
        (LOGITS, [0], None, "1 classes for 2 images"),
        (LOGITS, [0, 0], [1, None], "no detector"),
        (FOUND[:1], [1], [4], "no box 4 of the class 1; the detector found 1"),
        (FOUND[:1], [None], [4], "no box 4; the detector found 3"),
        (FOUND, [None, None], [1], "1 boxes for 2 images"),
        ({"features": LOGITS}, [0], None, "returns a dict"),
        (torch.zeros(2, 3, 4, 5, 6), [0, 0], None, "shape (2, 3, 4, 5, 6)"),
        (torch.zeros(2, 3, dtype=torch.int64), [0, 0], None, "logits"),
        (SimpleNamespace(logits=LOGITS, pred_boxes=LOGITS), [0, 0], None, "boxes of all queries"),
    ],
)
def test_errors(output, classes, boxes, message):
    with pytest.raises(UserError) as error:
        class_scores(output, classes, boxes=boxes)
    assert message in str(error.value)
