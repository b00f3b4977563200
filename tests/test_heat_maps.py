"""Colours of heat maps."""

import numpy as np
import torch
from matplotlib import colormaps

from saccade.heat_maps import draw_heat_map


def test_heat_maps_have_the_colours_of_viridis():
    values = torch.linspace(0, 1, 101).view(1, -1)
    drawn = np.asarray(draw_heat_map(values)).astype(int)
    known = (255 * colormaps["viridis"](values.numpy())[..., :3]).round()
    assert drawn.shape == (1, 101, 3)
    assert np.abs(drawn - known).max() <= 16  # linear between ten colours
    assert (np.asarray(draw_heat_map(torch.tensor([[-1.0, 2.0]]))) == drawn[:, [0, -1]]).all()
