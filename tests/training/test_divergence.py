"""Location of the first tensor that is not finite."""

import math

import pytest
import torch
from torch import nn

from saccade.training.divergence import DivergenceError, locate_nonfinite


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))

    def forward(self, x):
        return self.body(self.stem(x)).mean((2, 3))


@pytest.mark.parametrize("what", ["gradient", "parameter", "buffer", "output", "loss"])
def test_the_first_thing_that_is_no_number_is_found(what):
    network, images = Chain().eval(), torch.randn(2, 1, 5, 7)
    path = {"gradient": "body.2.bias", "parameter": "body.2.weight", "buffer": "body.0.running_var", "loss": ""}
    scale = math.inf if what == "loss" else 1.0
    if what == "gradient":  # it arises at the end and spreads to the front: the end is meant
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
    elif what == "parameter":
        network.body[2].weight.data[0] = math.inf
    elif what == "buffer":
        network.body[0].running_var[1] = math.nan
    elif what == "output":
        network.body[1].register_forward_hook(lambda module, inputs, output: output / 0)
        network.body[0].running_mean[:] = -9.0  # all above 0, so that all become infinite
    found = locate_nonfinite(network, lambda: network(images).sum() * scale)
    assert found == (what, path.get(what, "body.1"))
    assert not any(module._forward_hooks for module in (network, network.stem, network.body[0]))


def test_a_divergence_is_said_in_words():
    error = DivergenceError(3, 17, "output", "layer1.0.bn2")
    assert str(error) == "diverged in epoch 3, at step 17: the output of layer1.0.bn2 is not finite"
    assert str(DivergenceError(2, 0, "loss", "")) == "diverged in epoch 2, at the test images: the loss is not finite"
