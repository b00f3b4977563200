"""``saccade check``: one line per promise, and the exit code."""

import io
import json
import subprocess
import sys

import pytest

from saccade.contract import ARCHITECTURE_PROMISES, PROMISES

STRANGER = """
'A module of somebody who uses saccade: one class that keeps every promise, one not finished, one that breaks some.'

import torch
from torch import nn


class Calm(nn.Module):
    'Keeps every promise.'

    def __init__(self, channels, strength=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), strength))

    def forward(self, x):
        return x * self.scale.to(x.dtype)


class Unfinished(Calm):
    'A mechanism whose forward pass is not implemented: every promise fails for that one reason.'

    def forward(self, x):
        raise NotImplementedError("one day")


class Hasty(Calm):
    'Keeps a tensor between calls.'

    def forward(self, x):
        self.last = super().forward(x).detach()
        return super().forward(x)


def net():
    'Builds a network that gives no logits.'
    return nn.Conv1d(3, 4, 1)
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    yield tmp_path
    sys.modules.pop("stranger", None)


def test_a_mechanism_that_keeps_all(run):
    code, out, _ = run("check", "se")
    assert code == 0
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[: len(PROMISES)]] == ["passed"] * len(PROMISES)
    assert "treats images apart" in out
    assert lines[-1] == f"se: {len(PROMISES)} passed, 0 failed, 0 skipped"


def test_options_and_channels_reach_the_mechanism(run):
    code, out, _ = run("check", "se:rd_ratio=0.5", "--channels", "6")
    assert code == 0
    assert out.endswith(f"se:rd_ratio=0.5: {len(PROMISES)} passed, 0 failed, 0 skipped\n")


def test_as_json(run):
    code, out, _ = run("check", "eca", "--json")
    records = json.loads(out)
    assert code == 0
    assert [record["promise"] for record in records] == [promise.__name__ for promise in PROMISES]
    assert records[0] == {"promise": "keeps_shape", "status": "passed", "reason": ""}


@pytest.mark.usefixtures("desk")
def test_a_strangers_class_without_facts(run):
    code, out, _ = run("check", "stranger:Calm:strength=2.0")
    assert code == 0
    assert out.count("there is no SPEC") == 5
    assert "0 failed, 5 skipped" in out


def test_an_architecture_is_tested_as_a_network(run):
    code, out, _ = run("check", "resnet10_small", "--option", "width=8", "--json")
    assert code == 0
    assert [record["promise"] for record in json.loads(out)] == [each.__name__ for each in ARCHITECTURE_PROMISES]


@pytest.mark.usefixtures("desk")
def test_a_function_that_builds_a_network_is_tested_as_a_network(run):
    code, out, _ = run("check", "stranger:net", "--input", "3,8,8", "--json")
    status = {record["promise"]: record["status"] for record in json.loads(out)}
    assert (code, status["takes_any_batch"], status["takes_any_classes"]) == (1, "failed", "skipped")


@pytest.mark.usefixtures("desk")
def test_a_broken_promise_is_exit_code_1(run):
    code, out, err = run("check", "stranger:Hasty")
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("failed")]
    assert "keeps nothing between calls" in failed[0]
    assert "leaves a tensor in last" in failed[0]
    assert err == ""
    code, out, _ = run("check", "stranger:Hasty", "--json")
    assert code == 1
    assert [r["status"] for r in json.loads(out)].count("failed") == len(failed)


@pytest.mark.usefixtures("desk")
def test_a_reason_is_told_once(run):
    code, out, _ = run("check", "stranger:Unfinished")
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("failed")]
    assert "NotImplementedError: one day (stranger.py, line" in failed[0]
    assert [line.split("  ")[-1].strip() for line in failed].count("same reason as keeps shape") > 10


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_which_promise_is_being_tried(run, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = run("check", "eca", "--json")
    assert code == 0
    assert len(json.loads(out)) == len(PROMISES)
    assert "compiles whole" in screen.getvalue()


def test_a_strangers_class_is_found_in_the_working_folder(desk):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.remove(''); sys.argv[1:] = ['check', 'stranger:Calm']; "
         "from saccade.cli import main; main()"],
        cwd=desk, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cbma",), "no mechanism and no architecture is called 'cbma'. Did you mean 'cbam'"),
        (("fcos",), "fcos is a detector"),
        (("se", "--input", "3,8,8"), "--input is for architectures"),
        (("nowhere.at.all:Thing",), "nowhere.at.all"),
        (("stranger:Clam",), "the module defines no class and no function 'Clam'. Did you mean 'Calm'?"),
        (("das:alpah=0.1",), "das has no option 'alpah'. Did you mean 'alpha'?"),
        (("se", "--channels", "3"), "channels * rd_ratio must be at least 1, got 3 * 0.0625"),
        (("se", "--channels", "0"), "0 is not in the range"),
    ],
)
@pytest.mark.usefixtures("desk")
def test_wrong_uses_are_exit_code_2(run, arguments, message):
    code, out, err = run("check", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
