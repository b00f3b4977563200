"""Scores of the maps of a study: paired differences, controls, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from looking_studies import looking_study
from made_results import made

import saccade
from saccade.explanation.map_scores import CONTROLS, OWN
from saccade.metrics.metric import Metric
from saccade.study import looking
from saccade.study.costs import ArmCost, Latency
from saccade.study.looking import METRICS, VARIABLE, measure_looking
from saccade.study.pseudovalues import jackknife, pseudo_values
from saccade.study.stats import intervals

BY_NAME = {metric.name: metric for metric in METRICS}
SCORES = {"none": [70.0, 65.0, 75.0], "se": [72.5, 66.0, 72.5]}


def _with_cost(results, macs):
    """Return the results with a baseline that needs ``macs`` MACs an image."""
    cost = ArmCost(1, macs, Latency(1.0, 1.0, 1.0), 16, Latency(1.0, 1.0, 1.0), 1, "cpu")
    return replace(results, arms=(replace(results.arms[0], cost=cost), *results.arms[1:]))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return looking_study(tmp_path_factory.mktemp("looking"), SCORES)


@pytest.fixture
def fake_rows(monkeypatch):
    """Replace the rows of every run by random ones; return them by (arm, seed)."""
    rows = {}

    def run_rows(folder, examples, settings, seed, trust):
        generator = torch.Generator().manual_seed(seed + 10 * (folder.parent.name == "se"))
        n = len(examples.indices)

        def draw(*shape):
            return torch.rand(n, *shape, generator=generator, dtype=torch.float64)

        own = {name: {"sfd": draw(9), "pointing": draw(), "iou": draw(99)} for name in (OWN, *CONTROLS)}
        for name in (OWN, "centre") if settings.steps else ():
            own[name] |= {"insertion": draw(), "deletion": draw()}
        rows[folder.parent.name, seed] = own
        return own

    monkeypatch.setenv(VARIABLE, "12")
    monkeypatch.setattr(looking, "run_rows", run_rows)
    return rows


def test_differences_are_paired_over_seeds_and_images(study, fake_rows):
    found = measure_looking(*study)
    by_name = {score.metric.name: score for score in found.scores}
    assert (found.images, found.total, found.left_out) == (12, 20, ())
    assert list(by_name) == ["sfd", "mean sfd", "pointing game", "mIoU", "insertion", "deletion"]

    def values(arm, name=OWN):
        return torch.stack([fake_rows[arm, seed][name]["sfd"][:, 4] for seed in range(3)]).numpy()

    metric = Metric(name="sfd", unit="", margin=1.0, low=1 / 11, high=10 / 11, digits=3, values=lambda rows: rows["x"])

    def expected(first, second, metric=metric):
        scores = {"first": first.mean(1).tolist(), "second": second.mean(1).tolist()}
        (row,) = intervals(scores, metric=metric, values={"first": first, "second": second}, baseline="first")
        return pytest.approx((row.difference, row.low, row.high))

    def bounds(row):
        return row.difference, row.low, row.high

    sfd = by_name["sfd"]
    assert sfd.scores["se"] == pytest.approx(values("se").mean(1).tolist())
    assert bounds(sfd.differences[0]) == expected(values("none"), values("se"))
    assert bounds(sfd.differences[0]) != expected(values("none"), np.roll(values("se"), 1, 0))
    assert [row.name for row in sfd.control_differences] == list(CONTROLS)
    assert bounds(sfd.control_differences[2]) == expected(values("none"), values("none", "centre"))
    assert bounds(sfd.above_random["se"]) == expected(values("se", "random weights"), values("se"))
    assert list(by_name["insertion"].controls) == ["centre"]
    advantage = torch.stack([fake_rows["se", seed][OWN]["insertion"] for seed in range(3)]).numpy()
    assert bounds(by_name["insertion"].above_random["se"]) == expected(0 * advantage, advantage, BY_NAME["insertion"])


def test_best_iou_is_at_one_threshold_for_all_images():
    iou = torch.tensor([[0.9, 0.0, 0.3], [0.0, 0.8, 0.4], [0.0, 0.1, 0.5]], dtype=torch.float64)
    metric = BY_NAME["mIoU"]
    assert metric.compute({"iou": iou}) == pytest.approx(40.0)  # means 0.3, 0.3, 0.4; per image it would be 73.3
    units = torch.tensor([0, 1, 1])
    assert metric.score_without({"iou": iou}, units).tolist() == pytest.approx([45.0, 90.0])
    rows = {"iou": iou}
    by_hand = jackknife(lambda kept: metric.compute({"iou": iou[kept]}), 3)
    assert pseudo_values(metric, rows) == pytest.approx(by_hand)


def test_a_missing_run_is_left_out(study, fake_rows):
    results, task = study
    runs = tuple(replace(run, status="failed") if (run.arm, run.seed) == ("se", 1) else run for run in results.runs)
    sfd = measure_looking(replace(results, runs=runs), task).scores[0]
    assert ("se", 1) not in fake_rows
    assert [score is None for score in sfd.scores["se"]] == [False, True, False]
    assert sfd.differences[0].seeds == 2


@pytest.mark.parametrize(
    ("macs", "images", "faithful"), [(1_000_000, 20, True), (60_000_000, 14, True), (100_000_000, 20, False)]
)
def test_large_networks_are_measured_on_fewer_images(study, fake_rows, monkeypatch, macs, images, faithful):
    results, task = study
    monkeypatch.setenv(VARIABLE, "100")
    found = measure_looking(_with_cost(results, macs), task)
    assert found.images == images
    assert any(score.metric.name == "insertion" for score in found.scores) == faithful
    assert [sentence[:30] for sentence in found.left_out] == [] if faithful else ["Faithfulness is left out: with"]


def test_number_of_images_from_the_environment(study, fake_rows, monkeypatch):
    for text, images in (("3", 3), ("", 20)):
        monkeypatch.setenv(VARIABLE, text)
        assert measure_looking(*study).images == images
    monkeypatch.setenv(VARIABLE, "0")
    assert measure_looking(*study) is None
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(saccade.UserError, match="SACCADE_MAP_IMAGES = 'many': a number of images is needed"):
        measure_looking(*study)


def test_nothing_is_measured_without_networks(study):
    results = made(SCORES, folder="/nowhere/s", data__size=24, data__train_images=20, data__test_images=20)
    assert measure_looking(results, study[1]) is None
