"""Every warning that is let pass has a reproduction here: one that no longer fires must go from the list."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONFIGURED: dict[str, str] = {}
"""Exceptions of ``filterwarnings`` in pyproject.toml -> code that makes them fire."""

FIT = """
import logging
import os
os.sched_getaffinity = lambda process: range(16)  # Lightning speaks of workers on larger machines only
os.cpu_count = lambda: 16
import torch
from lightning.pytorch import LightningModule, Trainer
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
class Task(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
    def training_step(self, batch, i):
        return self.net(batch[0]).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1)), num_workers=0)
Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu").fit(Task(), data)
"""
HOST = """
import warnings
import torch
class Host(torch.nn.Module):
    def forward(self, x):
        warnings.warn("of the host's own")
        return x
Host().train()(torch.ones(1))
"""
SILENCED = {
    # One more forward than the host's owner asked for, of a copy: its warnings belong to the owner's own.
    "of the host's own": ("src/saccade/graph/states.py", HOST),
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    "`isinstance(treespec, LeafSpec)` is deprecated": ("src/saccade/training/run.py", FIT),
    # Lightning's advice on the number of workers: the recipe decides it.
    "does not have many workers": ("src/saccade/training/run.py", FIT),
    # The variance of an empty batch, which the contract tries on purpose.
    "degrees of freedom is <= 0": ("src/saccade/contract/shapes.py", "import torch; torch.var_mean(torch.ones(0), 0)"),
    # grad-cam hands a tensor to np.argwhere.
    "__array_wrap__ must accept": (
        "src/saccade/explanation/faithfulness.py",
        "import numpy, torch; numpy.argwhere(torch.ones(2, 2))",
    ),
}
"""Message -> where the package itself silences it, and code that makes it fire."""


def _warnings(code, tmp_path):
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path)
    return done.stderr


@pytest.fixture(scope="module")
def fired(tmp_path_factory):
    """fired(code) -> what it warns of; each is run once."""
    return cache(lambda code: _warnings(code, tmp_path_factory.mktemp("fire")))


def test_every_exception_of_the_configuration_is_reproduced():
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert configured[0] == "error"
    assert set(configured[1:]) == set(CONFIGURED)


@pytest.mark.parametrize("message", SILENCED)
def test_what_the_package_silences_still_fires(message, fired):
    assert message in fired(SILENCED[message][1]), "no longer fires: remove the exception"


def test_every_place_that_silences_is_listed():
    silent = re.compile(r"filterwarnings\(|simplefilter\(")
    places = {str(p.relative_to(ROOT)) for p in ROOT.glob("src/**/*.py") if silent.search(p.read_text())}
    assert places == {place for place, _ in SILENCED.values()}
