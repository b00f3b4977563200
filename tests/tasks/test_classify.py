"""The rates of a schedule, and the place where a loss stopped being a number."""

import math

import pytest
import torch
from torch import nn

from saccade.tasks.classify import rate
from saccade.tasks.divergence import DivergenceError, locate


def test_rates():
    shape = [rate(step, 10, 4, "cosine") for step in range(10)]
    assert shape[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shape[4] == 1.0
    assert shape[7] == pytest.approx(0.5)
    assert shape == sorted(shape[:4]) + sorted(shape[4:], reverse=True)
    assert 0 < shape[9] < 0.1
    assert [rate(step, 4, 0, "constant") for step in range(4)] == [1.0] * 4
    assert rate(0, 4, 2, "constant") == 0.5
    assert rate(0, 2, 8, "cosine") == 0.125  # a warm-up longer than the run


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
    found = locate(network, images, lambda logits: logits.sum() * scale)
    assert found == (what, path.get(what, "body.1"))
    assert not any(module._forward_hooks for module in (network, network.stem, network.body[0]))


def test_a_divergence_is_said_in_words():
    error = DivergenceError(3, 17, "output", "layer1.0.bn2")
    assert str(error) == "diverged in epoch 3, at step 17: the output of layer1.0.bn2 is not finite"
    assert str(DivergenceError(2, 0, "loss", "")) == "diverged in epoch 2, at the test images: the loss is not finite"
