"""``saccade compare --tune``: a small real study whose recipe has a rate far too high."""

import json
import subprocess
import sys

import pytest

import saccade
from saccade import UserError
from saccade.runfiles import read_done
from saccade.study.plan import Study
from saccade.study.results import collect

PLANTED = "1e30"  # diverges at once
SETTINGS = ["training.epochs=1", "data.train_images=100", "data.test_images=50", "training.batch_size=20",
            f"training.lr={PLANTED}"]  # fmt: skip
WORDS = [
    sys.executable, "-m", "saccade", "compare", "--attention", "se", "--seeds", "4,",
    "--device", "cpu", "--slots", "1", "--out", "s", "--tune", f"lr={PLANTED},0.006",
    *(word for setting in SETTINGS for word in ("--set", setting)),
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def said(home):
    return _lines(home)


def _lines(home, *words):
    done = subprocess.run([*WORDS, *words], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_stages_are_said(home, said):
    assert said[0] == "none, se × 1 seed = 2 runs, 1 at a time -> s"
    assert said[1] == "tuning first: 2 arms × 2 values × 1 seed = 4 runs, 1 at a time -> s/tuning"
    assert f"tuned; now {said[0]}" in said
    assert "trained on 80 of the training images and scored on the other 20" in "".join(said)


def test_every_arm_has_the_same_budget_and_finds_the_better_rate(home, said):
    trials, study = Study.open(home / "s/tuning"), Study.open(home / "s")
    assert len(trials.runs()) == 4
    for run in trials.runs():
        assert bool(read_done(run.folder / "done.json")["diverged"]) == (run.recipe.training.lr == 1e30)
        assert run.seed == 5
    assert [arm.by_seed for arm in study.arms] == [{4: {"training.lr": 0.006}}] * 2
    assert not any(run.finished["diverged"] for run in study.runs())


def test_tuning_never_scores_the_test_images(home, said):
    prints = {
        part: {run.finished["fingerprint"] for run in Study.open(home / part).runs()} for part in ("s", "s/tuning")
    }
    assert all(len(found) == 1 for found in prints.values())
    assert prints["s"] != prints["s/tuning"]


def test_report_and_results_say_what_was_chosen(home, said):
    found = json.loads((home / "s/results.json").read_text())["tuning"]
    assert found["runs_of_each_arm"] == 2
    assert {name: arm["chosen"] for name, arm in found["arms"].items()} == {
        name: {"4": {"training.lr": 0.006}} for name in ("none", "se")
    }
    assert found["arms"]["none"]["scores"][1] == [None], "the planted rate diverged"
    text = (home / "s/report.html").read_text()
    assert "What was chosen" in text
    assert "(1 diverged)" in text
    notes = [note.text for note in collect(home / "s").notes if note.kind == "tuning"]
    assert notes[0].startswith("Every arm chose among lr=0.006, lr=1e+30 by 2 tuning runs on validation images")


def test_the_same_command_goes_on(home, said):
    before = (home / "s/results.json").read_bytes()
    again = _lines(home)
    assert "4 of 4 runs are there already" in again
    assert "2 of 2 runs are there already" in again
    assert (home / "s/results.json").read_bytes() == before


def test_a_plan_counts_the_tuning_runs(home):
    lines = _lines(home, "--plan", "--tune-seeds", "2", "--out", "other")
    assert "× 2 seeds = 8 runs" in lines[1]
    assert any(line.startswith("tuning  about") and line.endswith(" for 8 runs before these") for line in lines)
    assert not (home / "other").exists()


def test_in_python(tmp_path):
    with pytest.raises(UserError, match="at least two values to choose from; found 1"):
        saccade.compare(attention="se", tune={"training.lr": [0.1]}, out=tmp_path / "s")
    with pytest.raises(UserError, match="is to be tried twice"):
        saccade.compare(attention="se", tune="lr=0.1,0.1", out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
