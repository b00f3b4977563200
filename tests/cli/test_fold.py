"""``saccade fold``: which gates of a small run go, what that costs, and the network that is written."""

import json
from dataclasses import replace

import pytest
import torch

import saccade
from saccade.contract.randomize import randomize
from saccade.data.samples import collate
from saccade.explanation import folding
from saccade.explanation.finished_runs import open_task, read_finished_run
from saccade.saving import describe
from saccade.surgery import plugs

FIXED = {
    "model.name": "resnet10_small", "model.options": {"width": 8}, "data.size": 24, "data.train_images": 120,
    "data.test_images": 40, "training.epochs": 1, "training.workers": 0,
}  # fmt: skip
RUNS = {
    "noise": {"attention.mechanism": "se:rd_ratio=0.5", "attention.control": "noise"},
    "se": {"attention.mechanism": "se:rd_ratio=0.5", "task.metric": "NLL"},
    "none": {"attention.mechanism": "none"},
}
SITES = [f"layer{k}.0.bn2" for k in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one epoch; ``se`` gets gates that depend on the image, and a classifier fitted to the test images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in RUNS.items():
        saccade.train(data="digits", settings=FIXED | settings, out=folder / name, device="cpu", notify=lambda _: None)
    model, config = randomize(saccade.load(folder / "se")), describe(folder / "se")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for row in plugs(model):
            for parameter in row.module.mechanism.parameters():
                parameter.normal_(0, 4)
        task = open_task(folder / "se", *read_finished_run(folder / "se"))
        x, labels = collate(task.data.test.__getitems__(range(40)))
        fc, model.fc = model.fc, torch.nn.Identity()
        features = torch.cat([model(x), torch.ones(len(x), 1)], 1)
        solution = torch.linalg.lstsq(features, torch.nn.functional.one_hot(labels, 10).float()).solution
        fc.weight.copy_(10 * solution[:-1].T)
        fc.bias.copy_(10 * solution[-1])
        model.fc = fc
    saved = {key: config[key] for key in ("host", "input", "classes")}
    saccade.save(model, folder / "se", **saved, **config["facts"])
    return folder


def folded(run, *arguments):
    code, out, err = run("fold", *map(str, arguments), "--json")
    assert code == 0, err
    return json.loads(out)


def test_gates_that_are_constant_cost_nothing(run, runs):
    code, out, err = run("fold", str(runs / "noise"))
    assert code == 0, err
    assert out.splitlines()[1:5] == [f"{site}  folded        +0.00  {site}" for site in SITES]
    assert "The data have no validation images, so the loss on new images is likely to be larger." in out
    assert "4 of 4 gates folded; margin 1 points of top-1, means over 120 training images, chosen on 40 test" in out
    assert out.splitlines()[-1] == str(runs / "noise" / "folded")
    old, new = saccade.load(runs / "noise"), saccade.load(runs / "noise" / "folded")
    plain = saccade.load(runs / "none")
    assert plugs(new) == []
    assert list(new.state_dict()) == list(plain.state_dict())
    assert type(new) is type(plain)
    images = torch.randn(3, *describe(runs / "none")["input"])
    with torch.no_grad():
        torch.testing.assert_close(new(images), old(images), rtol=1e-5, atol=1e-6)
        assert float((plain(images) - old(images)).abs().max()) > 1e-3


def test_the_cost_of_gates_that_look_is_stated(run, runs, tmp_path):
    strict = folded(run, runs / "se", "--margin", "0.001", "--out", tmp_path / "strict")
    costs = {site["site"]: site["cost"] for site in strict["sites"]}
    assert list(costs) == SITES
    assert strict["metric"] == "NLL"
    kept = [site for site in strict["sites"] if site["outcome"] == "kept"]
    assert [site for site in kept if not site["cost_together"] > 0.001 or "more than 0.001" not in site["reason"]] == []
    assert len(kept) > 0
    lax = folded(run, runs / "se", "--margin", "100", "--out", tmp_path / "lax", "--images", "7")
    assert [site["outcome"] for site in lax["sites"]] == ["folded"] * 4
    assert (lax["n_training"], lax["chosen_on"], lax["n_choosing"]) == (7, "test", 40)
    scores = lax["scores"]
    assert scores["folded"] == pytest.approx(scores["held"], rel=1e-5)
    assert scores["held"] - scores["own"] == pytest.approx(max(site["cost_together"] for site in lax["sites"]), abs=0.1)
    assert lax["parameters"][1] < lax["parameters"][0]
    assert lax["macs"][1] < lax["macs"][0]
    saved = describe(tmp_path / "lax")["facts"]
    assert saved["scores"]["NLL"] == lax["scores"]["folded"]
    assert saved["folded"]["sites"] == lax["sites"]
    assert {site["site"]: site["cost"] for site in lax["sites"]}.keys() == costs.keys()
    some = folded(run, runs / "se", "--margin", "100", "--sites", "layer1*", "--out", tmp_path / "some")
    assert [site["site"] for site in some["sites"]] == SITES[:1]
    assert [row.site for row in plugs(saccade.load(tmp_path / "some"))] == SITES[1:]


def test_gates_are_chosen_on_validation_images_if_there_are_any(run, runs, tmp_path, monkeypatch):
    def with_val(*arguments):
        task = open_task(*arguments)
        task.data = replace(task.data, val=task.data.test, test=task.data.train)
        return task

    monkeypatch.setattr(folding, "open_task", with_val)
    found = folded(run, runs / "noise", "--out", tmp_path / "out")
    assert (found["chosen_on"], found["n_choosing"], found["n_test"]) == ("validation", 40, 120)
    code, out, _ = run("fold", str(runs / "noise"), "--out", str(tmp_path / "out"))
    assert (code, "no validation images" in out) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "resnet10_small with attention none has no plugs to fold; gates of"),
        (["."], "holds no finished run"),
        (["se", "--sites", "layer9*"], "'layer9*' is no site with a plug"),
        (["se", "--sites", ","], "sites is empty"),
        (["se", "--margin", "-1"], "margin = -1: it must be a finite number of nats"),
        (["se", "--images", "0"], "0 is not in the range x>=1"),
        (["se", "--out", "se"], "holds the network that is folded"),
        (["se", "--out", "noise"], "noise is the folder of another run"),
    ],
)
def test_refusals(run, runs, monkeypatch, arguments, message):
    monkeypatch.chdir(runs)
    code, out, err = run("fold", *arguments)
    assert (code, out) == (2, "")
    assert message in err
