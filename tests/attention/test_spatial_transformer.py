"""The spatial transformer worked out on paper."""

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, image, with_values
from saccade import create
from saccade.attention.spatial_transformer import SpatialTransformer

X = image([[1, 2, 4], [8, 16, 32]])


def _stn(theta, **options):
    """A transformer that always makes the same θ, and what passes through its tap."""
    return with_values(create("stn", 1, hidden=2, **options), place__bias=theta)


def test_the_identity_is_the_identity():
    equals(_stn([1, 0, 0, 0, 1, 0])(X), X.tolist())
    equals(_stn([1, 0, 0], transform="attention")(X), X.tolist())


def test_a_shift_reads_beside_and_zeros_outside():
    # Columns at −1, 0, 1: half of 1 to the right is half a pixel; beyond the last there are zeros.
    equals(_stn([1, 0, 0.5, 0, 1, 0])(X), [[[[1.5, 3, 2], [12, 24, 16]]]])
    equals(_stn([1, 0.5, 0], transform="attention")(X), [[[[1.5, 3, 2], [12, 24, 16]]]])
    # Rows at −1 and 1: 1 down is half a row.
    equals(_stn([1, 0, 0, 0, 1, 1])(X), [[[[4.5, 9, 18], [4, 8, 16]]]])
    equals(_stn([1, 0, 1], transform="attention")(X), [[[[4.5, 9, 18], [4, 8, 16]]]])


def test_a_negative_scale_turns_round_and_zero_looks_at_the_middle():
    equals(_stn([-1, 0, 0, 0, 1, 0])(X), [[[[4, 2, 1], [32, 16, 8]]]])
    equals(_stn([-1, 0, 0], transform="attention")(X), [[[[32, 16, 8], [4, 2, 1]]]])
    equals(_stn([0, 0, 0], transform="attention")(X), [[[[9, 9, 9], [9, 9, 9]]]])


def test_x_may_come_from_y():
    # x_s = y_t: the first row, −1, reads the first column everywhere; the second the last. y_s = y_t.
    equals(_stn([0, 1, 0, 0, 1, 0])(X), [[[[1, 1, 1], [32, 32, 32]]]])


def test_one_pixel_stays_where_there_is_no_shift():
    equals(_stn([3, 1, 0, 1, 3, 0])(image([[5]])), [[[[5]]]])


def test_the_localisation_reads_means_of_equal_parts():
    # Three columns in two parts: (1 + ½·2)/1.5 = 4/3 and (½·2 + 4)/1.5 = 10/3 above, 32/3 and 80/3 below. The 1×1 layer
    # takes them to unit 0; the hidden layer sums the left ones, 12, and passes them to t_x at 1/24: ½, half a pixel.
    values = {"reduce__weight": [1, 0], "look__weight": [[1, 0, 1, 0, 0, 0, 0, 0], [0] * 8],
              "place__weight": [[0, 0], [1 / 24, 0], [0, 0]], "place__bias": [1, 0, 0]}  # fmt: skip
    stn = with_values(create("stn", 1, transform="attention", hidden=2, regions=2), **values)
    seen = []
    stn.tap.register_forward_hook(lambda _module, _arguments, out: seen.append(out))
    equals(stn(X), [[[[1.5, 3, 2], [12, 24, 16]]]])
    equals(seen[0], [[[1, 0, 0.5], [0, 1, 0]]])


@pytest.mark.parametrize("size", [(14, 21), (7, 7)])
def test_equal_parts_of_whole_pixels_are_an_average_pool(size):
    # and the sampling is PyTorch's, corner on corner
    torch.manual_seed(0)
    stn = create("stn", 5, hidden=8).double()
    with torch.no_grad():
        stn.place.weight.normal_(std=0.3)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    z = stn.look(stn.reduce(F.adaptive_avg_pool2d(x, 7)).relu().flatten(1)).relu()
    grid = F.affine_grid(stn.place(z).view(2, 2, 3), list(x.shape), align_corners=True)
    equals(stn(x), F.grid_sample(x, grid, align_corners=True).tolist())
    assert (stn(x) - F.grid_sample(x, grid, align_corners=False)).abs().max() > 1e-2


def test_it_starts_near_the_identity_and_not_at_it():
    torch.manual_seed(0)
    x = torch.randn(4, 16, 28, 28)
    stn = create("stn", 16)
    off = (stn(x)[..., 1:-1, 1:-1] - x[..., 1:-1, 1:-1]).abs().mean()
    assert 1e-3 < off < 0.5
    assert 0 < (stn.place.bias - torch.tensor([1.0, 0, 0, 0, 1, 0])).abs().max() < 0.05
    assert stn.place.weight.std().item() == pytest.approx(0.01 / 128**0.5, rel=0.1)


@pytest.mark.parametrize("options", [{"transform": "thin plate"}, {"hidden": 0}, {"regions": -2}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        SpatialTransformer(16, **options)
