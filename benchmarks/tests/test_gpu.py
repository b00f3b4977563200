"""The benchmark for a GPU: what it covers, that it sees what is wrong, and that nothing stops it."""

import argparse
import importlib
import json
import pkgutil
import sys

import pytest
import torch

import gpu
import gpu_checks
import gpu_operators
import gpu_page
import gpu_speed
import saccade.ops


def test_every_operator_with_a_definition_is_there():
    names = set()
    for found in pkgutil.walk_packages(saccade.ops.__path__, "saccade.ops."):
        module = importlib.import_module(found.name)
        names |= {name for name in vars(module) if f"{name}_definition" in vars(module) and not name.startswith("_")}
    assert "attention" in names
    assert names - set(gpu_operators.OPERATORS) == set()


def test_every_mechanism_is_there():
    names = {name for group in gpu.units("values", (), False) for _, name, _ in group}
    assert set(saccade.list_mechanisms()) <= names
    timed = {name for group in gpu.units("speed", (), False) for _, name, _ in group}
    assert set(saccade.list_mechanisms()) | {"op attention", "op deform_conv2d"} == timed
    hosts = gpu.units("neutral", (), False)
    assert len(hosts) == 12
    assert all(
        {name for _, _, name in group} == set(saccade.list_mechanisms("plug")) - {"skip_gate"} for group in hosts
    )


@pytest.mark.parametrize(("name", "detail"), [("gated", "operator"), ("se", "eval"), ("cbam", "train")])
def test_what_is_right_is_ok(name, detail):
    row = gpu_checks.values(name, detail, "cpu", True)
    assert (row["status"], row["note"]) == ("ok", "")
    assert row["repeats"]
    assert row["of_allowed"] <= 1


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.0001


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda y: y * 1.0001, "float32: y errs"),
        (lambda y: y / 0, "float32: y errs"),
        (_Wrong.apply, "float32: ∂x errs"),
    ],
    ids=["value", "not finite", "gradient"],
)
def test_what_is_wrong_is_off(monkeypatch, change, named):
    function, definition, operands = gpu_operators.OPERATORS["gated"](True)

    def wrong(small):
        return (lambda **t: change(function(**t))), definition, operands

    monkeypatch.setitem(gpu_operators.OPERATORS, "gated", wrong)
    row = gpu_checks.values("gated", "operator", "cpu", True)
    assert row["status"] == "off"
    assert named in row["note"]


def test_a_host_that_a_plug_changes_is_off(monkeypatch):
    host, mechanism = "user's Sequential", "se"
    gpu_checks._host.cache_clear()
    assert gpu_checks.neutral(host, mechanism, "cpu", True)["status"] == "ok"
    plug = gpu_checks.conditions.Case.plug

    def moved(case, network, name):
        plugged = plug(case, network, name)
        with torch.no_grad():
            for each in saccade.plugs(plugged):
                each.module.a.fill_(1e-3)
        return plugged

    monkeypatch.setattr(gpu_checks.conditions.Case, "plug", moved)
    row = gpu_checks.neutral(host, mechanism, "cpu", True)
    assert row["status"] == "off"
    assert "eval differ" in row["note"]
    assert "train differ" in row["note"]


CHILD = """
import json, os, sys, time
given = json.load(sys.stdin)
for part, name, detail in given["units"]:
    if name == "dies":
        os._exit(7)
    if name == "hangs":
        time.sleep(600)
    print(json.dumps({"part": part, "name": name, "detail": detail, "status": "ok", "note": ""}), flush=True)
    if name == "breaks":
        os._exit(3)
"""


@pytest.fixture
def runner(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(gpu, "SCRIPT", tmp_path / "child.py")
    options = argparse.Namespace(out=tmp_path / "out", minutes=1.0, device="cpu", small=True)
    made = gpu.Runner(options)
    yield made
    made.close()


def test_a_process_that_ends_is_named_and_the_rest_goes_on(runner, tmp_path):
    group = [gpu.Unit("values", name, "") for name in ("a", "dies", "b", "breaks", "c")]
    runner.group(group, runner.end, 1)
    assert [(row["name"], row["status"]) for row in runner.rows] == [
        ("a", "ok"), ("dies", "error"), ("b", "ok"), ("breaks", "ok"), ("c", "ok"),
    ]  # fmt: skip
    assert runner.rows[1]["note"] == "the process ended: code 7"
    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a", "dies", "b", "breaks", "c"]


def test_a_unit_that_hangs_is_named_and_the_rest_goes_on(runner, monkeypatch):
    monkeypatch.setattr(gpu, "STALL", 1.5)
    runner.group([gpu.Unit("values", name, "") for name in ("hangs", "a")], runner.end, 1)
    assert [(row["name"], row["status"]) for row in runner.rows] == [("hangs", "error"), ("a", "ok")]
    assert "no row for" in runner.rows[0]["note"]


def test_what_is_out_of_time_is_counted(runner):
    runner.group([gpu.Unit("values", name, "") for name in ("a", "b")], runner.begun, 1)
    assert [row["status"] for row in runner.rows] == ["not reached", "not reached"]


def test_the_command_leaves_a_page_and_its_numbers(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--small", "--device", "cpu", "--parts", "compile", "--out", str(out), "--workers", "1"]
    )
    assert gpu.main() == 0, capsys.readouterr().out
    found = json.loads((out / "gpu.json").read_text())
    assert [row["status"] for row in found["rows"]] == ["ok"]
    text = (out / "gpu.md").read_text()
    assert found["machine"]["command"] in text
    assert "| compile | 1 | 0 | 0 | 0 | 0 | 0 |" in text


def test_the_page_names_what_does_not_hold():
    row = gpu_speed.operator_speed("attention", "1×20×8", "cpu", True)
    rows = [
        {"part": "speed", "name": "op attention", "detail": "1×20×8"} | row,
        {"part": "values", "name": "se", "detail": "eval", "status": "error", "note": "RuntimeError: no kernel"},
    ]
    facts = {"packages": {"torch": "2"}, "cpu": "a processor", "cores": 2, "python": "3", "cuda": None, "command": "x"}
    text = gpu_page.page(facts, rows)
    assert "- values, se eval: error. RuntimeError: no kernel" in text
    assert "| attention | 1×20×8 | PyTorch |" in text
