"""A network is written as a whole or not at all, with a host that rebuilds it."""

import logging
import sys

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import UserError, load, plug, save
from saccade.contract.randomize import perturb
from saved_folders import assert_same_outputs, small_resnet

SIZE = (3, 32, 24)


def test_the_same_network_gives_the_same_bytes(saved, tmp_path):
    folder, network = saved
    save(network, tmp_path / "again", input=(1, 32, 24), classes=list("abcde"), epochs=3, note="x")
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_class_without_arguments_is_found_by_itself(tmp_path):
    network = perturb(plug(MobileNetV2(), "se", where="features.18", input=SIZE)).eval()
    config = save(network, tmp_path, input=SIZE)
    assert config["host"] == {"call": "torchvision.models.mobilenetv2:MobileNetV2", "options": {}}
    assert_same_outputs(network, load(tmp_path))


def test_a_guess_that_computes_something_else_is_no_guess(tmp_path, caplog):
    network = perturb(small_resnet()).eval()
    network.act1 = nn.GELU()  # same keys, same shapes
    with caplog.at_level(logging.WARNING, "saccade"):
        assert save(network, tmp_path)["host"] is None
    assert "will need the host" in caplog.text
    with pytest.raises(UserError, match=r"does not say how its host is built; give it: saccade.load\(.*host=…"):
        load(tmp_path)
    host = small_resnet()
    host.act1 = nn.GELU()
    assert_same_outputs(network, load(tmp_path, host=host))


def test_a_mechanism_without_a_name_is_said(tmp_path, caplog):
    class Local(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x):
            return x * self.scale

    network = perturb(plug(small_resnet(), Local, input=SIZE)).eval()
    with caplog.at_level(logging.WARNING, "saccade"):
        save(network, tmp_path, host={"timm": "resnet10_small", "options": {"num_classes": 5}})
    assert "load will need a host that has its plugs already" in caplog.text
    with pytest.raises(UserError, match="Local"):
        load(tmp_path)
    assert_same_outputs(network, load(tmp_path, host=plug(small_resnet(), Local, input=SIZE)))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"host": {"timm": "resnet10_small", "options": {"num_classes": 6}}}, "another network: different shapes: fc"),
        ({"host": {"timm": "resnet10_small", "options": {"width": "wide"}}}, "cannot be built"),
        ({"loss": torch.zeros(2)}, "a value to be saved is not JSON-serialisable"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_writes_nothing(tmp_path, facts, message):
    with pytest.raises(UserError, match=message):
        save(small_resnet(), tmp_path / "net", **facts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file where a folder would be")
def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot write the network to"):
        save(small_resnet(), tmp_path / "file" / "net")
    assert (tmp_path / "file").read_text() == "here"


def test_a_network_that_lost_a_plug_is_not_saved(tmp_path):
    network = plug(small_resnet(), "se", input=SIZE)
    network.layer2[0].bn2.__class__ = nn.BatchNorm2d
    with pytest.raises(UserError, match=r"at layer2.0.bn2, the plug is lost"):
        save(network, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_files(saved, monkeypatch):
    folder, network = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("saccade.saving.writing.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save(network, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_what_cannot_be_loaded_is_said(tmp_path, caplog):
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    nn.init.constant_(network[0].bias, torch.nan)
    save(network, tmp_path)
    assert "0.bias has values that are infinite or NaN; load refuses such weights" in caplog.text


# Wrong types, damage
