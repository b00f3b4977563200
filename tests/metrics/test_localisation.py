"""Pointing game and IoU by hand."""

import pytest
import torch

from saccade.errors import UserError
from saccade.metrics import best_iou, box_region, iou_by_threshold, pointing_game
from saccade.metrics.localisation import IOU_THRESHOLDS

REGION = torch.tensor([[True, True, False, False], [False, False, False, False]])
NONE = torch.zeros_like(REGION)
MAP = torch.tensor([[1.0, 0.4, 0.6, 0.0], [0.2, 0.0, 0.0, 0.0]])


def test_pointing_game_by_hand():
    tied = torch.tensor([[0.9, 0.1, 0.9, 0.9], [0.0, 0.0, 0.0, 0.9]])
    maps = torch.stack([MAP, MAP.flip(1), tied, torch.full_like(MAP, 0.5), MAP])
    regions = torch.stack([REGION, REGION, REGION, REGION, NONE])
    assert pointing_game(maps, regions)[:4].tolist() == [1.0, 0.0, 1 / 4, 2 / 8]
    assert pointing_game(maps, regions)[4].isnan()


def test_iou_by_hand():
    curve = dict(zip(IOU_THRESHOLDS, iou_by_threshold(MAP, REGION).tolist(), strict=True))
    # 4 pixels reach 0.1 and 0.2, 3 reach 0.3, 2 reach 0.5, 1 reaches 0.7; two of them at most are in the region.
    wanted = {0.1: 2 / 4, 0.3: 2 / 3, 0.5: 1 / 3, 0.7: 1 / 2}
    assert {t: curve[t] for t in wanted} == pytest.approx(wanted)
    tied = dict(
        zip(IOU_THRESHOLDS, iou_by_threshold(torch.tensor([[1.0, 0.5, 0, 0]] * 2), REGION).tolist(), strict=True)
    )
    assert (tied[0.5], tied[0.51]) == pytest.approx((2 / 4, 1 / 3))
    assert iou_by_threshold(MAP, NONE).isnan().all()


def test_the_best_threshold_is_one_for_all_maps():
    # Alone, each map equals its region at some thresholds: 0.01 to 0.2 for the first, 0.41 to 0.9 for the second.
    first = torch.tensor([[1.0, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[0.9, 1.0, 0.4, 0.4], [0.4, 0.4, 0.4, 0.0]])
    assert best_iou([first], [REGION]) == (1.0, 0.01)
    assert best_iou([second], [REGION])[0] == 1.0
    # Together: (1 + 2/7)/2 up to 0.2, (1/2 + 2/7)/2 to 0.4, (1/2 + 1)/2 from there.
    score, threshold = best_iou(torch.stack([first, second, first]), torch.stack([REGION, REGION, NONE]))
    assert score == pytest.approx(3 / 4)
    assert threshold == pytest.approx(0.41, abs=0.011)
    wide = torch.zeros(3, 5)  # another size
    wide[0, 0] = 1
    assert best_iou([first, wide], [REGION, wide > 0])[0] == 1.0


def test_best_iou_needs_regions():
    with pytest.raises(UserError, match="there are 1 maps and 2 regions"):
        best_iou([MAP], [REGION, REGION])
    with pytest.raises(UserError, match="none of the 1 regions has a pixel"):
        best_iou([MAP], [NONE])


def test_boxes_cover_the_pixels_whose_centres_they_hold():
    boxes = torch.tensor([[0.0, 0.0, 1.5, 1.0], [2.6, 1.0, 4.0, 2.0]])
    assert box_region(boxes, (2, 4)).int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert box_region(boxes + torch.tensor([0.0, 0.0, 0.1, 0.0]), (2, 4)).int().tolist()[0] == [1, 1, 0, 0]
    assert not box_region(torch.zeros(0, 4), (2, 4)).any()
