"""``saccade train``: its output, its folder and its exit codes."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from saccade.cli import main
from saccade.one_run import _folder_name
from saccade.recipe import Recipe

TINY = """
[data]
size = 24
train_images = 60
test_images = 30
[model]
options = {width = 4}
[training]
epochs = 2
batch_size = 30
"""


@pytest.fixture
def saccade(tmp_path, monkeypatch, capfd):
    """Function that runs the command line in an empty folder with a small recipe; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)

    def run(words):
        monkeypatch.setattr("sys.argv", ["saccade", *words.split()])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capfd.readouterr()

    return run


def test_a_run_and_the_same_again(saccade, tmp_path):
    words = "train tiny.toml --attention se:rd_ratio=0.5 --seed 3 --set training.epochs=1 --device cpu"
    code, out, err = saccade(words)
    assert (code, err) == (0, "")
    folder = tmp_path / "runs/tiny-se-rd_ratio=0.5-seed3"
    recipe = Recipe.load(folder / "recipe.toml")
    assert (recipe.attention.mechanism, recipe.training.seed, recipe.training.epochs) == ("se:rd_ratio=0.5", 3, 1)
    result = json.loads((folder / "done.json").read_text())
    lines = out.splitlines()
    assert [line.split("   ")[0] for line in lines if line.startswith("epoch")] == ["epoch 0/1", "epoch 1/1"]
    assert lines[-1].startswith(f"top-1 {result['scores']['top-1']:.2f} % on the test images after 1 epoch in ")
    assert [part.partition(" ")[0] for part in lines[-2].split("   ")[1:-1]] == ["loss", "top-1", "top-5", "NLL"]
    assert "runs/tiny-se-rd_ratio=0.5-seed3" in lines[-1]
    before = (folder / "done.json").stat().st_mtime_ns
    code, again, _ = saccade(words)
    assert code == 0
    assert again.splitlines()[-1] == lines[-1]
    assert "epoch 1/1" not in again
    assert (folder / "done.json").stat().st_mtime_ns == before


def test_a_plug_that_ignores_the_image_is_named(saccade, tmp_path):
    words = "train tiny.toml --attention se:rd_ratio=0.5 --set training.epochs=1 --device cpu --out run"
    assert "note:" not in saccade(words)[1]
    path = tmp_path / "run" / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"constant": {"layer1": "gate", "layer2": "gate"}}))
    said = "note: the gate or context is the same for all test images at layer1, layer2"
    assert saccade(words)[1].splitlines()[-1] == said


def test_images_that_spoil_the_score_are_said_before_the_first_epoch(saccade, tmp_path):
    rng = np.random.default_rng(0)
    for part, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / "set" / part / label).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / "set" / part / label / "[b].png")
    words = "train tiny.toml --device cpu --set data.source='set' --set training.epochs=1 --out"
    assert "caution" not in saccade(f"{words} one")[1]
    shutil.copy(tmp_path / "set/train/a/[b].png", tmp_path / "set/test/a/[c].png")
    lines = saccade(f"{words} two")[1].splitlines()
    (said,) = (n for n, line in enumerate(lines) if line.startswith("caution: 1 of 3 test images are trained on too"))
    assert "train/a/[b].png and test/a/[c].png" in lines[said]
    assert lines[said + 1].startswith("epoch 0/1")


def test_another_task_by_its_name(saccade, tmp_path):
    code, out, err = saccade("train tiny.toml --task segment --set training.epochs=1 --device cpu --out net")
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "net/done.json").read_text())
    assert (result["task"], result["metric"]) == ("segment", "mIoU")
    assert out.splitlines()[-1].startswith(f"mIoU {result['scores']['mIoU']:.2f} % on the test images")
    assert 0 < result["trivial"]["scores"]["mIoU"] < 20
    assert Recipe.load(tmp_path / "net/recipe.toml").task.name == "segment"


def test_the_metric_of_the_recipe_is_that_of_the_verdicts(saccade, tmp_path):
    words = "train tiny.toml --set training.epochs=1 --device cpu --out net --set task.metric="
    code, out, _ = saccade(words + "nll")
    result = json.loads((tmp_path / "net/done.json").read_text())
    assert (code, result["metric"], result["score"]) == (0, "NLL", f"{result['scores']['NLL']:.3f} nats")
    assert out.splitlines()[-1].startswith(f"NLL {result['score']} on the test images")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--task segmnet",
            "no task 'segmnet'. Did you mean 'segment'? There are classify, detect, multilabel, "
            "saliency, salient_objects, segment.",
        ),
        ("--task segment --set task.metric=mIuO", "there is no such metric. Did you mean 'mIoU'?"),
        ("--set task.metric=top5", "task.metric = 'top5': there is no such metric. Did you mean 'top-5'"),
        (
            "--set data.source=pets --task segment",
            "learns from targets of the kind 'mask'; pets, read as class_folders, has 'label'",
        ),
    ],
)
def test_a_task_that_cannot_be_learnt_here(saccade, tmp_path, words, message):
    for part, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / "pets" / part / label).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(tmp_path / "pets" / part / label / "1.png")
    code, out, err = saccade(f"train tiny.toml {words} --out net")
    assert (code, message in err) == (2, True), err
    assert "epoch 0" not in out
    assert not (tmp_path / "net").exists()


def test_json_is_the_result_and_nothing_else(saccade, tmp_path):
    code, out, err = saccade("train tiny.toml --out here --set training.epochs=1 --device cpu --json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "here/done.json").read_text())


def test_divergence_is_said_and_exits_with_one(saccade):
    code, out, _ = saccade("train tiny.toml --set training.lr=1e30 --out here --device cpu")
    assert code == 1
    assert "diverged in epoch 1, at step 2: the" in out
    assert "the network after epoch 0" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--attention tripelt", "no mechanism is called 'tripelt'. Did you mean 'triplet'?"),
        ("--set training.epochs", "'training.epochs' is not a setting"),
        ("--seed -1", "-1"),
        ("--device gpu", "no device 'gpu'"),
        ("--out tiny.toml", "is a file"),
    ],
)
def test_mistakes_leave_nothing(saccade, tmp_path, words, message):
    code, _, err = saccade(f"train tiny.toml {words}")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.rglob("*")] == ["tiny.toml"]


def test_names_of_recipes(saccade):
    code, _, err = saccade("train absent.toml")
    assert (code, "absent.toml" in err) == (2, True)
    code, _, err = saccade("train cifar11")
    assert (code, "Did you mean 'cifar10'?" in err) == (2, True)


def test_folder_names_are_plain():
    recipe = Recipe().with_overrides({"attention.mechanism": "my.pkg:Cls:alpha=0.1:sizes=[3, 5]", "training.seed": 2})
    assert _folder_name("digits", recipe) == "digits-my.pkg-Cls-alpha=0.1-sizes=-3-5-seed2"
    control = Recipe().with_overrides({"attention.mechanism": "das", "attention.control": "extra"})
    assert _folder_name("a b", control) == "a-b-extra-for-das-seed0"
