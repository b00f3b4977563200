"""A run is a function of its recipe, however often it is killed; its folder tells all of it."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import saccade
from saccade.data import EpochSampler, open_data
from saccade.errors import UserError
from saccade.recipe import Recipe
from saccade.tasks.classify import rate
from saccade.training import build, derived, train
from saccade.training.environment import choose_device
from saccade.training.gates import constant_plugs, gate_movement, probe_images
from saccade.training.network import start_of

# Everything that draws random numbers is in it: augmentation, dropout, a mechanism.
TINY = Recipe().with_overrides(
    {
        "data.size": 24,
        "data.train_images": 90,
        "data.test_images": 37,
        "data.augment": ["crop"],
        "model.options": {"width": 4, "drop_rate": 0.2},
        "attention.mechanism": "se:rd_ratio=0.5",
        "attention.where": "stage",
        "training.epochs": 2,
        "training.batch_size": 31,
        "training.lr": 0.05,
        "training.warmup_epochs": 0.5,
    }
)
FILES = {
    "recipe.toml", "environment.json", "metrics.jsonl", "predictions.safetensors", "model.safetensors", "config.json",
    "done.json",
}  # fmt: skip
VARYING = ("seconds", "memory_mb")


class Killed(BaseException):
    """Stands for the end of the process where a test cannot afford one."""


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other):
    """Are two runs equal, but for times and memory?"""
    facts = [
        [{k: v for k, v in row.items() if k not in VARYING} for row in rows(folder)]
        + [{k: v for k, v in json.loads((folder / "done.json").read_text()).items() if k not in VARYING}]
        + [(folder / name).read_bytes() for name in ("model.safetensors", "predictions.safetensors", "config.json")]
        for folder in (one, other)
    ]
    return facts[0] == facts[1]


def listener(until=None):
    """A list of events and a function that fills it, which ends the process at the event ``until``."""
    heard = []

    def listen(event):
        heard.append(event)
        if until is not None and until(event):
            raise Killed

    return heard, listen


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One run without any trouble, and its events."""
    folder = tmp_path_factory.mktemp("straight") / "new" / "run"
    heard, listen = listener()
    result = train(TINY, folder, device="cpu", notify=listen)
    return folder, result, heard


@pytest.fixture(scope="module")
def split():
    return open_data(TINY.data)


def test_the_folder_holds_the_whole_run(straight, split):
    folder, result, _ = straight
    assert {path.name for path in folder.iterdir()} == FILES
    assert Recipe.load(folder / "recipe.toml") == TINY
    assert json.loads((folder / "done.json").read_text()) == result
    table = rows(folder)
    assert [row["epoch"] for row in table] == [0, 1, 2]
    assert [row["train_loss"] is None for row in table] == [True, False, False]
    assert all(math.isfinite(row["test_loss"]) and row["seconds"] >= 0 and row["memory_mb"] > 0 for row in table)
    assert (result["top1"], result["test_loss"]) == (table[-1]["test_top1"], table[-1]["test_loss"])
    assert (result["epochs"], result["diverged"], result["start"]) == (2, None, "paper")
    assert result["parameters"] == sum(p.numel() for p in build(TINY, split).parameters())


