"""Counts of images and groups."""

import pytest
import torch

from saccade.metrics.enough import MIN_GROUPS, MIN_IMAGES, count_groups, is_enough


def test_groups_are_counted_once():
    selected = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]]).bool()
    assert count_groups(selected, torch.tensor([7, 7, 3, 3])).tolist() == [2, 1]
    assert count_groups(selected, None).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("images", "groups", "enough"), [(15, 10, True), (14, 10, False), (15, 9, False), (40, 40, True)]
)
def test_enough(images, groups, enough):
    assert (MIN_IMAGES, MIN_GROUPS) == (15, 10)
    selected = torch.ones(images, 1).bool()
    assert is_enough(selected, torch.arange(images) % groups).tolist() == [enough]
    assert is_enough(selected, None).tolist() == [images >= 15]
