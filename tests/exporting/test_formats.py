"""A file of each format has the outputs of its network."""

import copy
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import saccade.models
from export_samples import (
    HOSTS,
    SIZE,
    Pair,
    distance,
    random_images,
    resnet10,
    run_onnx,
    small_network,
)
from saccade import UserError, export, list_mechanisms, plug, plugs, replace, spec, unplug
from saccade.contract.randomize import perturb
from saccade.exporting import LIMIT, OPSET
from saccade.exporting.formats import _contains_pickle

IN_MOBILENET = list_mechanisms("plug")[::3]


def _kind_of_host(mechanism):
    if "skip" in spec(mechanism).needs:
        return "unet"
    return "mobilenet_v2" if mechanism in IN_MOBILENET else "resnet18"


PAIRS = [(_kind_of_host(name), name) for name in list_mechanisms()]


ONE_SIZE = {"ge": "kernel is made for maps of", "mhsa": "embeddings are for maps of"}
"""Mechanisms whose weights are for maps of one size, and what is said of another."""


def with_mechanism(host, mechanism):
    """The host with the mechanism at the last site of its paper, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if mechanism in list_mechanisms("replace"):
            return perturb(replace(HOSTS[host](), mechanism, where="paper[-1:]", start="paper", input=SIZE))
        start = "neutral" if host == "resnet18" else "paper"
        return perturb(plug(HOSTS[host](), mechanism, where="paper[-1]", start=start, input=SIZE))


@pytest.mark.parametrize(("host", "mechanism"), PAIRS)
def test_every_mechanism_in_onnx(host, mechanism, tmp_path):
    """The last site of each pair, every third in a MobileNet; benchmarks/export.py has all sites at full width."""
    network, dynamic = with_mechanism(host, mechanism), "all"
    shapes = [(1, 3, 64, 48), (3, 3, 75, 37), (1, 3, 75, 91), (9, 3, 64, 48)]
    images = random_images(2, 3, 50, 81)
    if mechanism in ONE_SIZE:
        with pytest.raises(UserError, match=f"images of 3×64×48;.*{ONE_SIZE[mechanism]}.*dynamic='batch'"):
            export(network, tmp_path / "net.onnx", input=SIZE)
        dynamic, shapes = "batch", [shape for shape in shapes if shape[2:] == SIZE[1:]]
        images = random_images(2, *SIZE)
    done = export(network, tmp_path / "net.onnx", input=SIZE, dynamic=dynamic)
    assert [row.shape for row in done.compared if dynamic == "all" or row.shape in shapes][:4] == shapes
    assert max(row.difference for row in done.compared) <= LIMIT / 2  # each channel has its own scale
    (found,) = run_onnx(tmp_path / "net.onnx", images)
    assert distance(network, images, found) <= 1e-5
    if plugs(network) and (plugged := plugs(network)[0].module).a is not None:  # the twin: another a, another network
        other = copy.deepcopy(network)
        with torch.no_grad():
            plugs(other)[0].module.a.copy_(plugged.a - 0.5)
        assert distance(other, images, found) > LIMIT
    assert distance(unplug(network), images, found) > LIMIT


def test_what_is_said_of_a_file(tmp_path):
    network = resnet10("se", where="stage[-1]", rd_ratio=0.25)
    path = tmp_path / "net.onnx"
    facts = {"classes": list("äbcde"), "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "top1": 91.5}
    said = []
    done = export(network, path, "onnx", SIZE, notify=said.append, **facts)
    assert (done.path, done.format, done.size, done.opset) == (str(path), "onnx", path.stat().st_size, OPSET)
    assert done.inputs == {"image": ("batch", 3, "height", "width")}
    assert (done.outputs, done.smallest) == (("output",), (1, 1))
    assert [word.split()[0] for word in said][:3] == ["tracing", "translating", "writing"]
    assert said[3:] == [f"comparing at {'×'.join(map(str, row.shape))}" for row in done.compared]
    assert list(tmp_path.iterdir()) == [path]

    proto = onnx.load(str(path))
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", OPSET)]
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in shape] == ["batch", 3, "height", "width"]
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in shape] == ["batch", 5]
    told = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert told == {
        "host": {"timm": "resnet10_small"},
        "plugs": [{"mechanism": "se", "options": {"rd_ratio": 0.25}, "site": "layer4", "position": "stage[-1]"}],
        "replacements": [],
        "input": list(SIZE),
        "smallest": [1, 1],
        **facts,
    }
    assert told == done.metadata


def test_a_program_of_torch(tmp_path):
    network = small_network("cbam")
    path = tmp_path / "net.pt2"
    done = export(network, path, "torch", SIZE, classes=list("abcde"), mean=[0.1, 0.2, 0.3])
    assert (done.size, done.opset, done.inputs) == (
        path.stat().st_size,
        None,
        {"image": ("batch", 3, "height", "width")},
    )
    assert max(row.difference for row in done.compared) <= 1e-6
    facts = {"saccade.json": ""}
    again = torch.export.load(path, extra_files=facts)
    assert json.loads(facts["saccade.json"]) == done.metadata
    assert done.metadata["mean"] == [0.1, 0.2, 0.3]
    images = random_images(2, 3, 50, 81)
    found = again.module()(images).detach()
    assert distance(network, images, found) <= 1e-6
    assert distance(unplug(network), images, found) > LIMIT


def test_a_program_of_torch_holds_no_pickle(tmp_path):
    network = small_network("se")
    export(network, tmp_path / "ours.pt2", "torch", SIZE)
    assert not _contains_pickle(tmp_path / "ours.pt2")
    with zipfile.ZipFile(tmp_path / "ours.pt2") as archive:
        assert not [part for part in archive.namelist() if archive.read(part)[:1] == b"\x80" or part.endswith(".pkl")]
    program = torch.export.export(network.eval(), (random_images(2, *SIZE),))
    torch.export.save(program, tmp_path / "theirs.pt2")  # the twin: with its example inputs
    assert _contains_pickle(tmp_path / "theirs.pt2")


def test_weights_and_config(tmp_path):
    network = resnet10("cbam")
    host = {"timm": "resnet10_small", "options": {"num_classes": 5}}
    done = export(network, tmp_path / "net", "safetensors", SIZE, host=host, classes=list("abcde"), mean=[0.5] * 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == ["config.json", "model.safetensors"]
    assert done.size == sum(path.stat().st_size for path in (tmp_path / "net").iterdir())
    assert (done.inputs, done.outputs, done.opset) == ({}, (), None)
    config = json.loads((tmp_path / "net/config.json").read_text())
    assert (config["host"], config["input"], config["classes"]) == (host, list(SIZE), list("abcde"))
    assert config["facts"] == {"mean": [0.5] * 3}
    images = random_images(2, 3, 50, 81)
    with torch.no_grad():
        torch.testing.assert_close(saccade.load(tmp_path / "net")(images), network.eval()(images), rtol=0, atol=0)


def test_weights_that_nobody_can_rebuild_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Sequential cannot be rebuilt .*: give host="):
        export(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "net", "safetensors", SIZE)
    assert list(tmp_path.iterdir()) == []


RUN = """
import sys, torch
sys.modules["saccade"] = sys.modules["timm"] = None
x = torch.load("x.pt", weights_only=True)
if sys.argv[1] == "net.onnx":
    import onnxruntime
    y = torch.from_numpy(onnxruntime.InferenceSession("net.onnx").run(None, {"image": x.numpy()})[0])