def test_the_score_is_that_of_the_network_it_saved(straight, split):
    folder, result, _ = straight
    network = saccade.load(folder)
    images = torch.stack([image for image, _ in (split.test[i] for i in range(37))])
    labels = torch.tensor(split.test.labels)
    with torch.no_grad():
        logits = torch.cat([network(part) for part in images.split(31)])
    answers = load_file(folder / "predictions.safetensors")
    assert torch.equal(answers["label"].long(), labels)
    assert torch.equal(answers["predicted"].long(), logits.argmax(1))
    assert result["top1"] == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()), abs=1e-4)
    assert result["test_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)


def test_it_is_the_loop_anybody_would_write(tmp_path, split):
    """The referee: the same two epochs in plain PyTorch end in the same bits."""
    recipe = TINY.with_overrides(
        {"model.options": {"width": 4}, "training.label_smoothing": 0.1, "attention.lr_factor": 3.0}
    )
    result = train(recipe, tmp_path / "run", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = build(recipe, split).train()
    ours = {id(p) for plug in saccade.plugs(network) for p in plug.module.parameters()}
    groups = [[p for p in network.parameters() if (id(p) in ours) is side] for side in (False, True)]
    assert all(groups)
    part = recipe.training
    optimizer = torch.optim.SGD(
        [
            {"params": [p], "lr": part.lr * (3 if side else 1), "weight_decay": 5e-4 if p.ndim > 1 else 0.0}
            for side in (0, 1)
            for p in groups[side]
        ],
        momentum=0.9,
    )
    base = [group["lr"] for group in optimizer.param_groups]
    sampler = EpochSampler(split.train, part.seed, part.batch_size)
    step = 0
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        for keys in sampler:
            images, labels = zip(*(split.train[key] for key in keys), strict=True)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * rate(step, 2 * len(sampler), 0.5 * len(sampler), "cosine")
            loss = F.cross_entropy(network(torch.stack(images)), torch.tensor(labels), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    torch.set_num_threads(threads)
    found, expected = load_file(tmp_path / "run/model.safetensors"), network.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert result["diverged"] is None


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(straight, tmp_path):
    folder, _, _ = straight
    train(TINY, tmp_path / "again", device="cpu")
    assert same(folder, tmp_path / "again")
    train(TINY.with_overrides({"training.seed": 1}), tmp_path / "other", device="cpu")
    assert not same(folder, tmp_path / "other")


def test_the_result_does_not_depend_on_the_workers(straight, tmp_path):
    folder, _, _ = straight
    train(TINY.with_overrides({"training.workers": 2}), tmp_path / "run", device="cpu")
    assert same(folder, tmp_path / "run")


def test_a_run_that_is_done_is_not_done_again(straight, monkeypatch):
    folder, result, _ = straight
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr("saccade.training.run.open_data", lambda *_: pytest.fail("looked at the data again"))
    heard, listen = listener()
    assert train(TINY, folder, device="cpu", notify=listen) == result
    assert heard == [{"event": "done", **result}]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_events_tell_the_run(straight):
    folder, result, heard = straight
    assert heard[-1] == {"event": "done", **result}
    assert {"event": "start", "epochs": 2, "steps": 3, "epoch": 0} in heard
    assert [{"event": "epoch", **row} for row in rows(folder)] == [e for e in heard if e["event"] == "epoch"]
    assert {event["event"] for event in heard} <= {"check", "start", "step", "epoch", "done"}


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_ended_after_an_epoch_goes_on_there(straight, tmp_path, epoch):
    folder, _, _ = straight
    _, listen = listener(until=lambda event: event["event"] == "epoch" and event["epoch"] == epoch)
    with pytest.raises(Killed):
        train(TINY, tmp_path, device="cpu", notify=listen)
    assert not (tmp_path / "done.json").exists()
    heard, listen = listener()
    train(TINY, tmp_path, device="cpu", notify=listen)
    assert [event["epoch"] for event in heard if event["event"] == "epoch"] == list(range(epoch + 1, 3))
    assert same(folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


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
        assert same(tmp_path / "straight", place)
        assert {path.name for path in place.iterdir()} == FILES


CHILD = """
import sys
from pathlib import Path
from saccade.recipe import Recipe
from saccade.training import train
def say(event):
    print(event["event"], flush=True)
train(Recipe.load(sys.argv[1]), Path(sys.argv[2]), device="cpu", notify=say)
"""


def test_a_killed_process_leaves_a_folder_that_goes_on(straight, tmp_path):
    folder, _, _ = straight
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    place = tmp_path / "run"
    command = [sys.executable, "-c", CHILD, tmp_path / "tiny.toml", place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line == "epoch\n":
                break
        child.kill()
    assert not (place / "done.json").exists()
    for name in (".resume.pt.part", ".model.safetensors.4711.part"):
        (place / name).write_bytes(b"half")
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "train')
    train(TINY, place, device="cpu")
    assert same(folder, place)
    assert {path.name for path in place.iterdir()} == FILES


def test_a_torn_state_means_starting_over_and_is_said(straight, tmp_path, caplog):
    folder, _, _ = straight
    flipped = lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]  # noqa: E731
    for damage in (flipped, lambda b: b[:-100], lambda b: b"", lambda b: b"\x80\x02garbage"):
        _, listen = listener(until=lambda event: event["event"] == "epoch" and event["epoch"] == 1)
        with pytest.raises(Killed):
            train(TINY, tmp_path, device="cpu", notify=listen)
        state = tmp_path / "resume.pt"
        state.write_bytes(damage(state.read_bytes()))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="saccade"):
        train(TINY, tmp_path, device="cpu")
    assert "resume.pt cannot be used" in caplog.text
    assert "starts over" in caplog.text
    assert same(folder, tmp_path)


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
    "too few answers": lambda state: state.update(predicted=state["predicted"][:-1]),
    "answers that are no numbers": lambda state: state.update(predicted="yes"),
}


@pytest.mark.parametrize("strange", [None, *STRANGE])
def test_a_state_of_another_run_is_not_gone_on_with(straight, tmp_path, caplog, strange):
    _, listen = listener(until=lambda event: event["event"] == "epoch" and event["epoch"] == 1)
    with pytest.raises(Killed):
        train(TINY, tmp_path, device="cpu", notify=listen)
    state = torch.load(tmp_path / "resume.pt", weights_only=True)
    STRANGE.get(strange, lambda state: None)(state)
    torch.save(state, tmp_path / "resume.pt")
    with caplog.at_level(logging.WARNING, logger="saccade"):
        train(TINY, tmp_path, device="cpu")
    assert ("starts over" in caplog.text) == (strange is not None)
    assert same(straight[0], tmp_path)


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    photos, place = tmp_path / "photos", tmp_path / "run"
    for part, name, i in ((p, n, i) for p in ("train", "test") for n in "ab" for i in range(3)):
        path = photos / part / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (40 * i, 90, 10)).save(path)
    recipe = TINY.with_overrides({"data.source": str(photos), "data.train_images": None, "data.test_images": None})
    _, listen = listener(until=lambda event: event["event"] == "epoch" and event["epoch"] == 1)
    with pytest.raises(Killed):
        train(recipe, place, device="cpu", notify=listen)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    (photos / "test" / "a" / "0.png").rename(photos / "test" / "b" / "9.png")
    with pytest.raises(UserError, match="the images changed since this run began") as refused:
        train(recipe, place, device="cpu")
    assert str(photos) in str(refused.value)
    assert str(place) in str(refused.value)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    (photos / "test" / "b" / "9.png").rename(photos / "test" / "a" / "0.png")
    assert train(recipe, place, device="cpu")["fingerprint"] == open_data(recipe.data).fingerprint


def test_ctrl_c_passes_through_and_can_be_pressed_again(straight, tmp_path):
    folder, _, _ = straight

    def press(event):
        if event["event"] == "epoch" and event["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def leave(event):
        raise SystemExit(7)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="7"):  # nobody's Ctrl-C
        train(TINY, tmp_path, device="cpu", notify=leave)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, device="cpu", notify=press)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    train(TINY, tmp_path, device="cpu")
    assert same(folder, tmp_path)


