"""Choice of the images that the report shows."""

import pytest
import torch
from made_results import TOP1

import saccade
from saccade.metrics.metric import Metric
from saccade.study.report.sections.pictures import _choose_images


class _Task:
    def __init__(self, *metrics):
        self.metrics = metrics


RAGGED = Metric(name="mAP", unit="%", margin=1.0, score=lambda rows: 0.0)


LABELS = torch.zeros(9, dtype=torch.int64)


@pytest.mark.parametrize(
    ("metric", "one", "other", "differ"),
    [
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9).clamp(max=7)}, {8}),
        (RAGGED, {"a": torch.ones(9, 2)}, {"a": torch.ones(9, 2).index_fill_(0, torch.tensor([3, 4]), 0)}, {3, 4}),
        (
            RAGGED,
            {"f/offsets": torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2, 2]), "f/s": torch.tensor([1.0, 1.0]), "l": LABELS},
            {"f/offsets": torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 3, 3]), "f/s": torch.tensor([1, 0, 0.5]), "l": LABELS},
            {1, 2},
        ),
        (TOP1, {"x": torch.arange(9)}, {"x": torch.arange(9)}, set()),
    ],
)  # fmt: skip
def test_half_of_the_images_are_disputed(metric, one, other, differ):
    chosen, sentence = _choose_images(9, _Task(metric), [one, None, other])
    assert len(set(chosen)) == 6
    assert set(chosen[len(chosen) - len(differ) :]) == differ if differ else "at random" in sentence
    assert _choose_images(9, _Task(metric), [one])[1] == "6 test images, drawn at random."
    with pytest.raises(saccade.UserError, match="scored on 9 test images; there are 8 now"):
        _choose_images(8, _Task(metric), [one])
