"""Section of the heat maps: maps of the class, gates beside them, tables, and the reason where there are none."""

from dataclasses import replace

import pytest
from looking_studies import looking_study, save_network
from made_results import context, made

from saccade.explanation import activation_maps, target_layer
from saccade.saving import load
from saccade.study.looking import VARIABLE
from saccade.study.report.page import template_environment
from saccade.study.report.sections import looking
from saccade.study.report.sections.looking import LookingSection

FAITHFUL = ["insertion", "insertion above a random map", "deletion", "deletion above a random map"]
SCORES = {"none": [70.0, 65.0], "cbam": [71.0, 65.0]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return looking_study(tmp_path_factory.mktemp("looking"), SCORES)


@pytest.fixture(autouse=True)
def _two_images(monkeypatch):
    monkeypatch.setenv(VARIABLE, "2")


def _content(results, task, **more):
    return LookingSection().content(replace(context(results, task=task), **more))


def _text(content):
    return " ".join(template_environment().from_string(LookingSection.template).render(content).split())


def test_the_class_of_the_image_is_shown_under_every_arm(study, monkeypatch):
    drawn = []
    original = looking._plane
    monkeypatch.setattr(
        looking,
        "_plane",
        lambda index, map_, label, has: drawn.append((map_, label)) or original(index, map_, label, has),
    )
    results, task = study
    content = _content(results, task)
    assert [column["style"].name for column in content["columns"]] == ["none", "cbam"]
    assert [column["span"] for column in content["columns"]] == [1, 2]
    assert len(content["truths"]) == 4
    model = load(results.study.folder / "cbam/seed0")
    images = [label for map_, label in drawn if map_ is None]
    labels = [int(name) for name in images]
    shown = [map_ for map_, label in drawn if label.startswith("cbam, ")]
    indices = [i for i in range(len(task.data.test)) if task.data.test.target(i) == labels[0]]
    candidates = [
        activation_maps(model, task.images([i]), labels[:1], layers=[target_layer(model, task.images([i]))])
        for i in indices
    ]
    assert any((next(iter(maps.values()))[0] - shown[0]).abs().max() < 1e-5 for maps in candidates)
    other = activation_maps(model, task.images(indices), [(labels[0] + 1) % 10] * len(indices))
    assert all((maps - shown[0]).abs().max() > 1e-3 for maps in next(iter(other.values())))
    text = _text(content)
    assert "It does not show why the network decides so" in text
    assert "outlined in white" in text
    assert text.count('class="base-image"') == 12


def test_tables_state_scores_beside_the_accuracy(study):
    content = _content(*study)
    located, faithful = content["tables"]
    assert located["headers"] == [
        "top-1, %",
        "sfd",
        "sfd above random weights",
        "mean sfd",
        "pointing game, %",
        "mIoU, %",
    ]
    assert [style.name for style, _ in located["rows"]] == ["none", "cbam"]
    assert located["rows"][0][1][0] == ["67.50 ± 3.54"]
    assert [len(cell) for cell in located["rows"][1][1]] == [1, 3, 2, 3, 3, 3]
    assert [name for name, _ in located["controls"]] == [
        "none, random weights", "none, map of another class", "centre of the image",
    ]  # fmt: skip
    assert faithful["headers"] == FAITHFUL
    assert [name for name, _ in faithful["controls"]] == ["centre of the image"]
    assert content["scored"] == "2 of 20 test images, evenly spaced."


def test_unequal_accuracy_is_stated(study):
    far = {"none": [70.0, 71.0, 70.5], "se": [90.0, 91.0, 90.5], "cbam": [70.0, 71.1, 70.4]}
    sentence = looking._accuracies(context(made(far, folder="/nowhere/s")))
    assert sentence.startswith("se and none differ in top-1, so that a difference between maps may come")
    assert "cbam and none" not in sentence
    assert "top-1 is equal within the margin for cbam." in sentence
    assert looking._accuracies(context(made(SCORES))) == "Whether top-1 differs is not decided for cbam."
    not_learnt = made({"none": [10.0, 11.0], "se": [10.0, 11.0]}, trivial=("the most frequent class", 10.0))
    assert looking._accuracies(context(not_learnt)).startswith("none has not learnt the task")


def test_without_regions_only_faithfulness_is_measured(study, monkeypatch):
    results, task = study
    monkeypatch.setattr(task.data.test, "regions", None)
    content = _content(results, task)
    assert [table["headers"] for table in content["tables"]] == [["top-1, %", *FAITHFUL]]
    assert "outlined" not in _text(content)


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("saliency", [["top-1, %", "NSS", "NSS above random weights", "CC", "AUC-Judd"]]),
        ("multilabel", [["top-1, %", "sfd", "sfd above random weights", "mean sfd", "pointing game, %", "mIoU, %"],
                        FAITHFUL]),
        ("segment", [["top-1, %", "sfd", "sfd above random weights", "mean sfd", "pointing game, %", "mIoU, %"],
                     FAITHFUL]),
    ],
)  # fmt: skip
def test_other_tasks(tmp_path, name, headers):
    content = _content(*looking_study(tmp_path, {"none": [70.0]}, name))
    assert content["error"] is None
    assert [table["headers"] for table in content["tables"]] == headers


def test_detectors_have_maps_and_no_faithfulness(tmp_path):
    content = _content(*looking_study(tmp_path, {"none": [70.0]}, "detect"))
    assert content["left_out"] == ("Faithfulness is left out: the boxes of a detector change with the image.",)
    assert [table["headers"][1] for table in content["tables"]] == ["sfd"]
    assert not any("%" in caption for caption in content["columns"][0]["captions"])


def test_the_reason_is_stated(tmp_path, monkeypatch):
    results, task = looking_study(tmp_path, {"none": [70.0], "se": [71.0]})
    given = replace(context(results, task=task), results=replace(results, study=None))
    assert LookingSection().content(given) is None
    assert _content(results, None, open_error="the images are gone") == {"error": "the images are gone"}
    assert "No heat maps: the images are gone" in _text({"error": "the images are gone"})
    monkeypatch.setenv(VARIABLE, "0")
    assert _content(results, task) is None
    monkeypatch.setenv(VARIABLE, "2")
    save_network(task, results.study.folder / "se/seed0", 0)
    (results.study.folder / "se/seed0/config.json").write_text("{")
    assert "se/seed0/config.json cannot be read" in _content(results, task)["error"]
