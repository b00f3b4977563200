"""``saccade compare --tune``: a small study whose recipe has a far too high learning rate."""

import json

import pytest

import saccade
from saccade import UserError
from saccade.study.collecting import collect
from saccade.study.plan import Study

PLANTED = "1e30"  # diverges at once
SETTINGS = ["training.epochs=1", "data.train_images=100", "data.test_images=50", "training.batch_size=20",
            f"training.lr={PLANTED}"]  # fmt: skip
WORDS = [
    "compare", "--attention", "se", "--seeds", "4,", "--device", "cpu", "--slots", "1", "--tune", f"lr={PLANTED},0.006",
    *(word for setting in SETTINGS for word in ("--set", setting)),
]  # fmt: skip


def test_every_arm_has_the_same_budget_and_finds_the_better_rate(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*WORDS, "--out", "s")
    assert code == 0, err
    said = out.splitlines()
    assert said[0] == "none, se × 1 seed = 2 runs, 1 at a time -> s"
    assert said[1] == "tuning first: 2 arms × 2 values × 1 seed = 4 runs, 1 at a time -> s/tuning"
    assert f"tuning finished; starting {said[0]}" in said
    assert "trained on 80 of the training images and scored on the other 20" in "".join(said)

    trials, study = Study.open("s/tuning"), Study.open("s")
    tuning, judged = ([(each, each.done_record) for each in plan.runs()] for plan in (trials, study))
    for arm in ("none", "se"):
        own = [(each.seed, each.recipe.training.lr) for each, _ in tuning if each.arm.mechanism == arm]
        assert sorted(own) == [(5, 0.006), (5, 1e30)]
    diverged = [(bool(done["diverged"]), run.recipe.training.lr == 1e30) for run, done in tuning]
    assert [pair for pair in diverged if pair[0] != pair[1]] == []
    assert [arm.by_seed for arm in study.arms] == [{4: {"training.lr": 0.006}}] * 2
    assert not any(done["diverged"] for _, done in judged)
    images = [{done["fingerprint"] for _, done in runs} for runs in (tuning, judged)]
    assert [len(found) for found in images] == [1, 1]
    assert images[0] != images[1], "tuning scores other images"

    found = json.loads((tmp_path / "s/results.json").read_text())["tuning"]
    assert found["runs_of_each_arm"] == 2
    assert [arm["chosen"] for arm in found["arms"].values()] == [{"4": {"training.lr": 0.006}}] * 2
    assert found["arms"]["none"]["scores"][1] == [None], "the planted rate diverged"
    text = (tmp_path / "s/report.html").read_text()
    assert "Tuned settings" in text
    assert "(1 diverged)" in text
    notes = [note.text for note in collect("s").notes if note.kind == "tuning"]
    assert notes[0].startswith("Every arm chose among lr=0.006, lr=1e+30 by 2 tuning runs on validation images")

    before = (tmp_path / "s/results.json").read_bytes()
    code, out, err = run(*WORDS, "--out", "s")
    assert code == 0, err
    assert {"4 of 4 runs are already finished", "2 of 2 runs are already finished"} <= set(out.splitlines())
    assert (tmp_path / "s/results.json").read_bytes() == before


def test_a_plan_counts_the_tuning_runs(run, tmp_path):
    code, out, err = run(*WORDS, "--tune-seeds", "2", "--out", str(tmp_path / "s"), "--plan")
    assert code == 0, err
    lines = out.splitlines()
    assert "× 2 seeds = 8 runs" in lines[1]
    assert any(line.startswith("tuning  about") and line.endswith(" for 8 runs before these") for line in lines)
    assert not (tmp_path / "s").exists()


def test_in_python(tmp_path):
    with pytest.raises(UserError, match="at least two values to choose from; found 1"):
        saccade.compare(attention="se", tune={"training.lr": [0.1]}, out=tmp_path / "s")
    with pytest.raises(UserError, match="is given twice"):
        saccade.compare(attention="se", tune="lr=0.1,0.1", out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
