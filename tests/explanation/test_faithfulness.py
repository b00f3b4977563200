import math

import numpy as np
import pytest
import torch
from torch import nn

from saccade.contract.randomize import randomize
from saccade.errors import UserError
from saccade.explanation.faithfulness import METHODS, deletion, faithfulness, insertion, road


class _Corner(nn.Module):
    """Logits 0 and 3 times the sum of the 2×2 pixels at the top left."""

    def forward(self, x):
        corner = 3 * x[:, 0, :2, :2].sum((1, 2))
        return torch.stack([torch.zeros_like(corner), corner], 1)


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _corner(size=4):
    """An image that is 1 in the corner, else −1/4, and a map of the corner."""
    image = torch.full((1, 1, size, size), -0.25)
    image[..., :2, :2] = 1.0
    return image, (image[:, 0] > 0).float()


def test_areas_by_hand():
    image, corner = _corner()
    seen, mean = _sigmoid(3 * 4), _sigmoid(3 * 4 * (4 * 1 - 12 * 0.25) / 16)
    # The corner is gone after the first of 4 steps: p = seen, mean, mean, mean, mean.
    assert deletion(_Corner(), image, corner, [1], steps=4).item() == pytest.approx(seen / 8 + 7 * mean / 8)
    assert deletion(_Corner(), image, 1 - corner, [1], steps=4).item() == pytest.approx(7 * seen / 8 + mean / 8)
    inserted = insertion(_Corner(), image, corner, [1], steps=4, fill="mean").item()
    assert inserted == pytest.approx(mean / 8 + 7 * seen / 8)
    # Two steps: after 8 of 16 pixels the complement has removed nothing of the corner.
    assert deletion(_Corner(), image, 1 - corner, [1], steps=2).item() == pytest.approx(3 * seen / 4 + mean / 4)
    # The other class.
    assert deletion(_Corner(), image, corner, [0], steps=4).item() == pytest.approx(1 - seen / 8 - 7 * mean / 8)


def test_blur_removes_detail():
    image, corner = _corner(20)
    blurred = insertion(_Corner(), image, corner, [1], steps=1).item() * 2 - _sigmoid(12)
    assert _sigmoid(12 * image.mean().item()) < blurred < _sigmoid(12)


@pytest.mark.parametrize(
    ("method", "options"), [("deletion", {}), ("insertion", {"fill": "mean"}), ("road", {})], ids=METHODS
)
def test_the_deciding_pixels_beat_a_random_map_and_their_complement_loses(method, options):
    image, corner = _corner(8)
    images, corner = image.expand(5, -1, -1, -1), corner.expand(5, -1, -1)
    centre = torch.zeros(8, 8)
    centre[2:6, 2:6] = 1.0
    right = faithfulness(_Corner(), images, corner, [1] * 5, method=method, centre=centre, **options)
    wrong = faithfulness(_Corner(), images, 1 - corner, [1] * 5, method=method, **options)
    assert right.difference.mean() > 0.05 > -0.05 > wrong.difference.mean()
    assert right.difference_from_centre.min() > 0.05
    assert wrong.difference_from_centre is None
    constant = faithfulness(_Corner(), images, torch.ones(5, 8, 8), [1] * 5, method=method, **options)
    assert constant.difference.eq(0).all()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return randomize(
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(6 * 36, 4)
        )
    )  # fmt: skip


def _batch():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 3, 8, 8, generator=generator), torch.rand(3, 8, 8, generator=generator)


def test_road_is_that_of_the_package(network, monkeypatch):
    module = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    images, maps = _batch()
    monkeypatch.setattr(module.torch, "randn_like", torch.zeros_like)
    with pytest.warns(DeprecationWarning, match="__array_wrap__"):
        expected = module.ROADCombined([20, 40, 60, 80])(
            images, maps.numpy(), [targets.ClassifierOutputSoftmaxTarget(k) for k in (0, 3, 1)], network.eval()
        )
    found = road(network, images, maps, [0, 3, 1])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (road(network, images, 1 - maps, [0, 3, 1]) + found).abs().max() < 1e-6
    assert not np.allclose(road(network, images, maps, [1, 3, 1])[0], expected[0], atol=1e-3)


def test_road_of_a_map_that_is_mostly_zero_is_finite(network):
    images, maps = _batch()
    assert road(network, images, torch.where(maps < 0.95, 0.0, maps)).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_scored_alone_and_the_network_left_as_it_was(method, network):
    images, maps = _batch()
    network.train()[1].eval()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes, state = [module.training for module in network], torch.get_rng_state()
    found = faithfulness(network, images, maps, [0, 1, 2], method=method, seed=3)
    assert [module.training for module in network] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network[0].weight.requires_grad
    assert network[0].weight.grad.eq(1).all()
    alone = faithfulness(network, images[2:], maps[2:], [2], method=method, seed=5)
    for name in ("score", "random"):
        torch.testing.assert_close(getattr(alone, name)[0], getattr(found, name)[2])
    assert alone.random != faithfulness(network, images[2:], maps[2:], [2], method=method, seed=6).random


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "delete"}, "Did you mean 'deletion'"),
        ({"method": "deletion", "steps": 0}, "steps = 0"),
        ({"method": "deletion", "fill": "black"}, "fill = 'black'"),
        ({"method": "road", "fractions": [0.5, 1.0]}, "between 0 and 1"),
        ({"maps": torch.zeros(3, 8, 7)}, "do not fit"),
        ({"maps": torch.full((3, 8, 8), torch.nan)}, "finite"),
        ({"maps": torch.zeros(3, 8, 8, dtype=torch.bool)}, "floating-point"),
        ({"centre": torch.zeros(4, 4)}, "centre has the shape"),
    ],
)
def test_refusals(options, message, network):
    images, maps = _batch()
    with pytest.raises(UserError, match=message):
        faithfulness(network, images, options.pop("maps", maps), **options)
