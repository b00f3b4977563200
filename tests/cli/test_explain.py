"""``saccade explain``: files written, lines printed, words refused."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import saccade

pytest.importorskip("pytorch_grad_cam")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A saved network, a picture, weights of a network of timm, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), folder / "weights.safetensors", {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"})
    small = timm.create_model("test_resnet", num_classes=3)
    saccade.plug(small, "cbam", where="stage", input=(3, 64, 64), start="paper")
    saccade.save(small, folder / "run", host={"timm": "test_resnet", "options": {"num_classes": 3}},
                 input=(3, 64, 64), classes=["ant", "bee", "cow"], mean=[0.5] * 3, std=[0.5] * 3)  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    return folder


def test_a_run(run, home, tmp_path):
    out = tmp_path / "maps.html"
    code, printed, err = run("explain", f"{home}/run", f"{home}/a.png", "--class", "bee", "--layer", "layer2,layer4.0",
                             "--region", "10,10,40,30", "--out", str(out))  # fmt: skip
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0].startswith("a.png  run  bee ")
    assert lines[-1] == str(out)
    assert sum("sfd" in line for line in lines) == 2 * 4
    assert "layer4.0" in out.read_text(encoding="utf-8")


def test_weights_from_a_file_and_random_ones(run, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("explain", "test_resnet", f"{home}/a.png", "--with", f"{home}/run", "--json", "--size", "64")
    code, printed, _ = run(*arguments, "--checkpoint", f"{home}/weights.safetensors")
    assert code == 0
    found = json.loads(printed)
    assert [row["network"] for row in found["explained"]] == ["test_resnet", "run"]
    assert found["notes"] == []
    assert (tmp_path / found["file"]).read_bytes().startswith(b"\x89PNG")
    code, printed, _ = run(*arguments)
    assert "random" in json.loads(printed)["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUN", "HOME/none.png"), "there is no image"),
        (("RUN", "HOME/b.png"), "is not an image in"),
        (("RUN", "HOME/a.png", "--out", "HOME/x.gif"), ".png or .html"),
        (("RUN", "HOME/a.png", "--class", "bea"), "Did you mean 'bee'"),
        (("RUN", "HOME/a.png", "--layer", "layer5"), "no layer 'layer5'"),
        (("RUN", "HOME/a.png", "--method", "gradcamm"), "Did you mean 'gradcam'"),
        (("RUN", "HOME/a.png", "--region", "1,2,3"), "nor is it a box"),
        (("RUN", "HOME/a.png", "--box", "1"), "no detector"),
        (("test_resnt", "HOME/a.png"), "Did you mean 'test_resnet"),
        (("test_resnt", "HOME/a.png", "--pretrained"), "Did you mean 'test_resnet"),
        (("HOME", "HOME/a.png"), "config.json"),
        (("RUN", "HOME/a.png", "--checkpoint", "HOME/weights.safetensors"), "has its own weights"),
        (("test_vit", "HOME/a.png", "--size", "100"), "does not run on an image of 3×100×100"),
        (("RUN",), "Missing argument"),
    ],
)
def test_errors_write_nothing(run, home, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = [a.replace("HOME", str(home)).replace("RUN", f"{home}/run") for a in arguments]
    code, out, err = run("explain", *given)
    assert code == 2
    assert message in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
