"""Score, span, unit and margin of a metric."""

import pytest
import torch

from saccade import UserError
from saccade.metrics.metric import Metric

TOP1 = Metric(name="top-1", unit="%", margin=1.0, low=0.0, high=100.0, values=lambda rows: rows["right"].double() * 100)
ERROR = Metric(
    name="error", unit="px", margin=0.5, low=0.0, higher_is_better=False, score=lambda rows: rows["e"].item()
)


def test_a_score_is_the_mean_of_its_values():
    assert TOP1.compute({"right": torch.tensor([True, False, True])}) == pytest.approx(200 / 3, abs=0)
    assert ERROR.compute({"e": torch.tensor(2.5)}) == 2.5
    assert ERROR.compute({"e": torch.tensor(torch.nan)}) is None


def test_span_and_unit_of_differences():
    assert (TOP1.span, TOP1.difference_unit, TOP1.format(92.804)) == (100.0, "points", "92.80 %")
    assert (ERROR.span, ERROR.difference_unit, ERROR.format(None)) == (None, "px", "–")
    assert Metric(name="AUROC", unit="", margin=0.01, digits=3, score=len).format(0.5) == "0.500"


def test_a_metric_has_either_values_or_score():
    for rules in ({}, {"values": len, "score": len}):
        with pytest.raises(ValueError, match="either values or score"):
            Metric(name="x", unit="", margin=1.0, **rules)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf"), 101.0])
def test_a_margin_lies_within_the_span(margin):
    with pytest.raises(UserError, match="margin = "):
        TOP1.check_margin(margin)


def test_without_bounds_any_margin_is_accepted():
    ERROR.check_margin(1e6)
