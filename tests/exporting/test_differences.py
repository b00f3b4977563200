"""Differences are relative to each channel."""

import pytest
import torch

from saccade.exporting.differences import difference


def test_a_small_channel_has_a_scale_of_its_own():
    wanted = torch.tensor([[100.0, 0.5], [50.0, 0.25]])
    found = torch.tensor([[100.0, 0.6], [50.0, 0.25]])
    assert difference([wanted], [found], "") == pytest.approx(0.1 / 5)  # a twentieth of 100 at least
    boxes, wrong = torch.zeros(1, 7, 5), torch.zeros(1, 7, 5)
    boxes[..., :4], boxes[..., 4] = 8.0, 0.5
    wrong[..., :4], wrong[..., 4] = 8.0, 0.4
    assert difference([boxes], [wrong], "") == pytest.approx(0.2)
    assert difference([torch.tensor(4.0)], [torch.tensor(5.0)], "") == 0.25
    assert difference([torch.tensor([0.0, 4.0])], [torch.tensor([1.0, 4.0])], "") == 0.25
    assert difference([torch.zeros(2, 3)], [torch.zeros(2, 3)], "") == 0.0
