"""Token maps: paths and sizes, entropy and foreground by hand, order of tokens, pictures."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import saccade
from saccade.bases import TokenTap
from saccade.explanation import attention_entropy, draw_token_map, foreground_attention, strongest_tokens, token_maps


class Tokens(nn.Module):
    """Two maps over a feature map of half the size."""

    def __init__(self, tap):
        super().__init__()
        self.tap, self.conv = tap, nn.Conv2d(3, 2, 1)

    def forward(self, x):
        logits = self.conv(x[..., ::2, ::2])
        return self.tap(logits.flatten(2).softmax(2).view_as(logits)).sum((2, 3))


def test_maps_by_path():
    net = nn.Sequential(nn.Sequential(Tokens(TokenTap())))
    images = torch.randn(2, 3, 12, 8)
    maps = token_maps(net, images)
    assert list(maps) == ["0.0"]
    assert maps["0.0"].shape == (2, 2, 12, 8)
    torch.testing.assert_close(maps["0.0"].sum((2, 3)), torch.ones(2, 2))
    torch.testing.assert_close(token_maps(net, images[1])["0.0"], maps["0.0"][1])
    assert token_maps(net, images, resize=False)["0.0"].shape == (2, 2, 6, 4)
    assert token_maps(nn.Sequential(Tokens(nn.Identity())), images) == {}  # a tap, but not of tokens


def test_entropy_by_hand():
    maps = torch.tensor([[[0.5, 0.5], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]])
    torch.testing.assert_close(attention_entropy(maps), torch.tensor([math.log(2), 0.0, math.log(4)]))
    assert strongest_tokens(maps, 2) == [1, 0]
    assert strongest_tokens(torch.stack([maps, maps]), 3) == [1, 0, 2]
    for bad in (-maps, maps * 0):
        with pytest.raises(saccade.UserError, match="nowhere negative and not zero everywhere"):
            attention_entropy(bad)


def test_the_printed_entropy_of_a_uniform_map_is_in_nats():
    # "12.318": Wu et al. on LIP, images of 473×473.
    assert round(float(attention_entropy(torch.ones(473, 473, dtype=torch.float64))), 3) == 12.318


def test_foreground_by_hand():
    attention, mask = torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.tensor([[0, 1], [0, 1]])
    assert float(foreground_attention(attention, mask)) == pytest.approx(0.6)
    assert float(foreground_attention(torch.ones(2, 2), mask)) == pytest.approx(0.5)
    with pytest.raises(saccade.UserError, match="got 2×2 and 3×2"):
        foreground_attention(attention, torch.ones(3, 2))


def test_pictures_are_brightest_where_the_token_looks():
    token_map = torch.zeros(4, 4)
    token_map[0, 3] = 0.7
    for channels in (1, 3):
        picture = np.asarray(draw_token_map(torch.full((channels, 8, 8), 90, dtype=torch.uint8), token_map))
        assert picture.shape == (8, 8, 3)
        assert np.unravel_index(picture.sum(2).argmax(), (8, 8)) == (0, 7)
