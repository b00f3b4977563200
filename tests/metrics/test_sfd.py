"""sfd by hand, on extreme maps and regions, and on batches."""

import pytest
import torch

from saccade.errors import UserError
from saccade.explanation import random_maps
from saccade.metrics import sfd, sfd_sweep

# Scaled by (L - 0.2)/0.6: 0 -> 0.2, 0.5 -> 0.5, 1 -> 0.8.
MAP = torch.tensor(
    [
        [0.8, 0.5, 0.2, 0.2],
        [0.5, 0.5, 0.2, 0.2],
        [0.2, 0.2, 0.8, 0.2],
        [0.2, 0.2, 0.2, 0.5],
    ],
    dtype=torch.float64,
)
REGION = torch.zeros(4, 4, dtype=torch.bool)
REGION[:2, :2] = True


def test_by_hand():
    # W_r = (10 + 3·√10)/4 = 4.871708. Outside, 1 and 0.5 reach 0.4: W_n = (10 + √10)/2 = 6.581139.
    # sfd = 4.871708/(4.871708 + 6.581139) = 0.425371.
    assert float(sfd(MAP, REGION, 0.4)) == pytest.approx(0.425371, abs=1e-6)
    # At 0.6 only 1 counts: W_n = 10, sfd = 4.871708/14.871708 = 0.327582.
    assert float(sfd(MAP, REGION, 0.6)) == pytest.approx(0.327582, abs=1e-6)
    # Without the two pixels: W_n = 10⁰ = 1, sfd = 4.871708/5.871708 = 0.829692.
    alone = torch.where(REGION, MAP, 0.2)
    assert float(sfd(alone, REGION)) == pytest.approx(0.829692, abs=1e-6)


def test_a_pixel_at_the_threshold_counts():
    map = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    region = torch.tensor([[True, False, False, False]])
    assert float(sfd(map, region, 0.5)) == pytest.approx(10 / (10 + 10**0.5))
    assert float(sfd(map, region, 0.51)) == pytest.approx(10 / 11)


def test_mask_constant_and_complement():
    mask = REGION.double()
    assert float(sfd(mask, REGION)) == pytest.approx(10 / 11)
    assert float(sfd(1 - mask, REGION)) == pytest.approx(1 / 11)
    for constant in (0.0, 0.3, 1.0):
        assert float(sfd(torch.full((4, 4), constant), REGION)) == 0.5
    assert float(sfd(0.2 + 0.1 * mask, REGION)) == pytest.approx(10 / 11)  # the scale of the map does not matter


def test_a_random_map_has_less_than_a_constant_one():
    maps = random_maps(torch.linspace(0, 1, 400).view(1, 20, 20).expand(50, -1, -1))
    region = torch.zeros(50, 20, 20, dtype=torch.bool)
    region[:, 4:9, 6:15] = True
    assert float(sfd(maps, region).mean()) == pytest.approx(0.39, abs=0.03)


def test_empty_and_full_regions():
    full, empty = torch.ones_like(REGION), torch.zeros_like(REGION)
    assert sfd(MAP, empty).isnan()
    # W_r = (2·10 + 4·√10 + 10·1)/16 = 2.665569; nothing is outside, so W_n = 1.
    assert float(sfd(MAP, full)) == pytest.approx(2.665569 / 3.665569, abs=1e-6)
    assert float(sfd(torch.full((4, 4), 0.7), full)) == 0.5


def test_a_batch_is_a_loop():
    generator = torch.Generator().manual_seed(0)
    maps, regions = (torch.rand(2, 3, 7, 5, generator=generator) for _ in range(2))
    regions = regions > 0.6
    values = sfd(maps, regions, 0.3)
    one_by_one = [float(sfd(m, r, 0.3)) for m, r in zip(maps.flatten(0, 1), regions.flatten(0, 1), strict=True)]
    assert (values.shape, values.dtype) == ((2, 3), torch.float64)
    assert values.flatten().tolist() == pytest.approx(one_by_one, rel=1e-12)
    assert len({round(value, 6) for value in one_by_one}) == 6
    mean, by_threshold = sfd_sweep(maps, regions)
    torch.testing.assert_close(by_threshold[..., 2], values)
    assert by_threshold.shape == (2, 3, 9)
    torch.testing.assert_close(mean, by_threshold.mean(-1))
    assert (by_threshold[..., 8] - values).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("map", "region", "message"),
    [
        (MAP[None], REGION, r"the map has shape \(1, 4, 4\) and the region \(4, 4\); the same"),
        (MAP[0], REGION[0], r"the same \(…, H, W\) is needed"),
        (MAP, REGION.double(), r"the region is torch.float64; torch.bool is needed"),
        (REGION, REGION, r"the map is torch.bool; floating-point numbers from 0 to 1"),
        (MAP * 2, REGION, r"the map runs from 0.4 to 1.6; 0 to 1 is needed"),
        (MAP.where(MAP < 0.8, torch.nan), REGION, r"the map runs from nan to nan"),
    ],
)
def test_arguments_that_do_not_fit(map, region, message):
    for score in (sfd, sfd_sweep):
        with pytest.raises(UserError, match=message):
            score(map, region)


def test_thresholds_that_do_not_fit():
    for threshold in (0.0, 1.01, float("nan")):
        with pytest.raises(UserError, match="it must be above 0 and at most 1"):
            sfd(MAP, REGION, threshold)
