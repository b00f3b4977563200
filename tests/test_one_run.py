"""``saccade.train`` and its result."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import saccade
from saccade import UserError
from saccade.events import EpochEnded, RunPlanned, ignore
from saccade.recipe import Recipe
from saccade.study import worker

TINY = {
    "training.epochs": 1, "data.size": 24, "data.train_images": 60, "data.test_images": 30, "training.batch_size": 30,
}  # fmt: skip


class Net(nn.Sequential):
    def __init__(self, num_classes, in_chans, width=16):
        body = [nn.Conv2d(in_chans, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def narrow(num_classes, in_chans):
    return Net(num_classes, in_chans, 16)


def wide(num_classes, in_chans):
    return Net(num_classes, in_chans, 32)


wide.__qualname__ = "narrow"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # so that a name finds the functions of this module
    return tmp_path


def test_a_run_on_a_network_of_ones_own(desk):
    seen = []
    run = saccade.train(model=narrow, attention="se", seed=3, settings=TINY, device="cpu", notify=seen.append)
    assert str(run.folder) == "runs/digits-se-seed3"
    assert run.result == json.loads((run.folder / "done.json").read_text())
    assert run.scores == run.result["scores"]
    assert not run.diverged
    assert run.sentence().startswith(f"top-1 {run.scores['top-1']:.2f} % on the test images after 1 epoch in ")
    assert seen[0] == RunPlanned(run.folder, f"{run.folder}: {__name__}:narrow, attention se, 1 epoch")
    assert sum(isinstance(event, EpochEnded) for event in seen) == 2
    network = run.load()
    assert len(saccade.plugs(network)) == 1
    assert network(torch.randn(2, 1, 24, 24)).shape == (2, 10)
    assert saccade.train(model=narrow, attention="se", seed=3, settings=TINY, device="cpu", notify=seen.append) == run
    with pytest.raises(UserError, match=r"another recipe: model\.code \(the code of the function.* is '.*Choose"):
        saccade.train(model=wide, attention="se", seed=3, settings=TINY, device="cpu", notify=seen.append)


def test_what_is_set_wins_over_what_is_named(desk):
    recipe = Recipe().with_overrides({**TINY, "model.options": {"width": 8}, "training.seed": 1})
    settings = ["training.seed=5", "model.options.width=4"]
    run = saccade.train(recipe, seed=3, settings=settings, out="here", device="cpu", notify=lambda event: None)
    found = Recipe.load("here/recipe.toml")
    assert (found.training.seed, found.model.options) == (5, {"width": 4})
    assert found.with_overrides({"training.seed": 1, "model.options": {"width": 8}}) == recipe
    assert run.folder.name == "here"


def test_progress_is_on_stderr(desk, capfd):
    saccade.train(settings={**TINY, "model.options": {"width": 4}}, out="here", device="cpu")
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split("   ")[0] for line in said.err.splitlines()][1:] == ["epoch 0/1", "epoch 1/1"]
    assert said.err.startswith("here: resnet10_small, attention none, 1 epoch\n")


def test_trust_reaches_the_folder_of_a_teacher(desk):
    named = f"{__name__}:narrow"
    saccade.train(model=narrow, settings=TINY, device="cpu", out="taught", notify=ignore)
    settings = {**TINY, "training.teacher": "taught", "training.memory_format": "auto"}
    for trust, refused in ((False, True), ({"other:host"}, True), ({named}, False)):
        with pytest.raises(UserError, match=rf"names the host '{named}'") if refused else nullcontext():
            run = saccade.train(model="resnet10t", settings=settings, device="cpu", trust=trust, out="s", notify=ignore)
            assert run.result["epochs"] == 1
        with pytest.raises(UserError, match=rf"names the host '{named}'") if refused else nullcontext():
            recipe = Recipe().with_overrides({**settings, "model.name": "resnet10t"}).model_dump(mode="json")
            assert worker.check_study([recipe], None, "cpu", ignore, trust=trust)["decided"]
