"""Tilt: a gate for each channel, whatever the image.

y = x · sigmoid(w), w (C,)
"""

import torch
from torch import nn

from saccade.bases import Gate

__all__ = ["Tilt"]

SPEC = {
    "name": "tilt",
    "title": "Tilt",
    "kind": "gate",
    "evidence": "reading",
    "position": {"default": "stage"},
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
}


class Tilt(Gate):
    """A gate of one number a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def gate(self, x):
        return self.weight.sigmoid()[:, None, None].expand(len(x), -1, 1, 1)
