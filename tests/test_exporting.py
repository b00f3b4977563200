"""A file is written, read back and compared before it gets its name; what cannot be exported is refused by name."""

import copy
import errno
import io
import json
import logging
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, ResNet

import saccade.models
from saccade import UserError, export, list_mechanisms, plug, plugs, replace, unplug
from saccade.contract.randomize import perturb
from saccade.exporting import LIMIT, OPSET
from saccade.exporting.differences import difference
from saccade.exporting.formats import _contains_pickle
from saccade.parent_class import base_class
from saccade.tensors import tensors_in

SIZE = (3, 64, 48)


def _resnet():
    """The stem and the first two stages of ResNet-18, one block each."""
    host = ResNet(BasicBlock, [1, 1, 1, 1])
    host.layer3 = host.layer4 = nn.Identity()
    host.fc = nn.Linear(128, 5)
    return host


HOSTS = {
    "resnet18": _resnet,
    "mobilenet_v2": lambda: MobileNetV2(5, inverted_residual_setting=[[1, 16, 1, 1], [6, 32, 1, 2]]),
}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")


def _small(mechanism=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
        return perturb(host if mechanism is None else plug(host, mechanism, where=["0", "2"], input=SIZE))


def _resnet10(mechanism, **options):
    return perturb(plug(timm.create_model("resnet10_small", num_classes=5), mechanism, input=SIZE, **options))


def _picture(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _ran(path, picture):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"image": picture.numpy()})]


def _distance(network, picture, found):
    with torch.no_grad():
        wanted = network.eval()(picture)
    return ((wanted - found).abs().max() / wanted.abs().max()).item()


PAIRS = [("resnet18", mechanism) for mechanism in list_mechanisms()]
PAIRS += [("mobilenet_v2", mechanism) for mechanism in list_mechanisms("plug")[::3]]
ONE_SIZE = {"ge": "kernel is made for maps of", "mhsa": "embeddings are for maps of"}
"""Mechanisms whose weights are for maps of one size, and what is said of another."""


