"""``saccade compare``: a small study, killed and resumed, planned, and used wrongly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from older_versions import as_before

from saccade import Recipe
from saccade.cli import main
from saccade.data import find_layout
from saccade.recipe import Data
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study

SETTINGS = ["training.epochs=2", "data.train_images=200", "data.test_images=100", "training.batch_size=50"]
WORDS = [
    "--attention",
    "se",
    "--seeds",
    "2",
    "--device",
    "cpu",
    "--slots",
    "1",
    *(w for s in SETTINGS for w in ("--set", s)),
]
RUNS = [(arm, seed) for seed in (0, 1) for arm in ("none", "se")]


STUCK = 600.0
"""Seconds that no machine takes, however loaded it is."""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def _command(*words):
    return [sys.executable, "-m", "saccade", "compare", *WORDS, *words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder, stdout, stderr and exit code of an uninterrupted study."""
    home = tmp_path_factory.mktemp("compare")
    study = subprocess.run(_command(), cwd=home, check=False, **PIPES)
    return home / "runs/digits", study.stdout, study.stderr, study.returncode


def test_a_study_ends_in_verdicts_and_files(finished):
    folder, said, complaint, code = finished
    assert code == 0, complaint
    lines = said.splitlines()
    assert lines[0].startswith("none, se × 2 seeds = 4 runs, ")
    assert lines[0].endswith("at a time -> runs/digits")
    assert sum(f"{arm}, seed {seed}" in line and " % " in line for line in lines for arm, seed in RUNS) == 4
    assert lines[-1] == "runs/digits/report.html"
    results = json.loads((folder / "results.json").read_text())
    (row,) = results["analysis"]["differences"]
    assert row["sentence"] in said
    assert results["study"]["complete"] is True
    assert (results["task"], results["metric"]["name"], results["study"]["margin"]) == ("classify", "top-1", 1.0)
    none, se = results["arms"]["none"], results["arms"]["se"]
    assert se["parameters"] > none["parameters"]
    assert se["cost"]["macs"] > none["cost"]["macs"]
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "table.md").read_text().count("|") > 10


def test_a_pipe_hears_of_every_run_once(finished):
    _, said, complaint, _ = finished
    assert [line[:3] for line in said.splitlines() if line[1:3] == "/4"] == ["1/4", "2/4", "3/4", "4/4"]
    assert complaint == ""


TINY = ("training.epochs=1", "data.size=16", "data.train_images=60", "data.test_images=40", "training.batch_size=30")


