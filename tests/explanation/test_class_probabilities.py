from types import SimpleNamespace

import pytest
import torch
from torch import nn

from saccade.errors import UserError
from saccade.explanation.class_probabilities import class_probabilities


class _Net(nn.Module):
    """Returns what ``form`` makes of the image."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


def _images():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))


def test_classifier_and_labels():
    images = _images()
    logits = images.mean((2, 3))
    net = _Net(lambda x: x.mean((2, 3)))
    torch.testing.assert_close(class_probabilities(net, images)(images), logits.softmax(1).amax(1))
    torch.testing.assert_close(class_probabilities(net, images, [2, None])(images)[0], logits.softmax(1)[0, 2])
    several = class_probabilities(net, images, [0, 1], multilabel=True)(images)
    torch.testing.assert_close(several, logits.sigmoid()[[0, 1], [0, 1]])
    pixels = class_probabilities(_Net(lambda x: x.mean(1)), images)(images)  # (B, H, W)
    predicted = images.mean(1).sigmoid()
    torch.testing.assert_close(pixels, torch.stack([p[p > 0.5].mean() for p in predicted]))
    one = class_probabilities(_Net(lambda x: x.mean((1, 2, 3))[:, None]), images)(images)
    torch.testing.assert_close(one, images.mean((1, 2, 3)).sigmoid())


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"out": y}, lambda y: SimpleNamespace(logits=y)])
def test_segmentation_over_the_pixels_of_the_class_in_the_first_images(wrap):
    images = _images()
    probability = class_probabilities(_Net(wrap), images, [1, 1])
    predicted = images.argmax(1) == 1
    changed = images.flip(2)
    for i, value in enumerate(probability(changed)):
        assert torch.isclose(value, changed[i].softmax(0)[1][predicted[i]].mean())
    without = images.clone()
    without[:, 1] = -9.0  # no pixel of class 1: all pixels count
    everywhere = class_probabilities(_Net(wrap), without, [1, 1])(images)
    assert torch.allclose(everywhere, images.softmax(1)[:, 1].mean((1, 2)))


def test_the_predicted_class_of_a_segmentation_has_most_pixels():
    images = torch.full((1, 3, 2, 2), -1.0)
    images[0, 2, 0], images[0, 0, 1, 0], images[0, 1, 1, 1] = 1.0, 9.0, 9.0
    probability = class_probabilities(_Net(lambda x: x), images)(images)
    assert torch.isclose(probability[0], images.softmax(1)[0, 2, 0].mean())


@pytest.mark.parametrize(
    ("form", "classes", "message"),
    [
        (
            lambda x: [{key: torch.zeros(0) for key in ("boxes", "labels", "scores")}] * len(x),
            None,
            "_Net is a detector",
        ),
        (lambda x: SimpleNamespace(logits=x.mean(2), pred_boxes=x), None, "_Net is a detector"),
        (lambda x: x.mean(1)[:1], None, r"returns \(1, 4, 5\) for 2 images"),
        (lambda x: x.mean((2, 3)), [0], "1 classes for 2 images"),
        (lambda x: x.mean((2, 3)), [0, 3], "there is no class 3; the network has 3"),
    ],
)
def test_refusals(form, classes, message):
    with pytest.raises(UserError, match=message):
        class_probabilities(_Net(form), _images(), classes)
