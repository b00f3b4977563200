"""What is made of run folders, with folders written by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from saccade import Recipe, UserError
from saccade.study.plan import Study, arms
from saccade.study.report.table import latex, markdown
from saccade.study.results import collect, write_results

SCORES = {("none", 0): 90.0, ("none", 1): 91.0, ("none", 2): 92.0, ("se", 0): 91.0, ("se", 1): 93.0, ("se", 2): 92.0}
LABELS = np.arange(100, dtype=np.int64) % 10


def _environment(run, **facts):
    told = {"device": "cpu", "accelerator": None, "cpu": "a", "python": "3.11", "packages": {"torch": "2.11"}} | facts
    (run.folder / "environment.json").write_text(json.dumps(told))


def _finish(run, top1, diverged=None, parameters=None):
    run.folder.mkdir(parents=True)
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    _environment(run)
    predicted = LABELS.copy()
    wrong = round(100 - top1)
    predicted[:wrong] = (predicted[:wrong] + 1) % 10
    save_file({"predicted": predicted, "label": LABELS}, run.folder / "predictions.safetensors")
    done = {
        "top1": top1,
        "test_loss": 0.3,
        "epochs": 3,
        "seconds": 5.0,
        "parameters": parameters or 1000 + run.seed,
        "diverged": diverged,
    }
    (run.folder / "done.json").write_text(json.dumps(done))


@pytest.fixture
def study(tmp_path):
    plan = Study(Recipe(), arms(["se"]), (0, 1, 2), tmp_path / "s")
    plan.write()
    for run in plan.runs():
        _finish(run, SCORES[run.arm.name, run.seed])
    return plan


def test_scores_means_and_differences(study):
    found = collect(study.folder)
    assert found["arms"]["none"]["top1"] == [90.0, 91.0, 92.0]
    assert found["arms"]["none"]["mean"] == 91.0
    assert found["arms"]["none"]["sd"] == 1.0
    assert found["arms"]["se"]["mean"] == 92.0
    (row,) = found["analysis"]["differences"]
    assert row["difference"] == pytest.approx(1.0)
    assert row["raw"] == [1.0, 2.0, 0.0]
    # Residuals of score = arm + seed are ∓0.5 (0, +0.5, -0.5 in each arm): 4 · 0.25 / 2 degrees of freedom.
    assert found["analysis"]["sigma"] == pytest.approx(0.5**0.5)
    assert found["study"]["complete"] is True
    assert found["study"]["baseline"] == "none"
    assert [row["folder"] for row in found["runs"]][:2] == ["none/seed0", "se/seed0"]
    assert found["runs"][0] | {"folder": ""} == {
        "arm": "none", "seed": 0, "status": "done", "top1": 90.0, "test_loss": 0.3, "seconds": 5.0, "parameters": 1000,
        "reason": None, "constant": {}, "folder": "",
    }  # fmt: skip


def test_the_error_of_the_images_is_added(study):
    (row,) = (row for row in collect(study.folder)["analysis"]["differences"] if row["name"] == "se")
    for path in study.folder.rglob("predictions.safetensors"):
        path.unlink()
    (free,) = collect(study.folder)["analysis"]["differences"]
    assert (free["se_from"], free["se_images"]) == ("seeds", 0)
    assert row["se_images"] > 0
    assert row["se"] == pytest.approx((free["se"] ** 2 + row["se_images"] ** 2) ** 0.5)
    assert row["df"] > free["df"]


def test_a_diverged_run_has_no_score_and_is_named(study):
    run = study.run(study.arms[1], 1)
    done = json.loads((run.folder / "done.json").read_text())
    (run.folder / "done.json").write_text(json.dumps(done | {"diverged": {"message": "loss of epoch 3 is nan"}}))
    found = collect(study.folder)
    assert found["arms"]["se"]["top1"] == [91.0, None, 92.0]
    assert found["arms"]["se"]["mean"] == 91.5
    assert found["arms"]["se"]["diverged"] == [1]
    assert any("se: 1 of 3 runs diverged (seed 1)." in note and "flatters" in note for note in found["notes"])
    (row,) = (row for row in found["runs"] if row["status"] == "diverged")
    assert (row["arm"], row["seed"], row["top1"]) == ("se", 1, None)
    assert row["reason"] == "loss of epoch 3 is nan"


def test_a_plug_that_ignores_the_image_is_named(study):
    """Folders of earlier versions say nothing of it."""
    assert not any("same for every test image" in note for note in collect(study.folder)["notes"])

    def write(seed, **facts):
        path = study.run(study.arms[1], seed).folder / "done.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    write(0, constant={"layer1.0.bn2": "gate"})
    write(1, constant={})
    write(2, constant={"layer1.0.bn2": "gate", "layer2.0.bn2": "gate", "layer4": "context"})
    found = collect(study.folder)
    assert [row["constant"] for row in found["runs"] if row["seed"] == 0] == [{}, {"layer1.0.bn2": "gate"}]
    said = [
        "se: the gate is the same for every test image at layer1.0.bn2 (seeds 0, 2) and layer2.0.bn2 (seed 2); the "
        "plug ignores the image there.",
        "se: what is added is the same for every test image at layer4 (seed 2); the plug ignores the image there.",
    ]
    assert [note for note in found["notes"] if "same for every" in note] == said
    assert all(note in markdown(found).replace("\\", "") for note in said)
    write(2, constant={f"layer{n}": "gate" for n in range(1, 10)})
    (note,) = (note for note in collect(study.folder)["notes"] if "same for every" in note)
    assert note.count("(seed 2)") == 5
    assert "layer5 (seed 2) and 4 more sites; the plug" in note
    write(2, diverged={"message": "loss of epoch 3 is nan"})  # what a broken run ended with has no score, and no note
    (note,) = (note for note in collect(study.folder)["notes"] if "same for every" in note)
    assert "seed 2" not in note
    write(0, constant={"layer1": "nothing"})
    with pytest.raises(UserError, match=r"constant.layer1 = 'nothing': input should be 'gate' or 'context'"):
        collect(study.folder)


@pytest.mark.parametrize(("source", "said"), [("digits", 1), ("photos", 0)])
def test_the_smoke_test_says_that_it_is_one(tmp_path, source, said):
    plan = Study(Recipe().with_overrides({"data.source": source}), arms(["se"]), (0, 1), tmp_path / "s")
    plan.write()
    for run in plan.runs():
        _finish(run, 90.0 + run.seed)
    found = collect(plan.folder)
    assert len([note for note in found["notes"] if "smoke test" in note and "do not transfer" in note]) == said
    for table in (markdown(found), latex(found)):
        assert table.count("do not transfer") == said


@pytest.mark.parametrize(
    ("plain", "whole", "extra", "said"),
    [
        (1000, 1014, 1480, "it adds 480 parameters where eca adds 14;"),
        (1000, 1000, 1480, "it adds 480 parameters where eca adds 0;"),
        (1000, 11_000, 12_024, "it adds 11,024 parameters where eca adds 10,000;"),
        (1000, 11_000, 12_000, None),  # a tenth more, and no word more
        (1000, 11_000, 10_000, None),
        (1000, 1000, 1000, None),
        (None, 1014, 1480, None),  # not run yet
    ],
)
def test_a_control_of_another_size_than_its_mechanism_is_named(tmp_path, plain, whole, extra, said):
    plan = Study(Recipe(), arms(["eca"], ["extra", "noise"]), (0,), tmp_path / "s")
    plan.write()
    for run, parameters in zip(plan.runs(), (plain, whole, extra, 1000), strict=True):
        if parameters is not None:
            _finish(run, 90.0, parameters=parameters)
    notes = [note for note in collect(plan.folder)["notes"] if "it adds" in note]
    assert notes == ([] if said is None else [
        f"extra for eca: {said} a plain bottleneck of at least one unit a site can have no nearer number."
    ])  # fmt: skip


def test_failed_and_missing_runs_are_named(study):
    for arm, seed in ((study.arms[1], 0), (study.arms[0], 2)):
        (study.run(arm, seed).folder / "done.json").unlink()
    (study.run(study.arms[1], 0).folder / "failed.json").write_text('{"reason": "ValueError: no luck"}')
    found = collect(study.folder)
    assert found["study"]["complete"] is False
    assert found["arms"]["se"]["failed"] == [0]
    assert found["arms"]["none"]["missing"] == [2]
    assert "se: 1 of 3 runs failed (seed 0)." in found["notes"]
    assert "none: 1 of 3 runs not run yet (seed 2)." in found["notes"]
    assert [row["reason"] for row in found["runs"] if row["status"] == "failed"] == ["ValueError: no luck"]


def test_nothing_is_judged_without_a_plain_network(study):
    for seed in study.seeds:
        (study.run(study.arms[0], seed).folder / "done.json").unlink()
    assert collect(study.folder)["analysis"] is None
    assert collect(study.folder)["arms"]["se"]["mean"] == 92.0


def test_other_surroundings_are_said(study):
    assert not [note for note in collect(study.folder)["notes"] if "same" in note]
    _environment(study.runs()[0], cpu="b", device="cuda:0")
    _environment(study.runs()[1], packages={"torch": "2.12"})
    said = [note for note in collect(study.folder)["notes"] if "same" in note]
    assert said == [
        "The runs were not all made with the same device: cpu, cuda.",
        "The runs were not all made with the same cpu: a, b.",
        "The runs were not all made with the same packages.",
    ]


def test_two_accelerators_of_one_kind_are_one_device(study):
    for number, run in enumerate(study.runs()):
        _environment(run, device=f"cuda:{number % 2}")
    assert not [note for note in collect(study.folder)["notes"] if "same" in note]


def _fingerprint(run, fingerprint):
    done = json.loads((run.folder / "done.json").read_text())
    (run.folder / "done.json").write_text(json.dumps(done | {"fingerprint": fingerprint}))


def test_images_that_were_left_out_are_said_though_they_be_gone(study):
    said = "The images of all runs: 3 bad files left out (train: 2 of cat; test: 1 of dog)."
    assert said not in collect(study.folder)["notes"]
    for run in study.runs():
        done = json.loads((run.folder / "done.json").read_text())
        done["left_out"] = {"train": {"cat": 2}, "test": {"dog": 1}}
        (run.folder / "done.json").write_text(json.dumps(done))
    assert collect(study.folder)["notes"].count(said) == 1


def test_images_that_spoil_the_score_are_said(study):
    said = "2 of 9 test images are trained on too."
    assert said not in collect(study.folder)["notes"]
    for run in study.runs():
        done = json.loads((run.folder / "done.json").read_text())
        (run.folder / "done.json").write_text(json.dumps(done | {"cautions": [said]}))
    assert collect(study.folder)["notes"].count(said) == 1


def test_runs_of_other_images_are_not_compared(study):
    first, second, third, *_ = study.runs()
    for run in (first, third):
        _fingerprint(run, "aa")
    assert collect(study.folder)["analysis"]  # the others do not say
    _fingerprint(third, "bb")
    with pytest.raises(UserError, match="the images changed between them") as refused:
        collect(study.folder)
    assert f"{first.folder} and {third.folder} cannot be compared" in str(refused.value)
    assert str(second.folder) not in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [(LABELS[:90], "they have 100 and 90 test images"), (LABELS[::-1], "the labels of their test images differ")],
)
def test_predictions_for_other_images_are_not_compared(study, labels, words):
    first, second, *_ = study.runs()
    labels = np.ascontiguousarray(labels)
    save_file({"predicted": labels, "label": labels}, second.folder / "predictions.safetensors")
    with pytest.raises(UserError, match=words) as refused:
        collect(study.folder)
    assert f"{first.folder} and {second.folder}" in str(refused.value)


def test_they_are_written_as_strict_json(study):
    found = write_results(study.folder)
    assert json.loads((study.folder / "results.json").read_text(), parse_constant=pytest.fail) == found
    assert [p.name for p in study.folder.glob(".*")] == []


def test_what_is_no_study(tmp_path):
    with pytest.raises(UserError, match="is no study"):
        collect(tmp_path)