def _tiny(capsys, monkeypatch, folder, *words):
    """Run a study of one epoch on few digits in ``folder``, and return its output."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    command = ["saccade", "compare", *settings, "--device", "cpu", "--slots", "1", "--out", str(folder), *words]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert not end.value.code, said.err
    return said.out


def test_a_study_of_masks(tmp_path, capsys, monkeypatch):
    said = _tiny(capsys, monkeypatch, tmp_path / "s", "--task", "segment", "--attention", "se", "--seeds", "2")
    results = json.loads((tmp_path / "s/results.json").read_text())
    assert (results["task"], results["metric"]["name"], results["study"]["complete"]) == ("segment", "mIoU", True)
    assert results["trivial"]["answer"]
    assert 0 < results["trivial"]["score"] < 20
    assert [len(row["scores"]) for row in results["arms"].values()] == [2, 2]
    scores = [score for row in results["arms"].values() for score in row["scores"]]
    assert [score for score in scores if not 0 <= score <= 100] == []
    assert [other["metric"] for other in results["others"]] == ["Dice", "pixel accuracy"]
    assert results["analysis"]["images"] == 40
    assert (tmp_path / "s/report.html").stat().st_size > 10_000
    assert "mIoU" in said
    assert "mIoU" in (tmp_path / "s/table.md").read_text()


def test_two_models_are_two_arms(tmp_path, capsys, monkeypatch):
    arm = "other: model=resnet18 model.options={} data.size=24"
    said = _tiny(capsys, monkeypatch, tmp_path / "s", "--arm", arm, "--seeds", "1")
    assert said.startswith("none, other × 1 seed = 2 runs, ")
    results = collect(tmp_path / "s")
    assert {row.arm.name: row.shares_host for row in results.arms} == {"none": True, "other": False}
    assert [note.text.partition(":")[0] for note in results.notes if note.kind == "hosts"] == ["other"]
    none, other = results.arms
    assert other.parameters > 5 * none.parameters
    assert other.cost.macs > none.cost.macs
    assert Recipe.load(tmp_path / "s/other/seed0/recipe.toml").model.name == "resnet18"


def test_a_study_of_earlier_versions_goes_on(finished, tmp_path, capsys, monkeypatch):
    """Finished runs stay unchanged, the missing run is done, and the report uses both."""
    shutil.copytree(finished[0], tmp_path / "s")
    study = Study.open(tmp_path / "s")
    shutil.rmtree(study.runs()[3].folder)
    as_before(study)
    for run in study.runs():
        (run.folder / "held_gates.safetensors").unlink(missing_ok=True)  # the report makes it again
    before = {path: path.read_bytes() for run in study.runs()[:3] for path in run.folder.iterdir()}
    monkeypatch.setattr("sys.argv", ["saccade", "compare", *WORDS, "--out", str(tmp_path / "s")])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert "3 of 4 runs are already finished" in said.out
    assert {path: path.read_bytes() for path in before} == before
    ours, theirs = (json.loads((home / "results.json").read_text()) for home in (tmp_path / "s", finished[0]))
    assert ours["analysis"]["differences"] == theirs["analysis"]["differences"]
    assert ours["arms"]["se"]["scores"] == theirs["arms"]["se"]["scores"]
    assert (tmp_path / "s/report.html").stat().st_size > 10_000


def test_killed_and_begun_again_it_ends_in_the_same_bytes(finished, tmp_path, start):
    study = start(_command("--out", "s"), cwd=tmp_path, **PIPES)
    rows = [tmp_path / f"s/{arm}/seed{seed}/metrics.jsonl" for arm, seed in RUNS]
    end = time.monotonic() + STUCK
    while not any(path.exists() and len(path.read_text().splitlines()) == 2 for path in rows):
        assert time.monotonic() < end, study.communicate()
        time.sleep(0.02)
    os.killpg(study.pid, signal.SIGKILL)
    study.communicate()
    assert not all((path.parent / "done.json").exists() for path in rows)
    again = start(_command("--out", "s", "--json"), cwd=tmp_path, **PIPES)
    said, complaint = again.communicate(timeout=STUCK)
    assert again.returncode == 0, complaint
    assert json.loads(said)["study"]["complete"] is True
    for arm, seed in RUNS:
        ours, theirs = (home / arm / f"seed{seed}" for home in (tmp_path / "s", finished[0]))
        assert _rows(ours) == _rows(theirs)
        for name in ("model.safetensors", "rows.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert _rows(finished[0] / "none/seed0") != _rows(finished[0] / "none/seed1"), "the comparison can fail"


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_ended_by_a_batch_system_it_says_how_it_goes_on(tmp_path, engine, start):
    """SIGTERM acts like Ctrl-C: no traceback and no stack from Ray."""
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    command = _command("--out", "s", "--engine", engine, "--set", "training.epochs=1000")
    study = start(command, cwd=tmp_path, **PIPES)
    begun, end = tmp_path / "s/none/seed0/metrics.jsonl", time.monotonic() + STUCK
    while not begun.exists():
        assert time.monotonic() < end, study.communicate()
        assert study.poll() is None, study.communicate()
        time.sleep(0.02)
    os.kill(study.pid, signal.SIGTERM)
    said, complaint = study.communicate(timeout=STUCK)
    assert study.returncode == 130, complaint
    assert complaint.split("\n", 1)[0].strip() == "stopped; repeat the command to resume s"
    assert complaint.strip().splitlines()[-1] == "saccade: interrupted"
    assert "Traceback" not in complaint + said
    assert len(complaint.split()) < 20, complaint
    assert not (tmp_path / "s/none/seed0/done.json").exists()


def _rows(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory_mb")} for row in rows]


WATCH = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("now torch", flush=True)
sys.meta_path.insert(0, Watch())
sys.argv = ["saccade", "compare", *{words!r}]
from saccade.cli import main
main()
"""


