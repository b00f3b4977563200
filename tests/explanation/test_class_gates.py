"""Gates by class: spreads by hand."""

import pytest
import torch
from torch import nn

from saccade.bases import Gate
from saccade.data.samples import ImageSet
from saccade.explanation.class_gates import _read_gates


class Brightness(Gate):
    """The gate of channel c is the mean of channel c."""

    def gate(self, x):
        return x.mean((2, 3), keepdim=True)


def test_spreads_by_hand():
    # Two images of each of two classes; the gates of both channels are 0, 0.2 | 0.8, 1.
    pixels = torch.tensor([0, 51, 204, 255], dtype=torch.uint8)[:, None, None, None].expand(4, 3, 4, 4)
    images = ImageSet(pixels, [0, 0, 2, 2], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    net = nn.Sequential(Brightness(), nn.MaxPool2d(2), nn.Conv2d(3, 1, 1))
    calls = []
    ((path, total),) = _read_gates(net, images, 3, lambda *done: calls.append(done)).items()
    spread = total.spread(path, 1)
    assert (path, spread.size, calls) == ("0", (4, 4), [(4, 4)])
    torch.testing.assert_close(spread.class_means, torch.tensor([[0.1] * 3, [0.9] * 3]).double(), atol=1e-6, rtol=0)
    assert (spread.between, spread.within) == pytest.approx((0.4, 0.1), abs=1e-6)
    assert spread.ratio == pytest.approx(4, abs=1e-4)
    assert (spread.mean, spread.saturated) == pytest.approx((0.5, 0.25), abs=1e-6)


def test_spatial_gates_are_left_out():
    class Spatial(Gate):
        def gate(self, x):
            return x.mean(1, keepdim=True).sigmoid()

    images = ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1], (0.0,) * 3, (1.0,) * 3)
    assert _read_gates(nn.Sequential(Spatial()), images, 2, None) == {}
    assert list(_read_gates(nn.Sequential(Spatial(), Brightness()), images, 2, None)) == ["1"]