def _with(host, mechanism):
    """The host with the mechanism at the last site of its paper, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if mechanism in list_mechanisms("replace"):
            return perturb(replace(HOSTS[host](), mechanism, where="paper[-1:]", start="paper", input=SIZE))
        start = "neutral" if host == "resnet18" else "paper"
        return perturb(plug(HOSTS[host](), mechanism, where="paper[-1]", start=start, input=SIZE))


@pytest.mark.parametrize(("host", "mechanism"), PAIRS)
def test_every_mechanism_in_onnx(host, mechanism, tmp_path):
    """The last site of each pair, every third in a second host; benchmarks/export.py has all sites at full width."""
    network, dynamic = _with(host, mechanism), "all"
    shapes = [(1, 3, 64, 48), (3, 3, 75, 37), (1, 3, 75, 91), (9, 3, 64, 48)]
    picture = _picture(2, 3, 50, 81)
    if mechanism in ONE_SIZE:
        with pytest.raises(UserError, match=f"3×64×48 only.*{ONE_SIZE[mechanism]}.*dynamic='batch'"):
            export(network, tmp_path / "net.onnx", input=SIZE)
        dynamic, shapes = "batch", [shape for shape in shapes if shape[2:] == SIZE[1:]]
        picture = _picture(2, *SIZE)
    done = export(network, tmp_path / "net.onnx", input=SIZE, dynamic=dynamic)
    assert [row.shape for row in done.compared if dynamic == "all" or row.shape in shapes][:4] == shapes
    assert all(row.difference <= LIMIT / 2 for row in done.compared)  # each channel by a scale of its own
    (found,) = _ran(tmp_path / "net.onnx", picture)
    assert _distance(network, picture, found) <= 1e-5
    if plugs(network) and (plugged := plugs(network)[0].module).a is not None:  # the twin: another a, another network
        other = copy.deepcopy(network)
        with torch.no_grad():
            plugs(other)[0].module.a.copy_(plugged.a - 0.5)
        assert _distance(other, picture, found) > LIMIT
    assert _distance(unplug(network), picture, found) > LIMIT


def test_what_is_said_of_a_file(tmp_path):
    network = _resnet10("se", where="stage[-1]", rd_ratio=0.25)
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
    network = _small("cbam")
    path = tmp_path / "net.pt2"
    done = export(network, path, "torch", SIZE, classes=list("abcde"), mean=[0.1, 0.2, 0.3])
    assert (done.size, done.opset, done.inputs) == (
        path.stat().st_size,
        None,
        {"image": ("batch", 3, "height", "width")},
    )
    assert all(row.difference <= 1e-6 for row in done.compared)
    facts = {"saccade.json": ""}
    again = torch.export.load(path, extra_files=facts)
    assert json.loads(facts["saccade.json"]) == done.metadata
    assert done.metadata["mean"] == [0.1, 0.2, 0.3]
    picture = _picture(2, 3, 50, 81)
    found = again.module()(picture).detach()
    assert _distance(network, picture, found) <= 1e-6
    assert _distance(unplug(network), picture, found) > LIMIT


def test_a_program_of_torch_holds_no_pickle(tmp_path):
    network = _small("se")
    export(network, tmp_path / "ours.pt2", "torch", SIZE)
    assert not _contains_pickle(tmp_path / "ours.pt2")
    with zipfile.ZipFile(tmp_path / "ours.pt2") as archive:
        assert not [part for part in archive.namelist() if archive.read(part)[:1] == b"\x80" or part.endswith(".pkl")]
    program = torch.export.export(network.eval(), (_picture(2, *SIZE),))
    torch.export.save(program, tmp_path / "theirs.pt2")  # the twin: with its example inputs
    assert _contains_pickle(tmp_path / "theirs.pt2")


def test_weights_and_config(tmp_path):
    network = _resnet10("cbam")
    host = {"timm": "resnet10_small", "options": {"num_classes": 5}}
    done = export(network, tmp_path / "net", "safetensors", SIZE, host=host, classes=list("abcde"), mean=[0.5] * 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == ["config.json", "model.safetensors"]
    assert done.size == sum(path.stat().st_size for path in (tmp_path / "net").iterdir())
    assert (done.inputs, done.outputs, done.opset) == ({}, (), None)
    config = json.loads((tmp_path / "net/config.json").read_text())
    assert (config["host"], config["input"], config["classes"]) == (host, list(SIZE), list("abcde"))
    assert config["facts"] == {"mean": [0.5] * 3}
    picture = _picture(2, 3, 50, 81)
    with torch.no_grad():
        assert torch.equal(saccade.load(tmp_path / "net")(picture), network.eval()(picture))


def test_weights_that_nobody_can_rebuild_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Sequential cannot be rebuilt .*: say by host= how it is made"):
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
    network, picture = _small("cbam"), _picture(2, 3, 33, 47)
    export(network, tmp_path / name, "onnx" if name == "net.onnx" else "torch", SIZE)
    torch.save(picture, tmp_path / "x.pt")
    command = [sys.executable, "-c", RUN, name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _distance(network, picture, torch.load(tmp_path / "y.pt", weights_only=True)) <= 1e-5


def test_the_network_stays_as_it_was(tmp_path):
    network = _small("das").to(torch.bfloat16).train()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    done = export(network, tmp_path / "net.onnx", input=SIZE, dynamic="none")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) and value.dtype == before[key].dtype
               for key, value in network.state_dict().items())  # fmt: skip
    assert done.compared[0].difference <= 1e-5  # in float32, of a copy
    assert [p.requires_grad for p in network.parameters()] == [True] * len(list(network.parameters()))
    network.float()(_picture(2, *SIZE)).sum().backward()  # and it still learns
    assert plugs(network)[0].module.a.grad is not None


@pytest.mark.parametrize(
    ("dynamic", "axes", "shapes"),
    [
        ("batch", ("batch", 3, 64, 48), [(1, 3, 64, 48), (3, 3, 64, 48), (9, 3, 64, 48)]),
        ("none", (1, 3, 64, 48), [(1, 3, 64, 48), (1, 3, 64, 48)]),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_axes_that_are_fixed(format, dynamic, axes, shapes, tmp_path):
    done = export(_small(), tmp_path / "net", format, SIZE, dynamic=dynamic)
    assert (done.inputs["image"], done.smallest) == (axes, (64, 48))
    assert [row.shape for row in done.compared] == shapes
    if format == "onnx":
        shape = onnx.load(str(tmp_path / "net")).graph.input[0].type.tensor_type.shape.dim
        assert tuple(each.dim_param or each.dim_value for each in shape) == axes


def test_a_picture_so_small_that_a_map_is_one_pixel(tmp_path):
    host = nn.Sequential(*(nn.Conv2d(3 if n == 0 else 16, 16, 3, 2, 1) for n in range(5)), nn.Flatten(2))
    network = plug(host, "se", where="4", input=(3, 32, 32))
    done = export(perturb(network), tmp_path / "net.onnx", input=(3, 32, 32))
    assert done.compared[0].shape == (1, 3, 32, 32)
    picture = _picture(4, 3, 32, 41)
    assert _distance(network, picture, _ran(tmp_path / "net.onnx", picture)[0]) <= 1e-5


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)


class Named(Body):
    def forward(self, x):
        y = self.conv(x)
        return {"map": y, "nothing": None, "logits": y.mean((2, 3))}


class Pair(Body):
    def forward(self, x):
        y = self.conv(x)
        return y.mean((2, 3)), [y, -y]


@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("network", "names"), [(Named, ("map", "logits")), (Pair, ("output_0", "output_1", "output_2"))]
)
def test_several_outputs(format, network, names, tmp_path):
    done = export(network(), tmp_path / "net", format, (3, 20, 24))
    assert done.outputs == names
    if format == "onnx":
        assert [output.name for output in onnx.load(str(tmp_path / "net")).graph.output] == list(names)


class Branch(Body):
    def forward(self, x):
        y = self.conv(x)
        if y.mean() > 0:
            y = 2 * y
        return y.mean((2, 3))


class Item(Body):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y * float(y.max())


class Array(Body):
    def forward(self, x):
        return torch.from_numpy(np.tanh(self.conv(x).mean((2, 3)).detach().numpy()))


class Decomposed(Body):
    def forward(self, x):
        return torch.linalg.svdvals(self.conv(x).mean(1))


class FixedSize(Body):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8 * 20 * 24, 5)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class Parity(Body):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if x.shape[2] % 2 == 0 else 2 * y


class Endless(Body):
    def forward(self, x):
        return self.conv(x).mean((2, 3)) / 0


class Twice(Body):
    def forward(self, x, again):
        return self.conv(x) + again


class Text(Body):
    def forward(self, x):
        return "a picture"


REFUSED = {
    ("onnx", Branch): r"Branch cannot be exported: its forward makes a Python number or decision of the values of a "
    r"picture, .* \(test_exporting.py, line \d+: if y.mean\(\) > 0:\)",
    ("torch", Branch): "Branch cannot be exported: its forward makes a Python number or decision",
    ("onnx", Item): r"Item cannot be exported: .*line \d+: return y \* float\(y.max\(\)\)\)",
    ("torch", Array): r"Array cannot be exported: .*numpy.*\(test_exporting.py, line \d+: return torch.from_numpy",
    ("onnx", Decomposed): "ONNX export does not support the operator aten._linalg_svd",
    ("onnx", FixedSize): r"FixedSize takes images of 3×20×24 only; at another size: .*mat1 and mat2 .*"
    r"Export it for that size, dynamic='batch'",
    ("torch", FixedSize): "FixedSize takes images of 3×20×24 only",
    ("onnx", Parity): r"Parity at 3×3×23×19: the file differs from the network by 5.0e-01 of the largest value of a "
    r"channel; the limit is 1e-04. Export it for one size, dynamic='batch' \(traced for certain sizes: "
    r"Guard failed: x.size\(\)\[2\] % 2 == 0\)",
    ("torch", Parity): r"Parity at 3×3×23×19: the file differs from the network by 5.0e-01 .* % 2 == 0\)",
    ("onnx", Endless): "Endless at 1×3×20×24: the network itself returns values that are not finite",
    ("onnx", Twice): r"Twice does not run on 2×3×20×24: TypeError: .*'again'.*its forward must take one batch"[:47],
    ("onnx", Text): "Text returns no tensor for 2×3×20×24",
}  # fmt: skip


@pytest.mark.parametrize(("format", "kind"), REFUSED, ids=lambda each: getattr(each, "__name__", each))
def test_a_network_that_cannot_be_exported_is_told_why(format, kind, tmp_path, capfd):
    (tmp_path / "net").write_text("an older file")
    with pytest.raises(UserError, match=REFUSED[format, kind]):
        export(kind(), tmp_path / "net", format, (3, 20, 24))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("net", "an older file")]
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("kind", [FixedSize, Parity])
def test_for_one_size_they_can_be_exported(kind, tmp_path):
    network = kind()
    done = export(network, tmp_path / "net", input=(3, 20, 24), dynamic="batch")
    assert [row.shape for row in done.compared] == [(1, 3, 20, 24), (3, 3, 20, 24), (9, 3, 20, 24)]
    picture = _picture(5, 3, 20, 24)
    assert _distance(network, picture, _ran(tmp_path / "net", picture)[0]) <= 1e-5


def test_the_decomposed_network_is_no_trouble_for_torch(tmp_path):
    assert export(Decomposed(), tmp_path / "net", "torch", (3, 20, 24)).compared[1].difference <= 1e-5


def test_a_file_that_computes_something_else_gets_no_name(tmp_path, monkeypatch):
    saved = onnx.save

    def damage(proto, path):
        kernel = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(kernel.raw_data, np.float32).copy()
        values *= 1.5
        kernel.raw_data = values.tobytes()
        saved(proto, path)

    monkeypatch.setattr(onnx, "save", damage)
    with pytest.raises(
        UserError, match=r"Sequential at 1×3×64×48: the file differs from the network by \d\.\de-0[1-3]"
    ):
        export(_small("se"), tmp_path / "net.onnx", input=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_back_gets_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "save", lambda proto, path: Path(path).write_bytes(b"\x08\x07no model"))
    with pytest.raises(UserError, match="Pair as ONNX cannot be read back: "):
        export(Pair(), tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "torch", "safetensors"])
def test_an_interruption_leaves_the_old_file(format, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(saccade.exporting.export_source.ExportSource, "compare", stop)
    path = tmp_path / "net"
    if format == "safetensors":
        path.mkdir()
        (path / "config.json").write_text("old")
    else:
        path.write_text("old")
    before = sorted((p.name, p.read_bytes() if p.is_file() else None) for p in tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        export(_small() if format != "safetensors" else _resnet10("eca"), path, format, SIZE)
    assert sorted((p.name, p.read_bytes() if p.is_file() else None) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onxn"}, "format is one of onnx, torch, safetensors; got 'onxn'. Did you mean 'onnx'"),
        ({"format": None}, "format is one of onnx, torch, safetensors; got None"),
        ({"dynamic": "size"}, "dynamic is one of all, batch, none; got 'size'"),
        ({"path": "folder"}, "folder is a folder; name the file to be written"),
        ({"path": "file", "format": "safetensors"}, "file is a file; .* are written into a folder"),
        ({"path": "gone/net.onnx"}, "there is no folder .*gone to write net.onnx into"),
        ({"path": "file/net.onnx"}, "there is no folder .*file to write net.onnx into"),
        ({"path": "n" * 300}, "cannot write .*: File name too long"),
        ({"path": "n" * 300, "format": "safetensors"}, "cannot write .*: File name too long"),
        ({"input": (3, 20)}, r"an input size is three positive integers \(C, H, W\), got \(3, 20\)"),
        ({"input": (1, 20, 24)}, "Pair does not run on 2×1×20×24: RuntimeError: Given groups=1, weight of size"),
        ({"input": (3, 20.0, 24)}, r"three positive integers \(C, H, W\), got \(3, 20.0, 24\)"),
        ({"input": 32}, r"three positive integers \(C, H, W\), got 32"),
        ({"input": torch.zeros(1, 3, 20, 24)}, r"got a tensor of \(1, 3, 20, 24\)"),
        ({"host": "resnet18"}, r"host is a mapping such as \{'timm': 'resnet18'\}; got 'resnet18'"),
        ({"classes": 5}, "classes is a list of names; got 5"),
        ({"classes": "abc"}, "classes is a list of names; got 'abc'"),
        ({"plugs": [], "smallest": [5, 5]}, "a fact cannot be called plugs, smallest"),
        ({"multiple": 3}, "a fact cannot be called multiple"),
        ({"mean": [float("nan")]}, "a fact to be exported is no JSON: Out of range float"),
        ({"loss": torch.zeros(2)}, "a fact to be exported is no JSON"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("here")
    path = tmp_path / arguments.pop("path", "net.onnx")
    with pytest.raises(UserError, match=message):
        export(Pair(), path, **({"input": (3, 20, 24)} | arguments))
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder"]


class OfSize(Body):
    """Decides by the size or number of its pictures."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        pictures, _, height, width = x.shape
        if self.kind == "boxes":
            return torch.cat([1e3 * y, (y if height % 2 == 0 else 3 * y).sigmoid()], 1)
        plain = {"low": height <= 100, "few": pictures < 8, "tall": width <= height, "area": height * width < 3000}
        return y if plain[self.kind] else 3 * y


