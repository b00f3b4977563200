"""Folders of version 0.1 are still read; damaged files are reported."""

import json

import pytest
import torch
from safetensors.torch import save_file

from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.runfiles import read_done, read_epochs, read_rows
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.training import train

DATA = """[{0}data]
source = "digits"
train_images = 40
test_images = 4
test_part = 0.2
skip_bad = false
split_seed = 0
augment = []

[{0}data.options]

[{0}model]
name = "resnet10_small"
pretrained = false

[{0}model.options]
"""
TRAINING = """
[{0}training]
epochs = 1
batch_size = 20
optimizer = "sgd"
lr = 0.05
momentum = 0.9
weight_decay = 0.0005
schedule = "cosine"
warmup_epochs = 0.0
label_smoothing = 0.0
precision = "32"
threads = 1
workers = 0
seed = {1}
"""
ATTENTION = """
[{0}attention]
mechanism = "{1}"
where = "{2}"
start = "auto"
lr_factor = 1.0
"""
STUDY = """margin = 1.5
seeds = [
    0,
    1,
]
arms = [
    { name = "none", mechanism = "none" },
    { name = "se:where=stage", mechanism = "se", where = "stage" },
    { name = "extra for se:where=stage", mechanism = "se", control = "extra", where = "stage" },
]

"""
STUDY += DATA.format("recipe.") + ATTENTION.format("recipe.", "none", "paper") + TRAINING.format("recipe.", 0)
METRICS = (
    '{"epoch": 0, "train_loss": null, "train_top1": null, "test_loss": 2.302, "test_top1": 10.0, "lr": null, '
    '"seconds": 0.054, "memory_mb": 982.1, "gates": {}}\n'
    '{"epoch": 1, "train_loss": 2.339, "train_top1": 12.5, "test_loss": 2.3017, "test_top1": TOP1, "lr": 0.025, '
    '"seconds": 0.48, "memory_mb": 1002.3, "gates": {"layer1": {"kind": "gate", "mean": 0.5, "std": 0.1, "a": null}}}\n'
)
DONE = """{
  "top1": TOP1,
  "test_loss": 2.3017,
  "epochs": 1,
  "seconds": 0.534,
  "parameters": 311513,
  "start": null,
  "fingerprint": "26dca52bdcc48aec",
  "left_out": {},
  "cautions": [],
  "constant": {},
  "diverged": null
}
"""
ENVIRONMENT = """{
  "python": "3.11.7",
  "packages": {"saccade": "0.1.0", "torch": "2.15.0"},
  "platform": "Linux x86_64", "cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "threads": 1,
  "device": "cpu", "accelerator": null, "cuda": null
}
"""
SCORES = {"none": (25.0, 50.0), "se-where=stage": (75.0, 100.0), "extra-for-se-where=stage": (50.0, 25.0)}


def write_run(folder, top1, arm="none", seed=0):
    """A run of 0.1 with ``top1`` per cent of four answers right."""
    folder.mkdir(parents=True)
    mechanism, where = ("none", "paper") if arm == "none" else ("se", "stage")
    attention = ATTENTION.format("", mechanism, where)
    if arm.startswith("extra"):
        attention = attention.replace("where", 'control = "extra"\nwhere')
    (folder / "recipe.toml").write_text(DATA.format("") + attention + TRAINING.format("", seed))
    (folder / "done.json").write_text(DONE.replace("TOP1", str(top1)))
    (folder / "metrics.jsonl").write_text(METRICS.replace("TOP1", str(top1)))
    (folder / "environment.json").write_text(ENVIRONMENT)
    label = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    wrong = (torch.arange(4) >= top1 / 25).int()
    save_file({"label": label, "predicted": label + wrong}, folder / "predictions.safetensors")
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", 75.0)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.toml").write_text(STUDY)
    for arm, scores in SCORES.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path / "s" / arm / f"seed{seed}", score, arm, seed)
    return tmp_path / "s"


def test_the_files_of_a_run(run):
    done = read_done(run / "done.json")
    assert (done["task"], done["metric"], done["score"]) == ("classify", "top-1", "75.00 %")
    assert done["scores"] == {"top-1": 75.0, "NLL": 2.3017}
    assert (done["epochs"], done["parameters"], done["diverged"]) == (1, 311513, None)
    before, after = read_epochs(run / "metrics.jsonl")
    assert (before["losses"], before["scores"]) == ({}, {"top-1": 10.0, "NLL": 2.302})
    assert (after["losses"], after["scores"]) == ({"cross-entropy": 2.339}, {"top-1": 75.0, "NLL": 2.3017})
    assert after["gates"]["layer1"]["mean"] == 0.5
    rows = read_rows(run)
    assert {key: value.tolist() for key, value in rows.items()} == {
        "label": [0, 1, 2, 3], "predicted": [0, 1, 2, 4],
    }  # fmt: skip


