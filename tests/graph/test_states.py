"""A network run in ``preserve_state`` stays unchanged."""

import torch
from torch import nn

from saccade.graph.states import preserve_state
from saccade.surgery import plug


class Buffered(nn.Module):
    """Changes one of its buffers whatever the mode; the other shares one element among all places."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shared", torch.ones(1).expand(3))
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x):
        self.count += 1
        return x


def test_buffers_are_put_back_and_the_others_not_written():
    network = Buffered().train()
    written = network.shared._version
    with preserve_state(network):
        network(torch.zeros(1))
        assert not network.training
        assert network.count.tolist() == [1, 1]
    assert network.training
    assert network.count.tolist() == [0, 0]
    assert network.shared._version == written
    network(torch.zeros(1))  # the twin
    assert network.count.tolist() == [1, 1]


def test_a_buffer_that_is_replaced_or_resized_is_put_back():
    network = Buffered()
    with preserve_state(network):
        network.shared = torch.zeros(3)
        network.count.resize_(5)
    assert network.shared.tolist() == [1, 1, 1]
    assert network.count.tolist() == [0, 0]


def test_plugging_a_network_with_a_shared_buffer():
    network = nn.Sequential(nn.Conv2d(3, 16, 3), Buffered())
    plug(network, "se", where="0", input=(3, 12, 10))
    assert network[1].count.tolist() == [0, 0]