else:
    y = torch.export.load("net.pt2").module()(x).detach()
torch.save(y, "y.pt")
"""


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_a_file_runs_without_this_package(name, tmp_path):
    network, images = small_network("cbam"), random_images(2, 3, 33, 47)
    export(network, tmp_path / name, "onnx" if name == "net.onnx" else "torch", SIZE)
    torch.save(images, tmp_path / "x.pt")
    command = [sys.executable, "-c", RUN, name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert distance(network, images, torch.load(tmp_path / "y.pt", weights_only=True)) <= 1e-5


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install 'saccade-attention\[onnx\]'"):
        export(Pair(), tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_this_machine_is_in_a_file(tmp_path):
    network, here = small_network("se"), str(saccade.models.__file__).rpartition("/")[0]
    export(network, tmp_path / "net.onnx", input=SIZE)
    export(network, tmp_path / "net.pt2", "torch", SIZE)
    texts = [(tmp_path / "net.onnx").read_bytes()]
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        texts += [archive.read(part) for part in archive.namelist()]
    assert not [text for text in texts if here.encode() in text or b"site-packages" in text]
    buffer = io.BytesIO()  # the twin: torch's own file tells
    torch.export.save(torch.export.export(network.eval(), (random_images(2, *SIZE),)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert [part for part in archive.namelist() if b"site-packages" in archive.read(part)]


def test_the_python_of_the_documentation_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    write, read = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code, said in ((write, "(1, 3, 64, 64) "), (read, ("cat\n", "dog\n"))):
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)
