"""Saved networks for tests: folders, how to damage them, and the message of their refusal."""

import json
import shutil
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import saccade.models  # noqa: F401 (registers resnet10_small)
from hostile import _sign, sample, trial
from saccade import load, plug, save
from saccade.contract.randomize import perturb

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
from torch import nn
class Net(nn.Sequential):
    def __init__(self, **options):
        super().__init__(nn.Conv2d(3, 4, 1), nn.ReLU())
class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels)
    def forward(self, x):
        return x * self.scale(x).sigmoid()
class NoModule:
    def __init__(self, channels):
        raise AssertionError("called")
def make(channels):
    raise AssertionError("called")
"""


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A saved network with plugs, a control and a replaced convolution."""
    folder = tmp_path_factory.mktemp("saved") / "net"
    sample(folder)
    load(folder)  # later loads then import nothing
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy of ``source`` that a test may change."""
    return shutil.copytree(source, tmp_path / "net")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Path of a file that exists once ``evil_package``, on the import path, was imported."""
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text(EVIL)
    (package / "inner.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield package / "imported"
    for name in [name for name in sys.modules if name.startswith("evil_package")]:
        del sys.modules[name]


def change_config(folder, **values):
    """Set values in ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    """Apply ``change`` to the state dict in ``model.safetensors``, and update the digest."""
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    _sign(folder)


def refusal(folder, **arguments):
    """Return the message of the UserError that loading ``folder`` raises; check that nothing else happens."""
    outcome = trial("", lambda: load(folder, **arguments))
    assert (outcome.kind, outcome.acts) == ("refused", ()), outcome
    return outcome.message


def randomise(network):
    """Draw all weights and statistics, so that none has its initial value; return ``network``."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network


def small_resnet(**options):
    return timm.create_model("resnet10_small", **({"num_classes": 5, "width": 16} | options))


@pytest.fixture
def saved(tmp_path):
    """A folder with a plugged network, and the network."""
    network = perturb(plug(small_resnet(in_chans=1), "cbam", input=(1, 32, 24))).eval()
    save(network, tmp_path / "net", input=(1, 32, 24), classes=["a", "b", "c", "d", "e"], epochs=3, note="x")
    return tmp_path / "net", network


def outputs(network, size=(3, 32, 24)):
    """Return the outputs of ``network``, in eval mode, for fixed images of ``size`` (C, H, W)."""
    images = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.eval()(images)


def assert_same_outputs(left, right, size=(3, 32, 24)):
    """Compare the keys of two networks and, bit for bit, their outputs for images of ``size`` (C, H, W)."""
    assert left.state_dict().keys() == right.state_dict().keys()
    torch.testing.assert_close(outputs(left, size), outputs(right, size), rtol=0, atol=0)
