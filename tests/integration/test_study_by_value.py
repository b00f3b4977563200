"""A study of several labels, in groups, whose scores are also given by view: from the table to the report."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.metrics.rows import select_images
from saccade.recipe import Recipe
from saccade.runfiles import read_rows
from saccade.study.arms import arms
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.study.report import write_report
from saccade.tasks.multilabel import Multilabel
from saccade.training import train

PATIENTS, VIEWS = 75, ("AP", "PA", "LL")
RECIPE = Recipe().with_overrides(
    {
        "data.size": 16,
        "data.options": {"by": "view"},
        "model.options": {"width": 4, "zero_init_last": False},
        "task.class_weights": "balanced",
        "training.epochs": 1,
        "training.batch_size": 16,
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two arms and two seeds on films of 75 patients, two each; most views are AP or PA."""
    root = tmp_path_factory.mktemp("films")
    random, lines = np.random.default_rng(0), ["image,mass,fluid,rare,patient,view,split"]
    for i in range(2 * PATIENTS):
        mass, fluid = random.integers(0, 2, 2)
        pixels = random.integers(0, 200, (16, 16, 3)) + np.array([20 * mass, 9 * fluid, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i}.png")
        view, part = VIEWS[2 if i % 50 == 7 else i % 2], ("train", "test")[i >= 50]
        lines.append(f"{i}.png,{mass},{fluid},{int(i % 40 == 0)},p{i // 2},{view},{part}")
    (root / "labels.csv").write_text("\n".join(lines))
    study = Study(RECIPE.with_overrides({"data.source": str(root)}), arms(["se:rd_ratio=0.5"]), (0, 1), root / "study")
    study.write()
    for run in study.runs():
        train(run.recipe, run.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SACCADE_MAP_IMAGES", "8")
        return write_report(study.folder)


def test_scores_of_each_view_stand_beside_the_others(results):
    assert (results.task, results.metric.name) == ("multilabel", "AUROC")
    assert [other.metric.name for other in results.others] == [
        "mAP", "AUROC (view = AP)", "mAP (view = AP)", "AUROC (view = PA)", "mAP (view = PA)"
    ]  # fmt: skip
    for other in results.others:
        (finding,) = other.differences
        assert finding.low < finding.difference < finding.high
        assert len({score for scores in other.scores.values() for score in scores}) > 1
    assert len(results.analysis.differences) == 1
    assert results.analysis.sigma > 0


def test_they_are_those_of_the_films(results):
    run = results.study.runs()[0]
    rows, done = read_rows(run.folder), json.loads((run.folder / "done.json").read_text())
    assert done["by"] == {"column": "view", "values": ["AP", "LL", "PA"]}
    assert rows["by"].bincount().tolist() == [50, 2, 48]
    assert len(rows["group"].unique()) == 50
    assert done["by_class"]["AUROC"][2] is None
    part = select_images(rows, torch.nonzero(rows["by"] == 2)[:, 0])
    expected = np.mean(Multilabel.metrics[0].by_class(part)[:2].tolist())
    assert done["scores"]["AUROC (view = PA)"] == pytest.approx(expected)
    assert done["scores"]["AUROC (view = PA)"] != pytest.approx(done["scores"]["AUROC"])
    assert done["trivial"]["scores"]["AUROC (view = PA)"] == 0.5


def test_what_is_not_scored_is_listed(results):
    notes = [note.text for note in results.notes]
    needed = "15 test images with the label and 15 without, each from 10 groups"
    assert f"Not scored, for lack of {needed}: rare 2 (groups: 2), of 100 test images." in notes
    assert "view = AP (50 test images): the mean is over mass, fluid." in notes
    assert f"view = LL (2 test images) is not scored: no class has {needed}." in notes


def test_the_report_and_the_tables_show_them(results):
    folder = results.study.folder
    page = (folder / "report.html").read_text()
    for text in ("AUROC (view = AP)", "mAP (view = PA)", "rare 2 (groups: 2)", "the same answer for every image"):
        assert text in page
    written = json.loads((folder / "results.json").read_text())
    assert "AUROC (view = PA)" in [other["metric"] for other in written["others"]]
    assert "view = LL (2 test images) is not scored" in (folder / "table.md").read_text().replace("\\", "")
    assert str(collect(folder)) == str(results)


def test_only_metrics_that_suit_the_data_are_given_by_value(tmp_path):
    """Top-5 of two classes is always 100 %."""
    lines = ["image,label,view,split"]
    for i in range(60):
        Image.new("RGB", (16, 16), (9 * (i % 2), i, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{'PQ'[i // 2 % 2]},{('train', 'test')[i >= 20]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    scores = train(RECIPE.with_overrides({"data.source": str(tmp_path)}), tmp_path / "run")["scores"]
    names = ["top-1", "NLL"]
    assert list(scores) == [*names, *(f"{name} (view = {view})" for view in "PQ" for name in names)]


def test_films_without_regions_have_heat_maps(results):
    page = (results.study.folder / "report.html").read_text()
    section = page.partition('<section id="looking">')[2].partition("</section>")[0]
    assert section.count('class="base-image"') == 8  # four films, two arms; gates of channels are drawn as strips
    assert "of 100 test images, evenly spaced" in section
    assert "Do these pixels matter to the network?" in section
    assert "Do the maps lie on the object?" not in section
    assert len(list(results.study.folder.glob("*/seed*/looking.safetensors"))) == 4
