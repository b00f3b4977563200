"""Forecast of a study; the timing itself is tested with the command."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from saccade import Recipe
from saccade.data import find_layout
from saccade.metrics.metric import Metric
from saccade.recipe import Data
from saccade.study import forecast
from saccade.study.arms import arms
from saccade.study.plan import Study
from saccade.study.precision import ImageError, image_floor, planned_detectable
from saccade.tasks.classify import Classify

TOP1, TOP5, NLL = Classify.metrics
DIGITS = find_layout(Data()).residual_sd["top-1"]

FACTS = {
    "data": "a set of images",
    "runs": 10, "finished": 2, "slots": 2, "minutes": 4.26, "disk_mb": 12.4, "step_ms": {"none": 31.4, "se": 40.0},
    "test_ms": {"none": 9.0, "se": 9.5}, "metric": "top-1", "unit": "points",
    "detectable": ((0.5, 1.234),), "sigma_from": "measured", "test_images": 400,
    "image_se": 0.05, "image_se_from": "measured",
    "image_limited_sigmas": (), "seeds_for_margin": 7, "margin": 1.0, "margin_needs_images": False,
}  # fmt: skip


def test_one_known_residual_sd():
    assert forecast.Forecast(**FACTS).text().splitlines() == [
        "data    a set of images",
        "time    about 4.3 minutes for 10 runs (2 are finished), 2 at a time; one training step in ms: none 31, se 40",
        "disk    about 12 MB",
        "detects differences of 1.2 points with probability 0.8 (residual SD 0.50 points: measured)",
        "        a difference as large as the margin, 1, would take 7 seeds (SD 0.5)",
    ]
    json.dumps(forecast.Forecast(**FACTS).to_json(), allow_nan=False)


def test_unknown_residual_sd_and_too_many_seeds():
    facts = FACTS | {"detectable": ((0.3, 0.7), (1.0, 2.4)), "seeds_for_margin": None, "minutes": 3000}
    said = forecast.Forecast(**facts).text()
    assert "about 50 hours" in said
    assert "differences, in points, with probability 0.8: 0.7 (SD 0.3), 2.4 (SD 1); measured" in said
    assert "more than 100 seeds (SD 0.3)" in said


def test_decimals_follow_the_margin():
    facts = FACTS | {"metric": "AUROC", "unit": "", "margin": 0.01, "detectable": ((0.0061, 0.01234),)}
    assert "differences of 0.012 with probability 0.8 (residual SD 0.0061: " in forecast.Forecast(**facts).text()
    two = facts | {
        "detectable": ((0.0061, 0.01234), (0.01, 0.0201)),
        "image_limited_sigmas": (0.01,),
        "image_se": 0.004,
    }
    said = forecast.Forecast(**two).text()
    assert "0.012 (SD 0.0061), 0.020 (SD 0.01)" in said
    assert "at SD 0.01: 0.0040 at any" in said


def test_too_few_test_images_are_named():
    few = {
        "image_limited_sigmas": (0.5,),
        "image_se": 0.71,
        "image_se_from": "assumed: so many",
        "margin_needs_images": True,
    }
    said = forecast.Forecast(**FACTS | few).text().splitlines()
    assert said[4:] == [
        "        the 400 test images cause the larger part of the error: 0.71 points at any number of seeds "
        "(assumed: so many)",
        "        no number of seeds would find a difference as large as the margin, 1: more test images would",
    ]
    facts = FACTS | {"detectable": ((0.3, 0.7), (1.0, 2.4)), "image_limited_sigmas": (0.3,)}
    assert "400 test images cause the larger part of the error at SD 0.3: 0.05" in forecast.Forecast(**facts).text()


def test_assumed_error_from_the_test_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()

    def known(images, **data):
        recipe = Recipe().with_overrides({f"data.{key}": value for key, value in data.items()})
        return forecast._expected_errors(Study(recipe, arms(["se"]), (0, 1), tmp_path / "s"), TOP1, images)

    assert known(2000).image_variance == pytest.approx(1e4 * 0.005 / 2000)
    assert known(2000).image_variance_from == "assumed: two arms differ in 0.5 % of their answers"
    assert known(2000).sigmas == (DIGITS,)
    assert known(2000).sigma_from == "measured on the digits"
    # 15 % answered differently by two runs: an SD of 100 √(0.075 / 500) of one run's score
    assert known(500).sigmas == pytest.approx((1.2247,), abs=1e-4)
    assert known(500).sigma_from == "assumed: two runs differ in their answers on 15 % of 500 test images"
    assert known(2000, source=str(tmp_path)).sigmas == pytest.approx((0.6124, 1.0), abs=1e-4)
    assert known(2000, source=str(tmp_path)).sigma_from.endswith(
        "known after a first study; the smallest is assumed: two runs differ in their answers on 15 % of 2000 test "
        "images"
    )
    assert known(100_000, source=str(tmp_path)).sigmas == forecast.ASSUMED_SDS


def test_expected_errors_of_another_metric(tmp_path):
    def known(metric):
        return forecast._expected_errors(Study(Recipe(), arms(["se"]), (0, 1), tmp_path / "s"), metric, 100_000)

    assert known(TOP5).sigmas == forecast.ASSUMED_SDS, "the digits' SD is that of top-1"
    share = Metric(name="AUC", unit="", margin=0.01, low=0.0, high=1.0, score=len)
    assert known(share).sigmas == pytest.approx([sd / 100 for sd in forecast.ASSUMED_SDS])
    assert known(share).image_variance == pytest.approx(0.005 / 100_000)
    assert (known(NLL).sigmas, known(NLL).image_variance) == ((), 0.0), "without bound nothing is assumed"


def test_an_unbounded_metric(tmp_path):
    facts = FACTS | {"metric": "NLL", "unit": "nats", "detectable": ()}
    assert forecast.Forecast(**facts).text().splitlines()[3:] == [
        "detects unknown: how far runs differ in NLL is known after a first study"
    ]


def test_one_seed_detects_nothing():
    assert "one seed or a handful" in forecast.Forecast(**FACTS | {"detectable": ((0.5, None),)}).text()


def test_the_residual_sd_is_measured_or_assumed(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()

    def study(**data):
        return Study(
            Recipe().with_overrides({f"data.{k}": v for k, v in data.items()}), arms(["se"]), (0, 1), tmp_path / "s"
        )

    def known(plan):
        return forecast._expected_errors(plan, TOP1, 20_000)

    assert known(study()).sigmas == (DIGITS,)
    assert known(study(source=str(tmp_path))).sigmas == forecast.ASSUMED_SDS
    study().write()
    assert known(study()).sigmas == (DIGITS,), "a study without runs knows nothing"
    rows = [SimpleNamespace(se_images=se) for se in (0.3, None, 0.4, 0.0)]
    analysis = SimpleNamespace(sigma=0.77, differences=rows, images=20_000)
    monkeypatch.setattr(forecast, "collect", lambda folder: SimpleNamespace(analysis=analysis))
    found = known(study())
    assert (found.sigmas, found.sigma_from) == ((0.77,), "the runs finished in this folder")
    assert (found.image_variance, found.image_variance_from) == (pytest.approx(0.25 / 3), "measured in this folder")
    analysis.differences = rows[3:]
    assert (known(study()).image_variance, known(study()).image_variance_from) == (0.0, "measured in this folder")
    analysis.images = None
    assert known(study()).image_variance_from.startswith("assumed")


def test_unfinished_runs_are_counted(tmp_path, monkeypatch):
    """4 arms, 3 of their 12 runs done; 10 ms per training step, 1 ms per test step."""
    images = {"data.train_images": 100, "data.test_images": 50}
    recipe = Recipe().with_overrides({**images, "training.batch_size": 30, "training.epochs": 4})
    others = ["long: training.epochs=8 data.train_images=20"]
    plan = Study(recipe, arms(["se"], ["extra:se"], others), (0, 1, 2), tmp_path / "s")
    for run in plan.runs()[:3]:
        run.folder.mkdir(parents=True)
        (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
        (run.folder / "done.json").write_text(
            '{"task": "classify", "metric": "top-1", "scores": {"top-1": 9.0}, "epochs": 4, "seconds": 1.0, '
            '"parameters": 1, "diverged": null}'
        )
    times = itertools.cycle((10.0, 1.0))  # a training step, a test step
    monkeypatch.setattr(forecast, "_full_batch_ms", lambda steps, batch, *_: (next(times), batch))
    found = forecast.forecast_study(plan, 2, "cpu")
    assert (found.runs, found.finished, found.slots) == (9, 3, 2)
    # 100 images are 4 batches of 30 (the last one short), 50 are 2; the test is also done before training.
    short, long = 4 * 4 * 10 + 5 * 2 * 1, 8 * 1 * 10 + 9 * 2 * 1
    assert found.minutes == pytest.approx((7 * short + 2 * long) / 2 / 60_000)
    assert found.disk_mb > 12 * (1_000_000 + 32 * 50 + 50_000) / 1e6
    # 50 test images, 15 % answered differently by two runs: a score's SD is 100 √(0.075 / 50); 0.5 % lastingly.
    sigma = 100 * math.sqrt(0.075 / 50)
    sees = planned_detectable(sigma, 3, 4, 2, image_error=ImageError(1.0, 49, image_floor(50, 100.0)))
    assert found.detectable == ((pytest.approx(sigma), pytest.approx(sees)),)
    assert (found.test_images, found.image_limited_sigmas, found.margin_needs_images) == (50, (), True)
    assert found.image_se == pytest.approx(1.0)
    assert found.seeds_for_margin is None


def test_many_images_leave_the_error_of_the_seeds(tmp_path, monkeypatch):
    images = {"data.train_images": 20, "data.test_images": 10_000, "data.size": 16}
    plan = Study(Recipe().with_overrides(images), arms(["se", "das"], ["extra:das"]), (0, 1, 2), tmp_path / "s")
    monkeypatch.setattr(forecast, "_full_batch_ms", lambda steps, batch, *_: (1.0, batch))
    found = forecast.forecast_study(plan, 2, "cpu")
    images = ImageError(1e4 * 0.005 / 10_000, 9999, image_floor(10_000, 100.0))
    sees = [planned_detectable(DIGITS, n, 4, 2, image_error=images) for n in range(2, 30)]
    assert found.detectable == ((DIGITS, sees[1]),)
    assert (found.image_limited_sigmas, found.margin_needs_images) == ((), False)
    assert found.seeds_for_margin == next(n for n, points in enumerate(sees, 2) if points <= 1.0)


@pytest.fixture
def clock(monkeypatch):
    """``clock(ms)`` returns makers of steps that take ``ms`` per image, and the requests made of them."""
    now, asked = [0.0], []
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now[0])

    def makers(ms, runs=1):
        def make(run):
            def steps(images):
                while True:
                    asked.append((run, images))
                    now[0] += ms * images / 1e3
                    yield

            return steps

        return [make(run) for run in range(runs)]

    return makers, asked


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("batch", "device", "wanted", "asked"),
    [
        (30, CPU, (300.0, 30), [4] + [30] * 4),
        (31, CPU, (310.0, 4), [4] * 4),
        (31, CUDA, (310.0, 31), [31] * 4),
        (3, CPU, (30.0, 3), [3] * 4),
    ],
)
def test_long_steps_are_timed_with_few_images_and_scaled(clock, batch, device, wanted, asked):
    makers, done = clock
    assert forecast._full_batch_ms(makers(10.0), batch, device, 1) == (pytest.approx(wanted[0]), wanted[1])
    assert [images for _, images in done] == asked


def test_long_steps_are_timed_concurrently(clock):
    makers, done = clock
    forecast._full_batch_ms(makers(10.0, 3), 31, CPU, 1)
    assert {run for run, _ in done} == {0, 1, 2}
    done.clear()
    forecast._full_batch_ms(makers(10.0, 3), 30, CPU, 1)
    assert {run for run, _ in done} == {0}, "the others would fight for Python's lock"


def test_scaled_times_are_reported():
    said = forecast.Forecast(**FACTS, timed_images=8).text()
    assert "one training step in ms (scaled from 8 images): none 31, se 40" in said
    assert "scaled" not in forecast.Forecast(**FACTS).text()


def test_open_settings_are_decided_and_reported(tmp_path, monkeypatch):
    decided = {
        "settings": {"training.memory_format": "channels_last"},
        "step_ms": {"contiguous": 31.4, "x": 9.0},
        "batch": 8,
    }
    monkeypatch.setattr(forecast, "time_choices", lambda task, keys, device, trust: decided)
    timed = []

    def whole(makers, batch, *_):
        timed.append(makers[0].args[1].recipe)
        return 1.0, batch

    monkeypatch.setattr(forecast, "_full_batch_ms", whole)
    images = {"data.train_images": 20, "data.test_images": 10, "data.size": 16}
    recipe = Recipe().with_overrides({**images, "training.memory_format": "auto"})
    found = forecast.forecast_study(Study(recipe, arms(["se"]), (0,), tmp_path / "s"), 1, "cpu")
    assert found.decided == decided
    assert {each.training.memory_format for each in timed} == {"channels_last"}
    line = "with    training.memory_format = channels_last (ms for a step of 8 images: contiguous 31, x 9)"
    assert line in found.text().splitlines()
    assert not list(tmp_path.iterdir())