def test_the_plan_says_what_lies_ahead_and_writes_nothing(tmp_path):
    code = WATCH.format(words=[*WORDS, "--plan"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, torch, *rest = done.stdout.splitlines()
    assert "4 runs" in first
    assert torch == "now torch", "the first line does not wait for torch"
    said = "\n".join(rest)
    for part in ("time", "minutes for 4 runs", "none ", "se ", "disk", "MB", "points with probability 0.8"):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_the_parent_imports_no_torch_before_the_check_has_ended(tmp_path):
    """A wrong host costs only the check, which runs in a separate process."""
    code = WATCH.format(words=[*WORDS, "--set", "model.name=resnet5O", "--set", "model.options={}"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
    assert "checking the images" in done.stdout
    assert "now torch" not in done.stdout


WRONG = {
    "misspelt mechanism": (["--attention", "se,cbma"], "Did you mean 'cbam'"),
    "the same arm twice": (["--attention", "se,das,se"], "the arm 'se' is given twice"),
    "nothing but the plain network": (["--attention", "none"], "nothing to compare"),
    "a control of what is not compared": (["--attention", "se", "--controls", "extra:das"], "the mechanism 'das'"),
    "no seeds": (["--seeds", "0"], "at least one seed"),
    "the same seed twice": (["--seeds", "1,2,1"], "the seed 1 is given twice"),
    "no margin": (["--margin", "0"], "margin = 0"),
    "no slots": (["--slots", "0"], "slots = 0"),
    "misspelt engine": (["--engine", "rya"], "'ray'"),
    "address without a cluster": (["--address", "10.0.0.1:6379"], "--engine ray"),
    "plan for a cluster of unknown size": (["--engine", "ray", "--plan"], "--slots"),
    "misspelt setting": (["--set", "training.epoch=3"], "Did you mean"),
    "misspelt recipe": (["--recipe", "digist"], "Did you mean 'digits'"),
    "recipe that is not there": (["--recipe", "absent.toml"], "absent.toml"),
    "data that is not there": (["--data", "photoz"], "Did you mean 'photos'"),
    "data that is a file": (["--data", "file"], "file"),
    "output inside a file": (["--out", "file/study"], "is a file, not a folder"),
    "output full of other things": (["--out", "photos"], "not empty"),
    "another study there": (["--out", "study", "--seeds", "4"], "seeds is 0, 1 there and 0, 1, 2, 3 here"),
    "an option that is none": (["--seed", "3"], "--seed"),
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    Study(Recipe(), arms(["se"]), (0, 1), tmp_path / "study").write()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_says_so_and_writes_nothing(name, desk, monkeypatch, capsys):
    words, needed = WRONG[name]
    before = sorted((p, p.read_bytes() if p.is_file() else b"") for p in desk.rglob("*"))
    monkeypatch.setattr("sys.argv", ["saccade", "compare", *words])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2
    assert needed in said.err
    assert said.out == ""
    assert sorted((p, p.read_bytes() if p.is_file() else b"") for p in desk.rglob("*")) == before


def test_the_default_folder_steps_aside_for_another_study(desk, monkeypatch):
    from saccade.comparison import _find_folder

    def plan(seeds):
        return _find_folder(Study(Recipe(), arms(["se"]), seeds, Path(), 1.0), (), 1, None)[0]

    first = plan((0, 1))
    assert str(first.folder) == os.path.join("runs", "digits")
    first.write()
    assert plan((0, 1)).folder == first.folder, "the same study goes on where it is"
    assert plan((0, 1, 2)).folder.name == "digits-2"
    plan((0, 1, 2)).write()
    assert plan((0,)).folder.name == "digits-3"
    assert plan((0, 1, 2)).folder.name == "digits-2"


@pytest.mark.parametrize(
    ("side", "host", "size"), [(10, "resnet10_small", 16), (48, "resnet10_small", 48), (100, "resnet18", 224)]
)
def test_the_host_and_the_size_suit_the_images(tmp_path, side, host, size):
    from PIL import Image

    from saccade.defaults import choose_recipe

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
        for number in range(3):
            Image.new("RGB", (side + 40 * number, side)).save(tmp_path / name / f"{number}.png")
    recipe = choose_recipe(None, tmp_path, {})
    assert recipe.model.name == host
    assert recipe.data.source == str(tmp_path)
    assert recipe.data.size == size
    assert choose_recipe(None, tmp_path, {"data.size": 40}).data.size == 40
    found = choose_recipe(None, tmp_path, {"model.name": "vgg11", "model.pretrained": True})
    assert (found.model.name, found.model.pretrained, found.training.optimizer) == ("vgg11", True, "adamw")


def test_the_side_is_seen_through_links_and_past_what_is_no_image(tmp_path):
    """Images are found as when they are opened, without warnings of Pillow for refused files."""
    from PIL import Image

    (tmp_path / "store").mkdir()
    for number in range(3):
        Image.new("RGB", (60, 50)).save(tmp_path / f"store/{number}.png")
    Image.new("1", (10_000, 9_000)).save(tmp_path / "store/large.png")
    os.mkfifo(tmp_path / "store/pipe.png")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.png").touch()
    spec = Data(source=str(tmp_path / "photos"))
    assert find_layout(spec).suggest_recipe(spec.source) == ("photos", {}), "nothing there"
    (tmp_path / "photos/cat/linked").symlink_to(tmp_path / "store")
    assert find_layout(spec).suggest_recipe(spec.source) == ("small_images", {"data.size": 50})


def test_the_plan_describes_the_images(tmp_path, monkeypatch, capsys):
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (16, 16), (99 * number, 9, 9)).save(tmp_path / f"photos/{part}/{name}/{number}.png")
    (tmp_path / "photos/train/cat/bad.png").write_bytes(b"no")
    monkeypatch.chdir(tmp_path)
    words = ["--data", "photos", "--attention", "se", "--seeds", "2", "--skip-bad", "--plan", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["saccade", "compare", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert "data    folder" in said
    assert "1 bad file left out (train: 1 of cat)" in said
