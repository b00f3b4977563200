"""``saccade export``: its files, its output, and the folders it reads."""

import json

import onnx
import pytest
import timm
import torch

import saccade.models  # noqa: F401 (registers resnet10_small)
from saccade import load, plug, replacements, save


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """Run folder in a separate working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = plug(timm.create_model("resnet10_small", num_classes=3, in_chans=1), "se", "stage[-1]", input=(1, 32, 32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    save(network, tmp_path / "a run", input=(1, 32, 32), classes=["x", "y", "z"], mean=[0.1], std=[0.4], top1=90.0)
    return tmp_path / "a run"


def test_a_run_becomes_onnx(run, run_folder):
    code, out, err = run("export", str(run_folder))
    assert (code, err) == (0, "")
    path = run_folder / "model.onnx"
    first, second, third, fourth = out.splitlines()
    assert first == f"{path}: ONNX, opset 18, {path.stat().st_size / 1e6:.1f} MB"
    assert second == "input image float32 (batch, 1, height, width); output output"
    assert third.startswith("read back and compared with PyTorch: largest difference ")
    assert " at 1×1×32×32, " in third
    assert fourth == "metadata: host, 1 plugs, input, 3 classes, mean, std, top1, smallest"
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(str(path)).metadata_props}
    assert (told["classes"], told["mean"], told["std"], told["input"]) == (["x", "y", "z"], [0.1], [0.4], [1, 32, 32])
    assert told["host"] == {"timm": "resnet10_small", "options": {"num_classes": 3, "in_chans": 1}}
    assert [plug["mechanism"] for plug in told["plugs"]] == ["se"]


def test_a_run_becomes_a_program(run, run_folder, tmp_path):
    words = ("--format", "torch", "--out", "net.pt2", "--dynamic", "batch", "--input", "1,48,40", "--json")
    code, out, err = run("export", "a run", *words)
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert (done["path"], done["format"], done["opset"]) == ("net.pt2", "torch", None)
    assert done["inputs"] == {"image": ["batch", 1, 48, 40]}
    assert [row["shape"] for row in done["compared"]] == [[n, 1, 48, 40] for n in (1, 3, 9)]
    assert (tmp_path / "net.pt2").stat().st_size == done["size"]


def test_a_folder_becomes_another(run, run_folder, tmp_path):
    assert run("export", "a run", "--format", "safetensors")[0::2] == (
        2,
        "saccade: a run has that format already; choose another folder with --out\n",
    )
    code, out, _ = run("export", "a run", "--format", "safetensors", "--out", "copy")
    assert code == 0
    assert out.startswith("copy: safetensors and config.json, ")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (run_folder / name).read_bytes()


def test_facts_of_the_names_of_our_own_are_left_out(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = {"path": "elsewhere", "dynamic": "never", "smallest": [9, 9], "plugs": 3, "colour": "green"}
    save(timm.create_model("resnet10_small", num_classes=2), "kept", input=(3, 32, 32), **facts)
    code, out, err = run("export", "kept", "--format", "torch", "--dynamic", "none", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)["metadata"]
    assert (told["colour"], told["smallest"], told["plugs"]) == ("green", [32, 32], [])
    assert not {"path", "dynamic"} & told.keys()


def test_a_network_that_is_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", "resnet10_small", "--attention", "eca:kernel_size=3", "--input", "3,32,40")
    assert (code, err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["resnet10_small.onnx"]
    assert out.splitlines()[-1] == "The weights are random; use the file only to test the export."
    told = {entry.key: json.loads(entry.value) for entry in onnx.load("resnet10_small.onnx").metadata_props}
    assert {plug["mechanism"] for plug in told["plugs"]} == {"eca"}
    assert told["plugs"][0]["options"] == {"kernel_size": 3}


def test_a_network_whose_convolutions_are_replaced(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("export", "resnet10_small", "--attention", "dcn2", "--input", "3,32,40", "--format", "safetensors")
    code, out, _ = run(*asked, "--out", "folder")
    assert code == 0
    rows = replacements(load("folder"))
    assert {row.mechanism for row in rows} == {"dcn2"}
    assert f"metadata: host, {len(rows)} replacements, input" in out


def test_a_study_is_told_from_a_run(run, run_folder, tmp_path):
    (tmp_path / "study" / "se").mkdir(parents=True)
    run_folder.rename(tmp_path / "study" / "se" / "seed0")
    code, _, err = run("export", "study")
    assert code == 2
    assert err == "saccade: study is a study; export one of its 1 runs, such as study/se/seed0\n"


def test_attention_is_for_networks_that_are_named(run, run_folder):
    code, _, err = run("export", "a run", "--attention", "se")
    assert code == 2
    assert err == "saccade: a run is a folder and has its mechanisms already; --attention needs the name of a network\n"
    assert not list(run_folder.glob("*.onnx"))


def test_the_run_of_saccade_train(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "training.epochs=1", "data.size=24", "data.train_images=60", "data.test_images=30", "training.batch_size=30"
    assert run("train", "--attention", "se", "--out", "net", *(f"--set={word}" for word in words))[0] == 0
    code, out, err = run("export", "net", "--dynamic", "none", "--json")
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert done["metadata"]["classes"] == [str(digit) for digit in range(10)]
    assert len(done["metadata"]["mean"]) == len(done["metadata"]["std"]) == 1
    assert {plug["mechanism"] for plug in done["metadata"]["plugs"]} == {"se"}
