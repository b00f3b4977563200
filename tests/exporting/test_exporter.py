"""A file appears under its path only after it was verified; the network is left as it was."""

import copy
import errno
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import saccade.models
from export_samples import (
    SIZE,
    Pair,
    random_images,
    resnet10,
    small_network,
)
from saccade import UserError, export, plugs


def test_the_network_stays_as_it_was(tmp_path):
    network = small_network("das").to(torch.bfloat16).train()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    done = export(network, tmp_path / "net.onnx", input=SIZE, dynamic="none")
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert {module.training for module in network.modules()} == {True}
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert done.compared[0].difference <= 1e-5  # in float32, of a copy
    assert [p.requires_grad for p in network.parameters()] == [True] * len(list(network.parameters()))
    network.float()(random_images(2, *SIZE)).sum().backward()  # and it still learns
    assert plugs(network)[0].module.a.grad is not None


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
        export(small_network("se"), tmp_path / "net.onnx", input=SIZE)
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
        export(small_network() if format != "safetensors" else resnet10("eca"), path, format, SIZE)
    assert sorted((p.name, p.read_bytes() if p.is_file() else None) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("format", ["onnx", "torch", "safetensors"])
def test_a_full_disk_is_told_by_the_path_that_was_given(format, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_, **__):
        raise full

    monkeypatch.setattr(onnx, "save", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr("saccade.saving.writing.save_file", fail)
    network = Pair() if format != "safetensors" else resnet10("eca")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / 'net'))}: .*No space left on device") as told:
        export(network, tmp_path / "net", format, (3, 32, 32), dynamic="batch")
    assert ".part" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


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
        ({"plugs": [], "smallest": [5, 5]}, "metadata keys plugs, smallest are reserved"),
        ({"multiple": 3}, "metadata keys multiple are reserved"),
        ({"mean": [float("nan")]}, "the metadata is not JSON-serialisable: Out of range float"),
        ({"loss": torch.zeros(2)}, "the metadata is not JSON-serialisable"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("here")
    path = tmp_path / arguments.pop("path", "net.onnx")
    with pytest.raises(UserError, match=message):
        export(Pair(), path, **({"input": (3, 20, 24)} | arguments))
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder"]
