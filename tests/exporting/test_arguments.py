"""Classes must be as many as logits, and networks must have values."""

import warnings

import pytest
import torch
from torch import nn

from export_samples import Named, Pair
from saccade import UserError, export


def _normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    network(torch.zeros(1, 3, 9, 9))
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lambda x: x, "the model must be a torch.nn.Module, got function"),
        (lambda: nn.DataParallel(Pair()), "DataParallel spreads a network over devices: export its .module"),
        (lambda: Pair().to("meta"), "Pair is on the meta device, without values"),
        (_normed, "Sequential cannot be copied: .*remove_weight_norm"),
    ],
)
def test_networks_that_are_no_networks_yet(make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(make(), tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


def test_there_are_as_many_classes_as_logits(tmp_path):
    network = nn.Sequential(Named().conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="classes has 2 names, but the network returns 8 values per image"):
        export(network, tmp_path / "net.onnx", input=(3, 20, 24), classes=["a", "b"])
