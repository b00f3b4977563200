"""Weights must be finite and of the dtype family of the network."""

import pytest
import torch
from torch import nn

from saccade import UserError, load, save
from saved_folders import change_weights, refusal


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(folder, value):
    change_weights(folder, lambda state: state["fc.weight"][0, :2].fill_(value))
    assert "model.safetensors: fc.weight holds 2 values of" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "dtype", "message"),
    [
        ("fc.weight", torch.int64, "fc.weight is of dtype int64; a floating dtype such as float32 is needed"),
        ("fc.weight", torch.complex64, "fc.weight is of dtype complex64; a floating dtype such as float32 is needed"),
        ("fc.weight", torch.float8_e4m3fn, "fc.weight is of dtype float8_e4m3fn; a floating dtype"),
        ("bn1.num_batches_tracked", torch.float32, "is of dtype float32; a integer dtype such as int64 is needed"),
        ("bn1.num_batches_tracked", torch.bool, "is of dtype bool; a integer dtype such as int64 is needed"),
    ],
)
def test_weights_are_of_the_dtype_family(folder, key, dtype, message):
    change_weights(folder, lambda state: state.update({key: state[key].to(dtype)}))
    assert message in refusal(folder)


def test_another_dtype_of_the_family_loads(folder):
    change_weights(folder, lambda state: state.update({"fc.weight": state["fc.weight"].half()}))
    assert load(folder).fc.weight.dtype == torch.float16


def test_a_mask_may_be_infinite_where_the_network_says_so(tmp_path):
    def make():
        network = nn.Sequential(nn.Conv2d(3, 4, 1))
        network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return network

    save(_randomise_but_mask(make()), tmp_path)
    assert load(tmp_path, host=make()).mask.isinf().tolist() == [False, True]
    change_weights(tmp_path, lambda state: state["mask"].fill_(-torch.inf))
    with pytest.raises(UserError, match="mask holds 1 values of 2"):
        load(tmp_path, host=make())


def _randomise_but_mask(network):
    nn.init.uniform_(network[0].weight, 0.1, 1)
    return network
