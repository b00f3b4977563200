"""Example inputs."""

import pytest
import torch
from torch import nn

import saccade
from saccade.graph.inputs import example_input, is_out_of_memory


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
        torch.testing.assert_close(example_input(network)[0], wanted, rtol=0, atol=0)
        assert saccade.check(lambda c: saccade.create("se", c), channels=16) == records
    assert [record for record in records if record.status == "failed"] == []
    assert [record.reason for record in records if record.status == "skipped"] == ["there is no SPEC"] * 5


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
