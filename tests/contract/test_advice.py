"""What the contract tells a stranger whose module is wrong in a usual way: what happened, where, and what mends it."""

import numpy as np
import pytest
import torch
from torch import nn

from saccade.contract import PROMISES, examine


class Common(nn.Module):
    """As the usual module is written; each stranger below has one usual mistake."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def squeeze(self, x):
        return x.mean((2, 3))

    def forward(self, x):
        return x * self.fc(self.squeeze(x)).sigmoid()[..., None, None].to(x.dtype)


class Flattens(Common):
    def __init__(self, channels):
        super().__init__(channels)
        self.all = nn.Linear(channels * 49, channels)

    def squeeze(self, x):
        return self.all(x.flatten(1))


class BatchNorm1d(Common):
    def __init__(self, channels):
        super().__init__(channels)
        self.bn = nn.BatchNorm1d(channels)

    def squeeze(self, x):
        return self.bn(super().squeeze(x))


class Float32Alone(Common):
    def squeeze(self, x):
        return super().squeeze(x).float()


class CallsNumpy(Common):
    def squeeze(self, x):
        return torch.from_numpy(np.mean(x.numpy(), axis=(2, 3)))


class ReadsData(Common):
    def squeeze(self, x):
        return super().squeeze(x).data


class Branches(Common):
    def squeeze(self, x):
        z = super().squeeze(x)
        if z.max() > 0.5:
            z = z / 2
        return z


class KeepsItsMap(Common):
    def squeeze(self, x):
        self.last_attn = super().squeeze(x) * torch.ones(1, dtype=x.dtype, requires_grad=True)
        return self.last_attn


class DividesChannels(nn.Module):
    def __init__(self, channels, reduction=16):
        super().__init__()
        self.squeeze, self.excite = (nn.Conv2d(*sides, 1) for sides in _sides(channels, channels // reduction))

    def forward(self, x):
        return x * self.excite(self.squeeze(x)).sigmoid().to(x.dtype)


def _sides(channels, hidden):
    return (channels, hidden), (hidden, channels)


class NoChannels(nn.Module):
    def __init__(self):
        super().__init__()


class NoModule:
    def __init__(self, channels):
        pass


class FailsInside(nn.Module):
    def __init__(self, channels):
        super().__init__()
        len(channels)


@pytest.mark.parametrize(
    ("stranger", "promise", "words"),
    [
        (Flattens, "keeps_shape", ["(2, 64, 7, 5) is refused", "self.all(x.flatten(1))", "takes maps of any size"]),
        (BatchNorm1d, "takes_one_image", ["more than 1 value per channel", "saccade.bases.BatchNorm2d"]),
        (Float32Alone, "keeps_shape", ["test_advice.py, line", "with dtype=x.dtype"]),
        (CallsNumpy, "reaches_every_parameter", ["x.numpy()", "use torch operators"]),
        (ReadsData, "has_true_gradients", ["input", "a tensor is detached (.detach(), .data, .item(), numpy)"]),
        (ReadsData, "exports_for_any_size", ["a tensor is detached from the graph, for example by .data"]),
        (Branches, "compiles_whole", ["Data-dependent branching", "line", "if z.max() > 0.5:", "torch.where"]),
        (Branches, "exports_for_any_size", ["if z.max() > 0.5:", "torch.where"]),
        (KeepsItsMap, "keeps_nothing_between_calls", ["leaves a tensor in last_attn"]),
        (KeepsItsMap, "survives_copying", ["the module keeps an output of a forward pass"]),
        (NoChannels, "keeps_shape", ["built as Class(channels, **options)", "takes 1 positional argument but 2"]),
        (NoModule, "keeps_shape", ["make must return a torch.nn.Module, got NoModule"]),
        (FailsInside, "keeps_shape", ["TypeError: object of type 'int' has no len()", ": len(channels))"]),
    ],
)
def test_a_usual_mistake_is_told_with_its_place_and_what_mends_it(stranger, promise, words):
    (record,) = examine(stranger, promises=[each for each in PROMISES if each.__name__ == promise])
    assert record.status == "failed"
    assert [part for part in words if part not in record.reason] == [], record.reason
    assert "\n" not in record.reason


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # torch's own word for the layer without a unit
def test_a_layer_of_no_unit_is_named():
    (promise,) = (each for each in PROMISES if each.__name__ == "takes_any_channels")
    (record,) = examine(DividesChannels, promises=[promise])
    assert record.status == "failed"
    assert "at 8 channels squeeze.weight is (0, 8, 1, 1), an empty layer" in record.reason


def test_the_usual_module_without_a_mistake_passes():
    assert {r.promise: r.reason for r in examine(Common) if r.status == "failed"} == {}