def test_nothing_else_is_written_said_or_changed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    filters, level, threads = warnings.filters[:], logging.getLogger("lightning.pytorch").level, torch.get_num_threads()
    torch.set_num_threads(2)
    train(TINY.with_overrides({"training.epochs": 1}), Path("run"), device="cpu")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(torch.rand(3), expected)
    assert logging.getLogger("lightning.pytorch").level == level
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_environment_names_versions_and_nobody(straight):
    text = (straight[0] / "environment.json").read_text()
    facts = json.loads(text)
    assert facts["packages"]["torch"] == version("torch")
    assert (facts["packages"]["saccade"], facts["device"], facts["threads"]) == (saccade.__version__, "cpu", 1)
    assert facts["cpu"]
    for private in (socket.gethostname(), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert private not in text


def test_the_host_is_the_same_under_every_mechanism(split):
    plain = build(TINY.with_overrides({"attention.mechanism": "none"}), split).state_dict()
    for mechanism in ("se:rd_ratio=0.5", "das:alpha=0.5"):
        state = build(TINY.with_overrides({"attention.mechanism": mechanism}), split).state_dict()
        assert len(state) > len(plain)
        assert all(torch.equal(state[key], value) for key, value in plain.items())
    control = build(TINY.with_overrides({"attention.control": "extra"}), split).state_dict()
    assert all(torch.equal(control[key], value) for key, value in plain.items())
    other = build(TINY.with_overrides({"attention.mechanism": "none", "training.seed": 1}), split).state_dict()
    assert not torch.equal(other["conv1.weight"], plain["conv1.weight"])


def test_a_mechanism_draws_its_own_weights(split):
    one, again, other = (
        saccade.plugs(build(TINY.with_overrides({"training.seed": seed}), split))[0].module.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert len({derived(seed, word) for seed in range(50) for word in ("host", "attention")}) == 100


@pytest.mark.parametrize("start", ["neutral", "paper"])
def test_a_neutral_start_scores_as_the_host(tmp_path, start):
    first = []
    for mechanism in ("none", "das:alpha=0.5"):
        recipe = TINY.with_overrides({"attention.mechanism": mechanism, "attention.start": start})
        _, listen = listener(until=lambda event: event["event"] == "epoch")
        with pytest.raises(Killed):
            train(recipe, tmp_path / mechanism[:3], device="cpu", notify=listen)
        first.append(rows(tmp_path / mechanism[:3])[0]["test_loss"])
    assert (first[0] == first[1]) is (start == "neutral")


def test_start_auto_is_neutral_for_trained_weights(straight, split, tmp_path):
    host = build(TINY.with_overrides({"attention.mechanism": "none", "training.seed": 9}), split)
    saccade.save(host, tmp_path / "host", classes=split.classes)
    checkpoint = {"model.checkpoint": str(tmp_path / "host" / "model.safetensors")}
    assert [plug.module.a is None for plug in saccade.plugs(build(TINY, split))] == [True] * 4
    network = build(TINY.with_overrides(checkpoint), split)
    assert [plug.module.a.item() for plug in saccade.plugs(network)] == [0.0] * 4
    assert [start_of(TINY.with_overrides(s)) for s in ({}, checkpoint)] == ["paper", "neutral"]
    assert start_of(Recipe()) is None
    assert all(torch.equal(network.state_dict()[key], value) for key, value in host.state_dict().items())


def test_bf16_and_adamw_run(straight, tmp_path):
    recipe = TINY.with_overrides({"training.precision": "bf16", "training.optimizer": "adamw", "training.lr": 0.002})
    result = train(recipe, tmp_path, device="cpu")
    assert result["diverged"] is None
    assert not same(straight[0], tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} <= {
        torch.float32, torch.int64,
    }  # fmt: skip


def test_a_run_that_diverges_says_where_and_keeps_what_it_had(tmp_path, split):
    recipe = TINY.with_overrides({"training.lr": 1e30, "training.warmup_epochs": 0})
    heard, listen = listener()
    result = train(recipe, tmp_path, device="cpu", notify=listen)
    place = result["diverged"]
    assert (place["epoch"], place["step"], result["epochs"]) == (1, 2, 0)
    assert place["where"] in dict(build(recipe, split).named_modules()) or place["what"] != "output"
    assert place["message"].startswith("diverged in epoch 1, at step 2: the ")
    assert heard[-1] == {"event": "done", **result}
    assert {path.name for path in tmp_path.iterdir()} == FILES
    initial = build(recipe, split).state_dict()
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in initial.items())
    assert result["top1"] == rows(tmp_path)[0]["test_top1"]
    assert train(recipe, tmp_path, device="cpu") == result


def test_gates_are_summed_up_by_hand():
    class Third(saccade.bases.Gate):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def gate(self, x):
            return torch.tensor([0.25, 0.75]).view(1, 2, 1, 1) + self.weight

    class Twice(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return 2 * x

    images = torch.randn(3, 2, 6, 5)
    host = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())
    assert gate_movement(host, images) == {}
    saccade.plug(host, Third, where=["0"], start="neutral", input=(2, 6, 5))
    (row,) = saccade.plugs(host)
    (found,) = gate_movement(host, images).values()
    assert found == {"kind": "gate", "mean": 1.0, "std": 0.0, "a": 0.0}
    row.module.a.data.fill_(0.5)  # gates 1 + (0.25 - 1) / 2 and 1 + (0.75 - 1) / 2
    (found,) = gate_movement(host, images).values()
    assert (found["mean"], found["std"], found["a"]) == (pytest.approx(0.75), pytest.approx(0.125), 0.5)
    saccade.unplug(host)
    saccade.plug(host, Twice, where=["0"], start="neutral", input=(2, 6, 5))
    saccade.plugs(host)[0].module.a.data.fill_(0.25)  # y = f + (2f - f) / 4
    (found,) = gate_movement(host, images).values()
    assert (found["kind"], found["mean"], found["std"]) == ("change", pytest.approx(0.25), pytest.approx(0, abs=1e-6))
    assert host.training


class Lit(saccade.bases.Context):
    """Adds how bright each image is, times a parameter."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def context(self, x):
        return self.weight * x.mean((1, 2, 3), keepdim=True)


def test_a_gate_that_is_the_same_for_every_image_is_found():
    draw = torch.Generator().manual_seed(3)
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    batches = [torch.randn(4, 3, 8, 8, generator=draw) for _ in range(3)]
    assert constant_plugs(host, batches) == {}
    saccade.plug(host, "se", where="1", start="paper", input=batches[0])
    saccade.plug(host, Lit, where="3", start="paper", input=batches[0])
    assert constant_plugs(host, batches) == {"3": "context"}
    one, other = (row.module.mechanism for row in saccade.plugs(host))
    other.weight.data.fill_(1.0)
    read = iter(batches)
    assert constant_plugs(host, read) == {}
    assert len(list(read)) == 2  # the first batch was enough
    one.squeeze.bias.data.fill_(-1e4)  # off for every image: the gates still differ between channels
    assert constant_plugs(host, batches) == {"1": "gate"}
    assert gate_movement(host, batches[0])["1"]["std"] > 0
    # One image of the last batch is enough to differ, where all others are alike.
    other.weight.data.zero_()
    one.squeeze.bias.data.fill_(-10.0)
    one.squeeze.weight.data.fill_(1.0)
    batches[2][3] += 1e4
    assert constant_plugs(host, batches[:2]) == {"1": "gate", "3": "context"}
    assert constant_plugs(host, batches) == {"3": "context"}
    assert constant_plugs(host, [batches[0][:1]]) == {}
    assert constant_plugs(host, [batches[0][:1], batches[0][1:2]]) == {"1": "gate", "3": "context"}
    assert host.training


def test_what_is_constant_by_design_is_no_fault():
    host = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    saccade.surgery.plug_control(host, "noise", "se", where="1", start="paper", input=(3, 8, 8))
    assert constant_plugs(host, [torch.randn(4, 3, 8, 8)]) == {}


def test_a_plug_that_ignores_the_image_is_named_at_the_end(straight, tmp_path, monkeypatch):
    def dead(recipe, split):
        network = build(recipe, split)
        saccade.plugs(network)[1].module.mechanism.squeeze.bias.data.fill_(-1e4)
        return network

    assert straight[1]["constant"] == {}
    monkeypatch.setattr("saccade.training.run.build", dead)
    result = train(TINY, tmp_path / "run", device="cpu")
    assert result["constant"] == {"layer2": "gate"}
    assert json.loads((tmp_path / "run" / "done.json").read_text())["constant"] == {"layer2": "gate"}


def test_no_gate_is_dead_on_the_images_that_it_will_get(split):
    """One unit a site, which its initialisation leaves off every other time."""
    recipe = TINY.with_overrides({"attention.mechanism": "se:rd_ratio=0.25", "model.options": {"width": 4}})
    images = probe_images(split.train)
    for seed in range(3):
        network, shares = build(recipe.with_overrides({"training.seed": seed}), split), []
        for row in saccade.plugs(network)[:2]:
            row.module.mechanism.squeeze.register_forward_hook(
                lambda module, args, units, shares=shares: shares.append((units > 0).float().mean(0).max().item())
            )
        network.train()(images)
        assert min(shares) >= 0.75
        plain = build(recipe.with_overrides({"training.seed": seed, "attention.mechanism": "none"}), split).state_dict()
        own = build(recipe.with_overrides({"training.seed": seed}), split).state_dict()
        assert all(torch.equal(own[key], value) for key, value in plain.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training.lr": 0.5}, "another recipe: training.lr is 0.05 there and 0.5 here"),
        ({"data.options": {"clutter": 1}}, "another recipe: data.options.clutter is None there and 1 here"),
        ({"training.seed": 3}, "training.seed is 0 there and 3 here"),
    ],
)
def test_a_folder_with_another_recipe_is_refused(straight, change, words):
    folder, _, _ = straight
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError) as caught:
        train(TINY.with_overrides(change), folder, device="cpu")
    assert words in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_that_cannot_hold_a_run(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("here")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    monkeypatch.setattr("saccade.training.run.open_data", lambda *_: pytest.fail("looked at the data first"))
    for name, words in {
        "file": "is a file", "file/run": "is a file", "foreign": "holds config.json but no recipe.toml",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=words):
            train(TINY, tmp_path / name, device="cpu")
    monkeypatch.setattr(Path, "open", lambda self, *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=r"cannot write into the run folder .*: Permission denied"):
        train(TINY, tmp_path / "new", device="cpu")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "file", "foreign"]


def test_a_mistake_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="nonet"):
        train(TINY.with_overrides({"model.name": "nonet"}), tmp_path / "a" / "b", device="cpu")
    with pytest.raises(UserError, match="cuda:97"):
        train(TINY, tmp_path / "a" / "b", device="cuda:97")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_by_one_process(tmp_path):
    holder = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'ab')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, tmp_path / ".running"], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        begun = time.monotonic()
        with pytest.raises(UserError, match="another process is working in the run folder"):
            train(TINY, tmp_path, device="cpu")
        assert time.monotonic() - begun < 10
        child.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".running"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:97", "PyTorch"),
        ("cuda:one", "no device 'cuda:one'"),
        ("cpu:1", "no device 'cpu:1'"),
        ("gpu", "no device 'gpu'; it is auto, cpu, cuda, cuda:<number> or mps"),
        ("coda", "Did you mean 'cuda'?"),
    ],
)
def test_devices_that_are_not_there(name, words):
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_devices_that_are_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else choose_device("auto").type)
