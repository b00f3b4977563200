"""Costs of constant gates: networks whose cost is known, the readings, the stored file and the time limit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_results import TOP1, made
from torch import nn

import saccade
from saccade.bases import Gate
from saccade.data import open_data
from saccade.explanation.held_gates import ALL_GATES, GateFacts, HeldGates, Plan
from saccade.explanation.held_gates_file import FILE, held_gates_key, read_held_gates, write_held_gates
from saccade.study import gate_costs
from saccade.study.costs import ArmCost, Latency
from saccade.study.gate_costs import gates_of_results
from saccade.tasks.classify import Classify

ACCURACY = Classify.metrics[0]


class Channels(Gate):
    """A gate of four channels that depends on the image only by ``weight``."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def gate(self, x):
        return (0.5 + self.weight * x.mean((2, 3), keepdim=True)).sigmoid()


def _network(weight):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), Channels(weight), nn.Conv2d(4, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return the results of ``none`` and ``se`` with two seeds, their task, and the networks by arm, to be filled."""
    data = {"data__size": 16, "data__train_images": 12, "data__test_images": 14}
    results = made({"none": [70.0, 71.0], "se": [72.0, 70.0]}, metric=ACCURACY, folder=tmp_path / "study", **data)
    networks, loaded = {"none": nn.Flatten(), "se": _network(9.0)}, []
    for run in results.runs:
        folder = tmp_path / "study" / run.folder
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "recipe.toml", "config.json"):
            (folder / name).write_text(run.folder)
    task = Classify(results.study.base, open_data(results.study.base.data, "label"))
    monkeypatch.setattr(gate_costs, "check_saved", lambda *_: None)
    monkeypatch.setattr(gate_costs, "load", lambda folder, trust: loaded.append(folder) or networks[folder.parent.name])
    return results, task, networks, loaded


def test_costs_of_one_arm(study):
    results, task, networks, loaded = study
    done = []
    (arm,) = gates_of_results(results, task, progress=lambda *numbers: done.append(numbers))
    assert (arm.arm, arm.seeds, arm.n_images, arm.n_training, arm.n_gates) == ("se", (0, 1), 14, 12, 1)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (gate,) = arm.gates
    assert (gate.path, gate.facts.shape, gate.facts.constant) == ("1", (4, 1, 1), False)
    x = torch.stack([task.data.test[i][0] for i in range(14)])
    targets = torch.tensor([task.data.test.target(i) for i in range(14)])
    own, mean = (
        networks["se"],
        networks["se"][1].gate(networks["se"][0](torch.stack([image for image, _ in task.data.train]))),
    )
    held = nn.Sequential(*own[2:])(own[0](x) * mean.mean(0))
    expected = [100 * float((logits.argmax(1) == targets).double().mean()) for logits in (own(x), held)]
    assert arm.own == pytest.approx((expected[0],) * 2)
    assert gate.held.raw == pytest.approx((expected[1] - expected[0],) * 2)
    assert json.loads(json.dumps(arm.to_json(), allow_nan=False))["gates"][0]["shape"] == [4, 1, 1]
    # Stored results, those of networks without gates too, are read again; another network's and broken ones are not.
    assert len(loaded) == 4
    assert gates_of_results(results, task) == (arm,)
    assert len(loaded) == 4
    folder = results.study.folder
    (folder / "se/seed0" / FILE).write_bytes(b"broken")
    (folder / "none/seed1/model.safetensors").write_text("other")
    assert gates_of_results(results, task) == (arm,)
    assert [path.relative_to(folder).as_posix() for path in loaded[4:]] == ["none/seed1", "se/seed0"]


def test_constant_gates_and_failures(study, monkeypatch):
    results, task, networks, _ = study
    networks["se"] = _network(0.0)
    (arm,) = gates_of_results(results, task)
    (gate,) = arm.gates
    assert (gate.held.raw, gate.other.raw, gate.reading, gate.facts.constant) == ((0, 0), (0, 0), "constant", True)

    def refuse(*_):
        raise saccade.UserError("other classes")

    with monkeypatch.context() as patch:
        patch.setattr(gate_costs, "check_saved", refuse)
        with pytest.raises(saccade.UserError, match="other classes"):
            gates_of_results(results, task)
    file = results.study.folder / "se/seed0" / FILE
    key = held_gates_key(file.parent, task)
    stored = read_held_gates(file, key)
    without = {kind: {name: {"label": rows["label"]} for name, rows in getattr(stored, kind).items()}
               for kind in ("held", "other")}  # fmt: skip
    write_held_gates(file, key, replace(stored, own={"label": stored.own["label"]}, **without))
    with pytest.raises(saccade.UserError, match=r"held_gates.safetensors give no top-1 .*; delete these files"):
        gates_of_results(results, task)


def test_limit(study):
    results, task, _, _ = study
    latency = Latency(1.0, 1.0, 1.0)
    plans = {}
    # 14 test images by 1 + 2 passes and 12 training images: 54 of 2e10 MACs a second.
    for macs in (1e9, 2e10):
        row = results.arms[1]
        object.__setattr__(row, "cost", ArmCost(1, int(macs), latency, 16, latency, 1, "cpu"))
        plans[macs] = gates_of_results(results, task, limit=30.0)
    assert plans[1e9][0].seconds is None
    assert plans[2e10] == plans[1e9]  # stored
    for run in results.runs:
        (results.study.folder / run.folder / FILE).unlink()
    assert gates_of_results(results, task, limit=30.0) == (gate_costs.ArmGates("se", (), seconds=54.0),)
    assert gates_of_results(results, task, limit=None)[0].gates


def _rows(values):
    return {"x": torch.as_tensor(values, dtype=torch.float64)}


def _arm(held, own=(90.0,) * 3, n=400, constant=False):
    """Return the costs of an arm whose gate ``g``, when held, turns the accuracies ``own`` into ``held``."""

    def right(percent):
        return _rows(100.0 * (np.arange(n) < round(n * percent / 100)))

    facts = {"g": GateFacts((4, 1, 1), 0.1, 0.9, 0.5, 0.1, constant)}
    runs = {seed: HeldGates(Plan(), n, n, right(a), facts, {"g": right(b)}, {"g": right(a)}, {})
            for seed, (a, b) in enumerate(zip(own, held, strict=True))}  # fmt: skip
    arm = gate_costs._arm_gates(_Arm(), runs, TOP1, 2.0)
    return arm.gates[0]


class _Arm:
    name = "se"


@pytest.mark.parametrize(
    ("held", "constant", "reading"),
    [
        ((90, 90, 90), False, "constant"),  # equal on all images
        ((92, 93, 92), False, "constant"),  # better
        ((60, 61, 60), False, "depends on the image"),
        ((80, 30, 85), False, "depends on the image"),  # a wide interval, but each network loses
        ((91, 30, 85), False, "not decided"),  # one network does not
        ((91, 30, 85), True, "constant"),
        ((89, 88, 90), False, "not decided"),
    ],
)
def test_readings(held, constant, reading):
    gate = _arm(held, constant=constant)
    assert gate.reading == reading
    assert gate.held.raw == pytest.approx([after - 90 for after in held])
    assert gate.other.raw == (0, 0, 0)


def test_one_seed_has_no_interval():
    gate = _arm((60,), own=(90.0,))
    assert gate.held.difference == pytest.approx(-30)
    assert (gate.held.low, gate.reading) == (None, "not decided")


def test_all_gates_come_first():
    facts = GateFacts((4, 1, 1), 0.1, 0.9, 0.5, 0.1, True)
    changed = {ALL_GATES: _rows([1.0, 0, 1]), "g": _rows([1.0, 1, 1])}
    run = HeldGates(Plan(), 3, 3, _rows([1.0, 1, 1]), {"g": facts, "h": facts}, changed, changed, {"i": "because"})
    arm = gate_costs._arm_gates(_Arm(), {0: run, 1: run}, TOP1, 2.0)
    assert [(gate.path, gate.facts) for gate in arm.gates] == [(ALL_GATES, None), ("g", facts)]
    assert (arm.n_gates, arm.skipped) == (2, {"i": "because"})