@pytest.mark.parametrize(
    ("kind", "dynamic", "message"),
    [
        ("low", "all", "traced for a height of at most 100 only: .*Export it for one size, dynamic='batch'"),
        ("few", "all", "traced for a batch of at most 7 only: .*dynamic='none'"),
        ("few", "batch", "traced for a batch of at most 7 only"),
        ("tall", "all", r"OfSize at 1×3×37×45: the file differs .*Guard failed: x.size\(\)\[3\] <= x.size\(\)\[2\]"),
        ("area", "all", r"OfSize at .*: the file differs .*Guard failed"),
        ("boxes", "all", r"OfSize at 3×3×37×25: the file differs"),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_forward_that_decides_by_size_is_refused(format, kind, dynamic, message, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = OfSize(kind)
    with pytest.raises(UserError, match=message):
        export(network, tmp_path / "net", format, (3, 32, 32), dynamic=dynamic)
    assert list(tmp_path.iterdir()) == []
    last = "none" if kind == "few" else "batch"
    assert export(network, tmp_path / "net", format, (3, 32, 32), dynamic=last).compared[0].difference <= 1e-5


class Halved(Body):
    def forward(self, x):
        y = self.conv(x)
        return y + nn.functional.interpolate(nn.functional.max_pool2d(y, 4), scale_factor=4)


def test_multiples_that_a_network_needs_are_told(tmp_path):
    done = export(Halved(), tmp_path / "net.onnx", input=(3, 32, 48))
    assert done.metadata["multiple"] == 4
    entries = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert entries["multiple"] == "4"
    assert "multiple" not in export(Pair(), tmp_path / "net.onnx", input=(3, 32, 48)).metadata


def test_a_small_channel_has_a_scale_of_its_own():
    wanted = torch.tensor([[100.0, 0.5], [50.0, 0.25]])
    found = torch.tensor([[100.0, 0.6], [50.0, 0.25]])
    assert difference([wanted], [found], "") == pytest.approx(0.1 / 5)  # a twentieth of 100 at least
    boxes, wrong = torch.zeros(1, 7, 5), torch.zeros(1, 7, 5)
    boxes[..., :4], boxes[..., 4] = 8.0, 0.5
    wrong[..., :4], wrong[..., 4] = 8.0, 0.4
    assert difference([boxes], [wrong], "") == pytest.approx(0.2)
    assert difference([torch.tensor(4.0)], [torch.tensor(5.0)], "") == 0.25
    assert difference([torch.tensor([0.0, 4.0])], [torch.tensor([1.0, 4.0])], "") == 0.25
    assert difference([torch.zeros(2, 3)], [torch.zeros(2, 3)], "") == 0.0


class Unsettled(Body):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += self.kind == "counts"
        return self.conv(x) + self.count + torch.randn(1) * (self.kind == "draws")


@pytest.mark.parametrize("kind", ["counts", "draws"])
def test_what_computes_something_else_each_time_is_refused_and_the_generator_kept(kind, tmp_path):
    torch.manual_seed(5)
    network, state = Unsettled(kind), torch.get_rng_state()
    with pytest.raises(UserError, match="Unsettled is not deterministic in eval mode"):
        export(network, tmp_path / "net", input=(3, 20, 24))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.count.item() == 0
    # The twin: a draw that changes nothing is exported, and leaves the generator too.
    export(Unsettled("neither"), tmp_path / "net", "torch", (3, 20, 24), dynamic="none")
    torch.set_rng_state(state)
    network(torch.zeros(1, 3, 20, 24))
    assert kind == "counts" or not torch.equal(torch.get_rng_state(), state)


def _normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    network(torch.zeros(1, 3, 9, 9))
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lambda x: x, "the model must be a torch.nn.Module, got function"),
        (lambda: nn.DataParallel(Pair()), "DataParallel spreads a network over devices: export its .module"),
        (lambda: Pair().to("meta"), "Pair is on the meta device, without values"),
        (_normed, "Sequential cannot be copied: .*remove_weight_norm"),
    ],
)
def test_networks_that_are_no_networks_yet(make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(make(), tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


class Mixed(Body):
    def forward(self, x):
        return [self.conv(x), 3, None]


class Image(Body):
    def forward(self, x):
        return {"image": self.conv(x), "logits": self.conv(x).mean((2, 3))}


@pytest.mark.parametrize(("kind", "names"), [(Mixed, ("output_0",)), (Image, ("image_output", "logits"))])
def test_outputs_that_need_another_name_or_are_no_tensors(kind, names, tmp_path):
    network = kind()
    assert export(network, tmp_path / "net.onnx", input=(3, 20, 24)).outputs == names
    picture = _picture(2, 3, 21, 26)
    with torch.no_grad():
        wanted = list(tensors_in(network(picture)))
    torch.testing.assert_close(_ran(tmp_path / "net.onnx", picture), wanted, rtol=1e-4, atol=1e-5)
    assert export(network, tmp_path / "net.pt2", "torch", (3, 20, 24)).outputs == names


def test_another_default_dtype(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        done = export(Pair(), tmp_path / "net.onnx", input=(3, 20, 24), dynamic="none")
    finally:
        torch.set_default_dtype(torch.float32)
    assert done.compared[0].difference <= 1e-5


@pytest.mark.parametrize("format", ["onnx", "torch", "safetensors"])
def test_a_full_disk_is_told_by_the_path_that_was_given(format, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_, **__):
        raise full

    monkeypatch.setattr(onnx, "save", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr("saccade.saving.writing.save_file", fail)
    network = Pair() if format != "safetensors" else _resnet10("eca")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / 'net'))}: .*No space left on device") as told:
        export(network, tmp_path / "net", format, (3, 32, 32), dynamic="batch")
    assert ".part" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_detector_is_refused_by_the_line_that_decides(tmp_path):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.ReLU())
    backbone.out_channels = 8
    anchors = AnchorGenerator(sizes=((16,),), aspect_ratios=((1.0,),))
    network = RetinaNet(backbone, 3, anchor_generator=anchors, min_size=32, max_size=64)
    with pytest.raises(UserError, match=r"RetinaNet cannot be exported: .*\(\w+\.py, line \d+: .+\)"):
        export(network, tmp_path / "net.onnx", input=(3, 32, 40), dynamic="none")
    assert list(tmp_path.iterdir()) == []


