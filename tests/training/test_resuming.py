"""A run that is killed at any moment and resumed ends in the same bytes."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from saccade.errors import UserError
from saccade.events import EpochEnded
from saccade.training import train
from tiny_runs import COMBINED, FILES, TINY, Killed, after, assert_same_run, listener, opened, rows


def kill(recipe, folder, epoch):
    """Train until ``epoch`` ends."""
    _, listen = listener(until=after(epoch))
    with pytest.raises(Killed):
        train(recipe, folder, device="cpu", notify=listen)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_killed_after_an_epoch_goes_on_there(straight, tmp_path, epoch):
    folder, _, _ = straight
    kill(TINY, tmp_path, epoch)
    assert not (tmp_path / "done.json").exists()
    heard, listen = listener()
    train(TINY, tmp_path, device="cpu", notify=listen)
    assert heard[0].epoch == epoch
    assert [event.epoch for event in heard if isinstance(event, EpochEnded)] == list(range(epoch + 1, 3))
    assert_same_run(folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("combined")
    train(COMBINED, folder, device="cpu")
    return folder


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_so_does_one_with_phases_an_average_and_mixed_images(combined, tmp_path, epoch):
    kill(COMBINED, tmp_path, epoch)
    train(COMBINED, tmp_path, device="cpu")
    assert_same_run(combined, tmp_path)


def test_a_run_killed_before_any_of_its_writes_goes_on(tmp_path, monkeypatch):
    recipe, move = TINY.with_overrides({"training.epochs": 1}), os.replace
    train(recipe, tmp_path / "straight", device="cpu")
    for survived in range(10):  # two writes at the start, two an epoch, four at the end
        place, left = tmp_path / str(survived), survived

        def replace(source, target):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            move(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(Killed):
                train(recipe, place, device="cpu")
        assert not (place / "done.json").exists()
        train(recipe, place, device="cpu")
        assert_same_run(tmp_path / "straight", place)
        assert {path.name for path in place.iterdir()} == FILES


CHILD = """
import sys
from pathlib import Path
from saccade.recipe import Recipe
from saccade.training import train
def say(event):
    print(type(event).__name__, flush=True)
train(Recipe.load(sys.argv[1]), Path(sys.argv[2]), device="cpu", notify=say)
"""


def test_a_killed_process_leaves_a_folder_that_goes_on(straight, tmp_path):
    folder, _, _ = straight
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    place = tmp_path / "run"
    command = [sys.executable, "-c", CHILD, tmp_path / "tiny.toml", place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line == "EpochEnded\n":
                break
        child.kill()
    assert (place / "resume.pt").exists()
    assert not (place / "done.json").exists()
    for name in (".resume.pt.part", ".model.safetensors.4711.part"):
        (place / name).write_bytes(b"half")
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "train')
    train(TINY, place, device="cpu")
    assert_same_run(folder, place)
    assert {path.name for path in place.iterdir()} == FILES


def test_a_torn_state_means_starting_over_with_a_warning(straight, tmp_path, caplog):
    folder, _, _ = straight
    flipped = lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]  # noqa: E731
    for damage in (flipped, lambda b: b[:-100], lambda b: b"", lambda b: b"\x80\x02garbage"):
        kill(TINY, tmp_path, 1)
        state = tmp_path / "resume.pt"
        state.write_bytes(damage(state.read_bytes()))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="saccade"):
        train(TINY, tmp_path, device="cpu")
    assert "resume.pt cannot be used" in caplog.text
    assert "starts over" in caplog.text
    assert_same_run(folder, tmp_path)


def best(state, **changes):
    chosen = {"score": 50.0, "epoch": 1, "network": state["network"], "test": state["test"]}
    state["best"] = {key: value for key, value in {**chosen, **changes}.items() if value is not None}


STRANGE = {
    "rows": lambda state: state["rows"].append({"epoch": "two"}),
    "more rows than epochs": lambda state: state["rows"].extend(
        {**state["rows"][-1], "epoch": n} for n in range(len(state["rows"]), 9)
    ),
    "no optimiser": lambda state: state.update(optimizer=None),
    "another optimiser": lambda state: state["optimizer"]["param_groups"][0].update(weight_decay="much"),
    "a moment of another shape": lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.ones(3)),
    "a weight of another shape": lambda state: state["network"].update({next(iter(state["network"])): torch.ones(3)}),
    "no weights": lambda state: state.update(network={}),
    "too few answers": lambda state: state["test"].update({key: v[:-1] for key, v in state["test"].items()}),
    "answers that disagree": lambda state: state["test"].update(predicted=state["test"]["predicted"][:-1]),
    "answers that are no numbers": lambda state: state["test"].update(predicted="yes"),
    "answers of version 0.1": lambda state: state.update(predicted=state.pop("test")["predicted"]),
    "no best": lambda state: state.pop("best"),
    "an average of no average": lambda state: state.update(average=state["network"]),
    "a best without weights": lambda state: best(state, network=None),
    "a best of an epoch to come": lambda state: best(state, epoch=2),
    "a best with the weights of another": lambda state: best(state, network={}),
    "a best with other answers": lambda state: best(state, test={"label": torch.ones(3)}),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed after its first epoch."""
    folder = tmp_path_factory.mktemp("killed")
    kill(TINY, folder, 1)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("strange", [None, "a best", *STRANGE])
def test_a_state_of_another_run_is_not_resumed(straight, killed, tmp_path, caplog, strange):
    for name, content in killed.items():
        (tmp_path / name).write_bytes(content)
    state = torch.load(tmp_path / "resume.pt", weights_only=True)
    {**STRANGE, None: lambda state: None, "a best": best}[strange](state)
    torch.save(state, tmp_path / "resume.pt")
    heard, listen = listener(until=after(2))
    with caplog.at_level(logging.WARNING, logger="saccade"), pytest.raises(Killed):
        train(TINY, tmp_path, device="cpu", notify=listen)
    assert ("starts over" in caplog.text) == (strange in STRANGE)
    assert heard[0].epoch == (0 if strange in STRANGE else 1)
    assert [row["scores"] for row in rows(tmp_path)] == [row["scores"] for row in rows(straight[0])]


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    photos, place = tmp_path / "photos", tmp_path / "run"
    for part, name, i in ((p, n, i) for p in ("train", "test") for n in "ab" for i in range(3)):
        path = photos / part / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (40 * i, 90, 10)).save(path)
    recipe = TINY.with_overrides({"data.source": str(photos), "data.train_images": None, "data.test_images": None})
    kill(recipe, place, 1)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    (photos / "test" / "a" / "0.png").rename(photos / "test" / "b" / "9.png")
    with pytest.raises(UserError, match="the images changed since this run began") as refused:
        train(recipe, place, device="cpu")
    assert str(photos) in str(refused.value)
    assert str(place) in str(refused.value)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    (photos / "test" / "b" / "9.png").rename(photos / "test" / "a" / "0.png")
    assert train(recipe, place, device="cpu")["fingerprint"] == opened(recipe).fingerprint