def test_a_run_that_is_done_is_not_done_again(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    again = train(Recipe.load(run / "recipe.toml"), run, opener=lambda *_: pytest.fail("opened the images"))
    assert again == read_done(run / "done.json")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_study(study):
    found = Study.open(study)
    assert found.margin == 1.5
    assert [(arm.name, dict(arm.settings)) for arm in found.arms] == [
        ("none", {}),
        ("se:where=stage", {"attention.mechanism": "se", "attention.where": "stage"}),
        (
            "extra for se:where=stage",
            {"attention.mechanism": "se", "attention.control": "extra", "attention.where": "stage"},
        ),
    ]
    assert [run.done_record["scores"]["top-1"] for run in found.runs()] == [25.0, 75.0, 50.0, 50.0, 100.0, 25.0]
    assert Study(found.base, found.arms, found.seeds, study).check_folder()


def test_the_results_of_a_study(study):
    results = collect(study)
    assert (results.task, results.metric.name, results.margin, results.trivial) == ("classify", "top-1", 1.5, None)
    assert [row.scores for row in results.arms] == list(SCORES.values())
    assert [other.metric.name for other in results.others] == ["NLL"]
    assert results.complete
    assert list(study.rglob("rows.safetensors")) == []


DAMAGE = {
    "done.json": [
        (lambda text: text.replace("75.0", "175.0"), "top1 = 175.0: input should be less than or equal to 100"),
        (lambda text: text.replace('"test_loss": 2.3017', '"test_loss": "low"'), "test_loss = 'low'"),
        (lambda text: text.replace('"top1": 75.0,', ""), "task is missing"),
        (lambda text: text.replace('"seconds": 0.534,', ""), "seconds is missing"),
    ],
    "metrics.jsonl": [
        (lambda text: text.replace("75.0", "-1"), "line 2: test_top1 = -1"),
        (lambda text: text.replace("2.339", '"low"'), "line 2: train_loss = 'low'"),
        (lambda text: text.replace('"test_top1": 10.0, ', ""), "line 1: scores is missing"),
        (lambda text: text.replace('"epoch": 1', '"epoch": 3'), "line 2 is of epoch 3; epoch 1 is needed there"),
    ],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, rows in DAMAGE.items() for n in range(len(rows))])
def test_damage_is_named(run, name, number):
    change, words = DAMAGE[name][number]
    text = (run / name).read_text()
    (run / name).write_text(change(text))
    with pytest.raises(UserError) as caught:
        (read_done if name == "done.json" else read_epochs)(run / name)
    assert f"{run / name} is damaged: " in str(caught.value)
    assert words in str(caught.value)


def test_rows_have_one_number_of_images(run):
    save_file({"label": torch.zeros(4), "predicted": torch.zeros(3)}, run / "predictions.safetensors")
    with pytest.raises(UserError, match=r"predictions\.safetensors is damaged: .*label 4, predicted 3"):
        read_rows(run)
    save_file({"label": torch.zeros(2)}, run / "rows.safetensors")
    assert list(read_rows(run)) == ["label"]  # the newer file is read first
    (run / "rows.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"rows\.safetensors is damaged: it is not a safetensors file"):
        read_rows(run)


def test_what_is_not_there_is_none(tmp_path):
    assert read_done(tmp_path / "done.json") is None
    assert read_epochs(tmp_path / "metrics.jsonl") == []
    assert read_rows(tmp_path) is None


def test_today_s_files_are_read_as_they_stand(tmp_path):
    done = {
        "task": "segment", "metric": "mIoU", "score": "50.00 %", "scores": {"mIoU": 50.0, "Dice": None},
        "by_class": {"mIoU": [50.0, None]}, "trivial": {"answer": "a everywhere", "scores": {"mIoU": 1.0}},
        "references": {"an expert": {"mIoU": 90.0, "Dice": None}},
        "epochs": 1, "seconds": 1.0, "parameters": 7, "diverged": None,
    }  # fmt: skip
    (tmp_path / "done.json").write_text(json.dumps(done))
    assert read_done(tmp_path / "done.json") == done
    row = {"epoch": 0, "losses": {}, "scores": {"mIoU": 2.0}, "val": {"mIoU": None}, "gates": {}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert read_epochs(tmp_path / "metrics.jsonl") == [row]