def test_there_are_as_many_classes_as_logits(tmp_path):
    network = nn.Sequential(Named().conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="there are 2 classes, and the network returns 8 values for a picture"):
        export(network, tmp_path / "net.onnx", input=(3, 20, 24), classes=["a", "b"])


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install 'saccade-attention\[onnx\]'"):
        export(Pair(), tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_lost_a_plug_is_not_exported(tmp_path):
    network = _small("se")
    plugs(network)
    parent = network.get_submodule(plugs(network)[0].parent)
    parent.__class__ = base_class(parent)
    with pytest.raises(UserError, match="is lost"):
        export(network, tmp_path / "net.onnx", input=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_network_is_refused(tmp_path):
    for network in (torch.compile(Pair()), nn.Sequential(torch.compile(nn.Conv2d(3, 4, 3)))):
        with pytest.raises(UserError, match="is compiled, all or in part: export the network as it was before"):
            export(network, tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_this_machine_is_in_a_file(tmp_path):
    network, here = _small("se"), str(saccade.models.__file__).rpartition("/")[0]
    export(network, tmp_path / "net.onnx", input=SIZE)
    export(network, tmp_path / "net.pt2", "torch", SIZE)
    texts = [(tmp_path / "net.onnx").read_bytes()]
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        texts += [archive.read(part) for part in archive.namelist()]
    assert not [text for text in texts if here.encode() in text or b"site-packages" in text]
    buffer = io.BytesIO()  # the twin: torch's own file tells
    torch.export.save(torch.export.export(network.eval(), (_picture(2, *SIZE),)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert [part for part in archive.namelist() if b"site-packages" in archive.read(part)]


def test_the_python_of_the_documentation_runs(tmp_path):
    page = (Path(__file__).parents[1] / "docs/export.md").read_text(encoding="utf-8")
    write, read = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code, said in ((write, "(1, 3, 64, 64) "), (read, ("cat\n", "dog\n"))):
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)
