"""Damaged files, hostile names and absurd settings end in a message; ``hostile_runs.py`` tries many more."""

import json
import math
import os
import random
import re
import resource
import shutil
import sys
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hostile_inputs import mutate, names, prepare_name, settings
from hostile_runs import COUNTS, attack, study
from saccade import Recipe, UserError, cost
from saccade.escaping import printable
from saccade.study.arms import Arm, arms
from saccade.study.plan import Study
from saccade.study.report import write_report

HARMLESS = dict.fromkeys(COUNTS, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder with the study ``s``, three of its four runs finished."""
    home = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "measure_all", partial(cost.measure_all, runs=3))
        study(home)
    return home


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def harmless(outcome):
    return {name: outcome.counts[name] for name in COUNTS} == HARMLESS


def test_a_whole_study_is_reported(copy):
    before = (copy / "s/report.html").read_bytes()
    outcome = attack(copy, "report", "s")
    assert (outcome.code, outcome.printed) == (0, "s/report.html\n")
    assert (copy / "s/report.html").read_bytes() == before


@pytest.mark.parametrize("number", range(12))
def test_a_damaged_file_ends_in_a_message(copy, number):
    what = mutate(copy, random.Random(f"1/{number}"), network=False)
    outcome = attack(copy, "report", "s")
    assert harmless(outcome), (what, outcome)
    assert outcome.code in (0, 2)


DAMAGE = {
    "none/seed0/done.json": [
        '{"scores": 9',
        "[]",
        "{}",
        '{"top1": 101, "test_loss": 0.1}',
        '{"scores": {"top-1": "9"}}',
        "[" * 100_000,
        '{"top1": ' + "9" * 5000 + "}",
    ],
    "none/seed0/recipe.toml": ["a = [", "[data]\nsze = 3", "a = " + "[" * 10_000],
    "none/seed0/environment.json": ["{}", '{"device": 3}', '{"device": "\\ud800"}'],
    "none/seed0/metrics.jsonl": [
        "{\n",
        '{"epoch": 5, "test_top1": 3.0, "gates": {}}\n',
        '{"epoch": 5, "scores": {}, "gates": {}}\n',
        '{"epoch": NaN}',
    ],
    "none/seed0/rows.safetensors": ["", "x" * 100],
    "se/seed1/failed.json": ["[]", '{"reason": 3}'],
    "costs.json": ["[]", '{"none": {}}', '{"none": {"parameters": 1e999}}'],
    "study.toml": [
        "",
        "margin = 'x'",
        "seeds = [0]\nmargin = 1.0\nrecipe = {}\narms = [{name = '\\u001b', mechanism = 'a'}]",
        "seeds = [0]\nrecipe = {}\narms = [{name = 'none'}, {name = 'a', settings = {'training.lr' = 'x'}}]",
        "seeds = [0]\nrecipe = {}\narms = [{name = 'none'}, {name = 'a', settings = {'a.b' = 1}}]",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGE.items() for text in texts])
def test_the_message_names_the_file(copy, name, text):
    (copy / "s" / name).write_text(text)
    with pytest.raises(UserError) as refused:
        write_report(copy / "s")
    assert str(copy / "s" / name) in str(refused.value)
    assert len(str(refused.value)) < 700
    assert printable(refused.value) == str(refused.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself"])
def test_pipes_are_refused_without_waiting(copy, kind):
    path = copy / "s/none/seed0/done.json"
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(UserError, match=r"none/seed0/done\.json"):
        write_report(copy / "s")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": None}, "hold nll, predicted, rank; 'label' is needed"),
        ({"predicted": None}, "hold label, nll, rank; 'predicted' is needed"),
        ({"label": [1, 2]}, "all tensors must have the same number of images: .*label 2"),
        ({"predicted": 1}, "'predicted' is a single number; one entry for each image"),
        ({"a/b": [1]}, "'a/b' has no 'a/offsets' beside it"),
        ({"predicted": [[1, 2]] * 20}, "give no top-1: The size of tensor a"),
        ({"predicted": [[1]] * 20}, r"give top-1 values of shape \(20, 20\); \(20,\) is needed"),
        ({"label": [[1]] * 20}, "the labels of their test images differ"),
    ],
)
def test_rows_are_checked(copy, changes, words):
    path = copy / "s/none/seed0/rows.safetensors"
    rows = load_file(path) | {name: values and np.array(values) for name, values in changes.items()}
    save_file({name: values for name, values in rows.items() if values is not None}, path)
    with pytest.raises(UserError, match=words) as refused:
        write_report(copy / "s")
    assert re.search("(Delete|Remove) the (run )?folder", str(refused.value))


def test_a_damaged_run_is_repeated_once_its_folder_is_deleted(copy):
    run = copy / "s/none/seed0"
    whole = json.loads((run / "done.json").read_text())
    (run / "done.json").write_text('{"scores": 9')
    words = ("train", "none0.toml", "--device", "cpu", "--out", "s/none/seed0")
    outcome = attack(copy, *words)
    assert outcome.code == 2
    assert "Delete the folder s/none/seed0 and repeat the command" in outcome.printed
    shutil.rmtree(run)
    assert attack(copy, *words).code == 0
    assert json.loads((run / "done.json").read_text())["scores"] == whole["scores"]


def test_a_study_stops_at_a_damaged_run(copy):
    words = ("compare", "--recipe", "none0.toml", "--attention", "se", "--seeds", "2", "--out", "s", "--device", "cpu")
    (copy / "s/se/seed0/done.json").write_text('{"top1": "9"}')
    outcome = attack(copy, *words)
    assert (outcome.code, harmless(outcome)) == (2, True), outcome
    assert "s/se/seed0/done.json is damaged: top1 = '9': input should be a valid number" in outcome.printed


def test_a_folder_may_be_deeper_than_the_recursion_limit(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 1500)
    plan = Study(Recipe(), arms(["se"]), (0,), deep)
    try:
        assert plan.check_folder() is False
        plan.write()
        assert plan.check_folder() is True
        assert Study.open(deep) == plan
    finally:
        (deep / "study.toml").unlink(missing_ok=True)
        for folder in (deep, *deep.parents):
            if folder == tmp_path:
                break
            folder.rmdir()


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ({"arms": (Arm("none"), Arm("se\x1b[2J"))}, "a name with control characters"),
        ({"arms": (Arm("none"), Arm(".."))}, r"'\.\.' of 2 characters; .* not only dots"),
        ({"arms": (Arm("none"), Arm("x" * 300))}, "of 300 characters; 1 to 200 are needed"),
        ({"seeds": tuple(range(5001))}, "2 arms with 5001 seeds are 10002 runs; a study has at most 10000"),
        ({"margin": math.inf}, "margin = inf: it must be a finite number above 0"),
        ({"arms": (Arm("none"), Arm("a", {"training.lr": "x"}))}, "the arm 'a': training.lr = 'x'"),
    ],
)
def test_a_design_has_limits(tmp_path, design, words):
    plain = {"base": Recipe(), "arms": arms(["se"]), "seeds": (0,), "folder": tmp_path}
    with pytest.raises(UserError, match=words):
        Study(**plain | design)
    Study(**plain)


@pytest.mark.parametrize("number", [0, 1, 2, 5, 7, 8, 9, 12, 13, 20, 24, 28, 29, 31, 38, 40])
def test_a_hostile_name_ends_in_a_message(copy, number):
    name = list(names(random.Random(0), number + 1))[number]
    outcome = attack(copy, *prepare_name(copy, name, number))
    assert harmless(outcome), (name, outcome)


ABSURD = [words for words in settings(random.Random(0), 60) if words[0] != "measure"]


@pytest.mark.parametrize("number", range(0, len(ABSURD), 4))
def test_an_absurd_setting_ends_in_a_message(tmp_path, number):
    outcome = attack(tmp_path, *ABSURD[number])
    assert harmless(outcome), outcome
    assert outcome.code == 2
    assert len(outcome.printed) < 2500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("training.threads=100000", 1024), ("training.workers=5000", 256), ("training.batch_size=10000000", 131072),
        ("training.epochs=1000000", 100000), ("data.train_images=10000000000", 1000000000), ("data.size=4096", 2048),
        ("training.lr=inf", "finite"), ("training.momentum=nan", "finite"), ("attention.lr_factor=1e400", "finite"),
        ("data.options.distractors=1000000", 1000),
    ],
)  # fmt: skip
def test_the_message_states_the_limit_and_the_value(tmp_path, setting, limit):
    outcome = attack(tmp_path, "train", "--set", setting, "--out", "new")
    assert outcome.code == 2
    assert setting.partition("=")[0].rpartition(".")[2] in outcome.printed
    assert str(limit) in outcome.printed


def test_a_full_disk_ends_in_a_message(copy):
    """A limit on file size stands in for a full disk."""
    shutil.rmtree(copy / "s/none/seed0")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for words in (("report", "s"), ("train", "none0.toml", "--device", "cpu", "--out", "s/none/seed0")):
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            outcome = attack(copy, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert harmless(outcome), outcome
        assert outcome.code == 2
        assert "File too large" in outcome.printed
        after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        assert {path: after[path] for path in before if path.suffix != ".md"} == {
            path: content for path, content in before.items() if path.suffix != ".md"
        }


def test_a_lost_working_directory_ends_in_a_message(tmp_path, monkeypatch, capsys):
    from saccade.cli import main

    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["saccade", "list"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "the working directory cannot be used" in capsys.readouterr().err


def test_a_bug_still_shows_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(Study, "open", lambda folder: 1 / 0)
    assert "ZeroDivisionError" in attack(tmp_path, "report", "s").trace


def test_side_effects_are_counted(copy):
    """Counts of 0 mean that nothing happened, since events are counted."""
    (copy / "s/table.md").write_text("<script>\x1b")
    (copy / "s/report.html").write_text("<html>")
    counts = attack(copy, "list").counts
    assert (counts["tags"], counts["control characters"], counts["half-written files"]) == (1, 1, 1)


def test_commands_and_calls_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "open", lambda folder: os.system("true"))
    assert attack(tmp_path, "report", "s").counts["commands run"] > 0
