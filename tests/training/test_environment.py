"""Versions and hardware of a run, and the choice of its device."""

import json
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import saccade
from saccade.errors import UserError
from saccade.training.environment import choose_device


def test_the_environment_names_versions_and_nobody(straight):
    text = (straight[0] / "environment.json").read_text()
    facts = json.loads(text)
    assert facts["packages"]["torch"] == version("torch")
    assert (facts["packages"]["saccade"], facts["device"], facts["threads"]) == (saccade.__version__, "cpu", 1)
    assert facts["cpu"]
    for private in (socket.gethostname(), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert private not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:97", "PyTorch"),
        ("cuda:one", "no device 'cuda:one'"),
        ("cpu:1", "no device 'cpu:1'"),
        ("gpu", "no device 'gpu'; choose auto, cpu, cuda, cuda:<number> or mps"),
        ("coda", "Did you mean 'cuda'?"),
    ],
)
def test_devices_that_are_not_there(name, words):
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_devices_that_are_there():
    assert choose_device("cpu") == torch.device("cpu")
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == kind
