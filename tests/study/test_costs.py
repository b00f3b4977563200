"""Cost of the arms of a study."""

import json
from functools import partial

import pytest
import torch

from saccade import Recipe, UserError, cost, plug, save
from saccade.models import create_host
from saccade.study import costs
from saccade.study.arms import arms
from saccade.study.costs import ArmCost, Latency, measure_costs, read_costs
from saccade.study.plan import Study

DONE = {"task": "classify", "metric": "top-1", "scores": {"top-1": 50.0}, "epochs": 1, "seconds": 1.0,
        "parameters": 1, "diverged": None}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Study of saved networks: none and se with 16 pixels, and one arm with 24."""
    monkeypatch.setattr(cost, "measure_all", partial(cost.measure_all, runs=3))
    plan = Study(Recipe(), arms(["se"], [], ["large: data.size=24"]), (0,), tmp_path / "s")
    plan.write()
    for run in plan.runs():
        run.folder.mkdir(parents=True)
        (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
        (run.folder / "done.json").write_text(json.dumps(DONE))
        _save(run, 24 if run.arm.name == "large" else 16)
    return plan


def _save(run, side):
    torch.manual_seed(3)
    network = create_host(run.recipe.model, num_classes=3, channels=1)
    if run.arm.name == "se":
        network = plug(network, "se", input=(1, side, side))
    save(network, run.folder, input=(1, side, side), classes=["a", "b", "c"])


def test_every_arm_is_measured_at_its_own_size(study):
    measure_costs(study.folder)
    found = read_costs(study.folder)
    assert list(found) == ["none", "se", "large"]
    assert found["se"].parameters > found["none"].parameters == found["large"].parameters
    assert found["none"].macs < found["se"].macs < found["large"].macs
    for each in found.values():
        assert (each.batch, each.threads, each.device) == (costs.BATCH, 1, "cpu")
        assert 0 < each.latency.low <= each.latency.median <= each.latency.high
        assert each.batched.median > 0


def test_costs_are_measured_once(study):
    path = study.folder / "costs.json"
    measure_costs(study.folder)
    before = path.read_bytes()
    measure_costs(study.folder)
    assert path.read_bytes() == before
    path.write_text("[]")
    measure_costs(study.folder, remeasure=True)
    assert list(read_costs(study.folder)) == ["none", "se", "large"]


def test_saved_networks_with_the_wrong_input_size_are_damaged(study):
    _save(study.runs()[1], 20)
    with pytest.raises(UserError, match=r"se/seed0/config.json is damaged: input is \[1, 20, 20\], the other arms"):
        measure_costs(study.folder)


def test_nothing_is_written_before_a_run_is_done(study):
    for run in study.runs():
        (run.folder / "done.json").unlink()
    measure_costs(study.folder)
    assert read_costs(study.folder) == {}
    assert not (study.folder / "costs.json").exists()


def test_files_of_earlier_versions_are_read(tmp_path):
    time = {"median": 2.0, "low": 1.5, "high": 3.0, "runs": 50}
    facts = {"trainable": 7, "latency_ms": time, "batch": 1, "threads": 2, "device": "cpu", "parameters": 9, "macs": 11}
    (tmp_path / "costs.json").write_text(json.dumps({"none": facts | {"batched": {"batch": 16, "latency_ms": time}}}))
    latency = Latency(2.0, 1.5, 3.0)
    assert read_costs(tmp_path) == {"none": ArmCost(9, 11, latency, 16, latency, 2, "cpu")}
