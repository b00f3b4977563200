"""Notes on the runs of a study."""

import json

import pytest

from saccade import Recipe, UserError
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study

ENVIRONMENT = {"device": "cpu", "accelerator": None, "cpu": "a", "python": "3.11", "packages": {"torch": "2.11"}}
DONE = {"task": "classify", "metric": "top-1", "epochs": 3, "seconds": 5.0, "parameters": 1000, "diverged": None}


def _finish(run, top1=90.0, **more):
    run.folder.mkdir(parents=True)
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    (run.folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (run.folder / "done.json").write_text(json.dumps(DONE | {"scores": {"top-1": top1}} | more))


def _change(run, file="done.json", **facts):
    path = run.folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def _study(folder, attention=("se",), controls=(), others=(), seeds=(0, 1, 2), **settings):
    base = Recipe().with_overrides({key.replace("__", "."): value for key, value in settings.items()})
    plan = Study(base, arms(attention, controls, others), seeds, folder / "s")
    plan.write()
    return plan


@pytest.fixture
def study(tmp_path):
    plan = _study(tmp_path)
    for run in plan.runs():
        _finish(run, 90.0 + run.seed + (run.arm.name == "se") * run.seed**2)
    return plan


def notes(study, kind):
    return [note.text for note in collect(study.folder).notes if note.kind == kind]


def test_a_plug_that_ignores_the_image_is_named(study):
    """Folders of earlier versions do not record it."""
    assert notes(study, "constant") == []
    runs = [study.run(study.arms[1], seed) for seed in study.seeds]
    _change(runs[0], constant={"layer1.0.bn2": "gate"})
    _change(runs[1], constant={})
    _change(runs[2], constant={"layer1.0.bn2": "gate", "layer2.0.bn2": "gate", "layer4": "context"})
    found = collect(study.folder)
    assert [run.constant for run in found.runs if run.seed == 0] == [{}, {"layer1.0.bn2": "gate"}]
    assert notes(study, "constant") == [
        "se: the gate is the same for every test image at layer1.0.bn2 (seeds 0, 2) and layer2.0.bn2 (seed 2); the "
        "plug ignores the image there.",
        "se: what is added is the same for every test image at layer4 (seed 2); the plug ignores the image there.",
    ]
    _change(runs[2], constant={f"layer{n}": "gate" for n in range(1, 10)})
    (note,) = notes(study, "constant")
    assert note.count("(seed 2)") == 5
    assert "layer5 (seed 2) and 4 more sites; the plug" in note
    _change(runs[2], diverged={"message": "loss of epoch 3 is nan"})  # how a broken run ended says nothing
    (note,) = notes(study, "constant")
    assert "seed 2" not in note
    _change(runs[0], constant={"layer1": "nothing"})
    with pytest.raises(UserError, match=r"constant.layer1 = 'nothing': input should be 'gate' or 'context'"):
        collect(study.folder)


@pytest.mark.parametrize(("source", "said"), [("digits", 1), ("photos", 0)])
def test_the_smoke_test_has_a_caveat(tmp_path, source, said):
    plan = _study(tmp_path, data__source=source)
    for run in plan.runs():
        _finish(run)
    found = [text for text in notes(plan, "caveat") if "smoke test" in text and "do not transfer" in text]
    assert len(found) == said


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
def test_a_control_with_other_parameter_counts_is_named(tmp_path, plain, whole, extra, said):
    plan = _study(tmp_path, ["eca"], ["extra", "noise"], seeds=(0,))
    for run, parameters in zip(plan.runs(), (plain, whole, extra, 1000), strict=True):
        if parameters is not None:
            _finish(run, parameters=parameters)
    assert notes(plan, "parameters") == ([] if said is None else [
        f"extra for eca: {said} its width, at least 1 at each site, allows no closer number."
    ])  # fmt: skip


def test_a_control_with_another_name_needs_no_note(tmp_path):
    """The control is recognised by its settings; no mechanism is there to compare its size with."""
    plan = _study(tmp_path, [], [], ["e: attention=se control=extra"], seeds=(0,))
    for run, parameters in zip(plan.runs(), (1000, 9000), strict=True):
        _finish(run, parameters=parameters)
    assert notes(plan, "parameters") == []


def test_arms_with_another_host_are_named(tmp_path):
    others = ["wide: model.options.width=32", "big: data.size=48 attention=se", "fast: training.lr=0.1"]
    plan = _study(tmp_path, others=others)
    assert notes(plan, "hosts") == [
        "wide and big: the host differs from that of 'none'. Runs of one seed share the order of the data and the "
        "augmentation, not the initial weights of the host."
    ]
    assert notes(_study(tmp_path / "t", others=others[2:]), "hosts") == []
    assert notes(plan, "settings") == [
        "big also differs from 'none' in data.size.",
        "fast also differs from 'none' in training.lr.",
    ]


def test_different_environments_are_reported(study):
    assert notes(study, "environment") == []
    _change(study.runs()[0], "environment.json", cpu="b", device="cuda:0")
    _change(study.runs()[1], "environment.json", packages={"torch": "2.12"})
    assert notes(study, "environment") == [
        "The runs were not all made with the same device: cpu, cuda.",
        "The runs were not all made with the same cpu: a, b.",
        "The runs were not all made with the same packages.",
    ]


def test_two_accelerators_of_one_kind_are_one_device(study):
    for number, run in enumerate(study.runs()):
        _change(run, "environment.json", device=f"cuda:{number % 2}")
    assert notes(study, "environment") == []


def test_images_left_out_are_reported_from_the_runs(study):
    assert notes(study, "images") == []
    for run in study.runs():
        _change(run, left_out={"train": {"cat": 2}, "test": {"dog": 1}})
    assert notes(study, "images") == ["The images of all runs: 3 bad files left out (train: 2 of cat; test: 1 of dog)."]


def test_cautions_on_images_are_reported(study):
    for run in study.runs():
        _change(run, cautions=["2 of 9 test images are trained on too."])
    assert notes(study, "images") == ["2 of 9 test images are trained on too."]


@pytest.mark.parametrize(("part", "said"), [("val", ["validation images, not on the test images."]), ("test", [])])
def test_scoring_on_validation_images_is_reported(tmp_path, part, said):
    plan = _study(tmp_path, data__score_on=part)
    _finish(plan.runs()[0])
    assert [text.partition("scored on ")[2] for text in notes(plan, "images")] == said


def test_host_notes_name_the_runs_concerned(study):
    text = "Set to the values that the host's weights were trained with: data.mean = [0.5]."
    assert notes(study, "hosts") == []
    for seed in (1, 2):
        for arm in study.arms:
            _change(study.run(arm, seed), notes=[text])
    (said,) = notes(study, "hosts")
    assert said.startswith(f"none, seeds 1, 2 alone and se, seeds 1, 2 alone: {text} The other runs")
    for arm in study.arms:
        _change(study.run(arm, 0), notes=[text])
    assert notes(study, "hosts") == [text]


def test_a_setting_equal_to_the_baselines_needs_no_note(tmp_path):
    key = "training.memory_format"
    others = [f"se: attention=se {key}=auto", f"eca: attention=eca {key}=channels_last"]
    plan = _study(tmp_path, (), others=others).decide({"settings": {key: "contiguous"}})
    plan.write()
    for run in plan.runs():
        _finish(run)
    assert notes(plan, "settings") == [f"eca also differs from 'none' in {key}."]
