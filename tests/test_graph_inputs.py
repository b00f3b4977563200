"""The example picture is the one the network takes; a look at a network leaves no trace."""

import pytest
import torch
from torch import nn

import saccade
from saccade.graph.inputs import example_input, is_out_of_memory
from saccade.graph.states import preserve_state
from saccade.surgery import plug


def _network(channels, stated):
    network = nn.Sequential(nn.Conv2d(channels, 4, 3))
    if stated is not None:
        network.pretrained_cfg = {"input_size": stated}
    return network


def test_the_first_convolution_corrects_the_stated_channels_unless_it_folds():
    def channels(*network):
        return example_input(_network(*network))[0].shape[1]

    assert channels(1, (3, 32, 24)) == 1
    assert channels(13, (3, 32, 24)) == 13
    assert channels(48, (3, 32, 24)) == 3  # pixels folded into channels before it
    assert channels(48, None) == 48
    assert example_input(_network(1, (3, 32, 24)))[0].shape == (1, 1, 32, 24)


def test_the_global_default_device_does_not_matter():
    wanted, network = example_input(_network(3, (3, 8, 6)))[0], _network(3, (3, 8, 6))
    records = saccade.check(lambda c: saccade.create("se", c), channels=16)
    with torch.device("meta"):
        assert torch.equal(example_input(network)[0], wanted)
        assert saccade.check(lambda c: saccade.create("se", c), channels=16) == records
    assert any(record.status == "passed" for record in records)


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, told):
    assert is_out_of_memory(error) is told
