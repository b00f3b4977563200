"""Heat maps in the colours of viridis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COLOURS", "draw_heat_map"]

COLOURS = (
    "#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725",
)  # fmt: skip
"""Ten steps of the colour map viridis."""


def draw_heat_map(values: Tensor) -> Image.Image:
    """Return a map (H, W) in [0, 1] as an RGB image, from dark (0) to yellow (1)."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], dtype=np.float64)
    positions = values.detach().clamp(0, 1).double().numpy() * (len(stops) - 1)
    channels = [np.interp(positions, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
